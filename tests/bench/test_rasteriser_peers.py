"""Others' rasterisers see the ball that ours sees: the same picture's gradients, where they are installed."""

import sys
from types import ModuleType

import pytest
import torch

from dreamfusion_ngp.bench.cases import LeftOut
from dreamfusion_ngp.bench.mesh_cases import Ball
from dreamfusion_ngp.bench.peers import cuda_rasterisers, rasterisers
from dreamfusion_ngp.ops.antialias import antialias
from dreamfusion_ngp.ops.interpolate import interpolate
from dreamfusion_ngp.ops.rasterise import Fragments, rasterise

CPU = torch.device("cpu")


def test_mitsubas_gradient_on_colours_is_ours():
    """Of all colours together: each sample's weight lands on the corners of the triangle that it hits."""
    pytest.importorskip("mitsuba")
    ball = Ball(64, CPU, triangles=2000)
    try:
        peer = rasterisers.mitsuba_raster(ball)
    except LeftOut as why:
        pytest.skip(str(why))
    _, colors = peer.call()
    wanted = ball.step(torch.float64, CPU)()[1][0].sum(0)
    torch.testing.assert_close(torch.tensor(colors).reshape(-1, 3).sum(0).double(), wanted, rtol=0.01, atol=0)
    assert "noise" in peer.note


def test_an_old_llvm_is_said_instead_of_ending_the_process(monkeypatch):
    drjit = pytest.importorskip("drjit")
    monkeypatch.setattr(drjit, "has_backend", lambda backend: True)
    monkeypatch.setattr(drjit.detail, "llvm_version", lambda: (14, 0, 6))
    with pytest.raises(LeftOut, match="no LLVM library from 17 on"):
        rasterisers.mitsuba_raster(Ball(16, CPU, triangles=100))


def test_deodr_draws_the_ball():
    pytest.importorskip("deodr")
    peer = rasterisers.deodr_raster(Ball(32, CPU, triangles=500))
    assert peer.call() is None


def nvdiffrast_of_ours() -> ModuleType:
    """nvdiffrast's functions, as its documentation has them, by our ops: rows from the bottom up."""
    torch_part = ModuleType("nvdiffrast.torch")

    def turned(fragments: Fragments) -> Fragments:
        return Fragments(*(v.flip(1) for v in fragments))

    def drawn(context, position, faces, resolution):
        return turned(rasterise(position, faces, tuple(resolution))), None

    def interpolated(values, seen, faces):
        return interpolate(values, faces, turned(seen)).flip(1), None

    def smooth(picture, seen, position, faces):
        return antialias(picture.flip(1), position, faces, turned(seen)).flip(1)

    parts = dict(RasterizeCudaContext=lambda device: None, rasterize=drawn, interpolate=interpolated, antialias=smooth)
    vars(torch_part).update(parts)
    return torch_part


def drtk_of_ours() -> ModuleType:
    """DRTK's functions, as its documentation has them, by our ops: pixels and depths for positions, channels first."""
    module = ModuleType("drtk")

    def clip(pixels, size):
        x, y, w = pixels.unbind(-1)
        return torch.stack([((x + 0.5) * 2 / size - 1) * w, (1 - (y + 0.5) * 2 / size) * w, w * (w / 2 - 1.5), w], -1)

    def drawn(pixels, faces, height, width):
        return rasterise(clip(pixels, width), faces, (height, width)).face

    def rendered(pixels, faces, index):
        seen = rasterise(clip(pixels, index.shape[2]), faces, tuple(index.shape[1:]))
        return None, seen.barycentric.permute(0, 3, 1, 2)

    def interpolated(values, faces, index, barycentric):
        seen = Fragments(index, barycentric[:, 0], barycentric.permute(0, 2, 3, 1).contiguous())
        return interpolate(values, faces, seen).permute(0, 3, 1, 2)

    def smooth(pixels, faces, barycentric, picture, index):
        seen = Fragments(index, barycentric[:, 0], barycentric.permute(0, 2, 3, 1).contiguous())
        image = antialias(picture.permute(0, 2, 3, 1).contiguous(), clip(pixels, index.shape[2]), faces, seen)
        return image.permute(0, 3, 1, 2)

    parts = dict(rasterize=drawn, render=rendered, interpolate=interpolated, edge_grad_estimator=smooth)
    vars(module).update(parts)
    return module


@pytest.mark.parametrize(
    ("names", "module", "maker"),
    [
        (("nvdiffrast", "nvdiffrast.torch"), nvdiffrast_of_ours, cuda_rasterisers.nvdiffrast_raster),
        (("drtk",), drtk_of_ours, cuda_rasterisers.drtk_raster),
    ],
)
def test_peers_on_a_gpu_draw_the_same_picture(monkeypatch, names, module, maker):
    """With their functions made of ours, which shows axes, rows, channels and units, all gradients are ours."""
    made = module()
    package = ModuleType(names[0])
    package.torch = made  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        monkeypatch.setitem(sys.modules, name, made if name == names[-1] else package)
    ball = Ball(48, CPU, triangles=600, views=2)
    wanted, gradients = ball.step(torch.float32, CPU)(), maker(ball).call()
    for one, other in zip(gradients, wanted, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


def test_another_package_of_the_name_drtk_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "drtk", ModuleType("drtk"))
    with pytest.raises(LeftOut, match="is not facebookresearch/DRTK"):
        cuda_rasterisers.drtk_raster(Ball(16, CPU, triangles=100))
