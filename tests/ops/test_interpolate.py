"""Interpolate: against plain torch, shared and own attributes, its derivatives, its errors."""

import sys

import pytest
import torch
from support.triangles import soup
from torch.autograd import gradcheck

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.call import launch
from dreamfusion_ngp.ops.interpolate import interpolate
from dreamfusion_ngp.ops.rasterise import Fragments, rasterise

OPS = torch.ops.dreamfusion_ngp


def problem(copies, channels=5, dtype=torch.float32, size=(24, 32), triangles=24):
    position, faces = soup(1, views=2, triangles=triangles, dtype=torch.float64)
    fragments = rasterise(position, faces, size)
    generator = torch.Generator().manual_seed(2)
    attribute = torch.randn(copies, position.shape[1], channels, generator=generator, dtype=torch.float64)
    return attribute.to(dtype), faces, fragments._replace(barycentric=fragments.barycentric.to(dtype))


def run(op, attribute, faces, fragments, device="cpu"):
    leaves = [v.to(device).clone().requires_grad_() for v in (attribute, fragments.barycentric)]
    out = op(leaves[0], faces.to(device), fragments._replace(face=fragments.face.to(device), barycentric=leaves[1]))
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, incoming)]


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("copies", [1, 2])
def test_matches_the_reference(device, copies, channels):
    exact = problem(copies, channels, torch.float64)
    want = run(reference.interpolate, *exact)
    for got, expected in zip(run(interpolate, *exact), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
    for got, expected in zip(run(interpolate, *problem(copies, channels), device), want, strict=True):
        torch.testing.assert_close(got.cpu().double(), expected, atol=2e-4, rtol=2e-5)


def test_is_zero_where_nothing_is(device):
    attribute, faces, fragments = problem(2)
    face = fragments.face.clone()
    face[0, :3], face[1, :3] = faces.shape[0], -7  # out of range
    fragments = fragments._replace(face=face)
    got = run(interpolate, attribute, faces, fragments, device)
    empty = ((face < 0) | (face >= faces.shape[0])).to(device)
    assert empty.any() and not got[0][empty].any() and not got[2][empty].any()
    assert got[0][~empty].any()


def test_gradient_is_the_same_for_any_number_of_threads(restore_threads):
    arguments = problem(1, size=(64, 48))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(interpolate, *arguments))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


@pytest.mark.parametrize("copies", [1, 2])
def test_gradcheck(copies):
    attribute, faces, fragments = problem(copies, 2, torch.float64, (6, 7), 6)

    def function(attribute, barycentric):
        return interpolate(attribute, faces, fragments._replace(barycentric=barycentric))

    leaves = attribute.requires_grad_(), fragments.barycentric.detach().requires_grad_()
    assert gradcheck(function, leaves, atol=1e-7, rtol=1e-6)


def test_an_attribute_without_gradient_costs_no_sums(device, monkeypatch):
    attribute, faces, fragments = problem(1, 3)
    want = run(interpolate, attribute, faces, fragments, device)[2]
    wanted = []
    module = sys.modules[interpolate.__module__]
    monkeypatch.setattr(module, "launch", lambda *a, **k: wanted.append(k.get("d_attribute", "")) or launch(*a, **k))
    leaf = fragments.barycentric.to(device).requires_grad_()
    moved = fragments._replace(face=fragments.face.to(device), barycentric=leaf)
    out = interpolate(attribute.to(device), faces.to(device), moved)
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(out)
    assert torch.equal(torch.autograd.grad(out, leaf, incoming)[0], want)
    assert wanted == ["", None]


def test_nothing(device):
    faces, face = torch.zeros(0, 3, dtype=torch.int32, device=device), torch.full((1, 2, 2), -1, device=device).int()
    fragments = Fragments(face, torch.ones(1, 2, 2, device=device), torch.zeros(1, 2, 2, 3, device=device))
    for vertices, channels in ((0, 3), (4, 0)):
        attribute = torch.zeros(1, vertices, channels, device=device, requires_grad=True)
        out = interpolate(attribute, faces, fragments)
        assert out.shape == (1, 2, 2, channels) and not out.any()
        assert torch.autograd.grad(out.sum(), attribute)[0].shape == attribute.shape


def test_opcheck(device):
    attribute, faces, fragments = problem(1, 2, size=(6, 7))
    tensors = (attribute.to(device).requires_grad_(), fragments.barycentric.to(device).requires_grad_())
    torch.library.opcheck(OPS.interpolate.default, (*tensors, faces.to(device), fragments.face.to(device)))


def test_errors_name_the_argument():
    attribute, faces, fragments = problem(2)
    for change, error, message in (
        ((attribute[0], faces, fragments), ValueError, r"interpolate: attribute must be \(B, V, C\), got"),
        ((attribute.int(), faces, fragments), TypeError, "interpolate: attribute must be torch.float32 or"),
        ((attribute, faces.long(), fragments), TypeError, "interpolate: faces must be torch.int32"),
        ((attribute.repeat(2, 1, 1), faces, fragments), ValueError, "interpolate: attribute must have 1 or 2 views"),
        ((attribute, faces, fragments._replace(face=fragments.depth)), TypeError, "interpolate: face must be"),
        ((attribute, faces, fragments.face), TypeError, "interpolate: fragments must be the Fragments of rasterise"),
        ((attribute, faces, fragments._replace(barycentric=fragments.depth)), TypeError, "interpolate: barycentric"),
    ):
        with pytest.raises(error, match=message):
            interpolate(*change)


def test_is_differentiable_once():
    attribute, faces, fragments = problem(1)
    leaf = attribute.requires_grad_()
    out = interpolate(leaf, faces, fragments)
    (gradient,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once only"):
        torch.autograd.grad(gradient.sum(), leaf)
