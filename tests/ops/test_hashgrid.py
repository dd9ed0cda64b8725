"""Hash-grid encoding: against the float64 reference, against Dr.Jit, its derivatives, its edges, its errors."""

from itertools import pairwise

import pytest
import torch
from support.field_cases import SMALL, relative_error

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode

OPS = torch.ops.dreamfusion_ngp
pytestmark = pytest.mark.usefixtures("simd")
TINY = dict(levels=2, log2_table=4, base_resolution=2, finest_resolution=5)  # 24 rows, for gradcheck


def problem(layout, points, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(layout.entries, layout.features, generator=generator, dtype=torch.float64)
    x = torch.rand(points, 3, generator=generator, dtype=torch.float64)
    return x.float().double(), table.float().double()  # the same numbers in both precisions


def off_faces(layout, points, seed=0):
    """Points that keep a distance from every level's cell faces, where linear derivatives jump."""
    x = problem(layout, 200 * points, seed)[0]
    for scale in layout.scale:
        f = (x * scale + 0.5) % 1
        x = x[((f > 0.05) & (f < 0.95)).all(1)]
    assert len(x) >= points
    return x[:points].clone()


def encode_and_gradients(encode, x, table, layout, grad_y, count=None):
    x, table = x.detach().requires_grad_(), table.detach().requires_grad_()
    y = encode(x, table, layout, count)
    return [y.detach(), *torch.autograd.grad(y, (x, table), grad_y.to(y))]


def test_layout_is_that_of_tiny_cuda_nn():
    layout = GridLayout()
    assert layout.resolution[:6] == (16, 23, 31, 43, 59, 81) and layout.resolution[-1] == 2048
    rows = [b - a for a, b in pairwise(layout.offset)]
    assert all(r % 8 == 0 for r in rows) and max(rows) == 1 << 19
    assert sum(res**3 <= r for res, r in zip(layout.resolution, rows, strict=True)) == 5  # dense levels
    assert layout.entries == sum(rows) and 6.0e6 < layout.entries < 6.2e6
    assert GridLayout(levels=1, base_resolution=7, finest_resolution=7).scale == (6.0,)


@pytest.mark.parametrize(
    "bad",
    [
        dict(levels=0),
        dict(levels=33),
        dict(features=0),
        dict(features=9),
        dict(log2_table=2),
        dict(base_resolution=0),
        dict(finest_resolution=8),
        dict(interpolation="cubic"),
        dict(levels=32, features=4),
    ],
)
def test_layout_names_a_bad_number(bad):
    with pytest.raises(ValueError, match=f"GridLayout: .*{list(bad)[-1]}"):
        GridLayout(**bad)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("points", [0, 1, 31, 33, 1000])
def test_matches_the_reference(device, interpolation, features, points):
    layout = GridLayout(features=features, interpolation=interpolation, **SMALL)
    x, table = problem(layout, points)
    grad_y = torch.randn(points, layout.width, dtype=torch.float64)
    want = encode_and_gradients(reference.hashgrid_encode, x, table, layout, grad_y)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-14)):
        if device == "cuda" and dtype == torch.float64:
            continue
        got = encode_and_gradients(hashgrid_encode, x.to(device, dtype), table.to(device, dtype), layout, grad_y)
        if points == 0:
            assert not got[2].any()
        for name, g, w in zip(("y", "grad_x", "grad_table"), got, want, strict=True):
            bound = tolerance if name != "grad_x" else 10 * tolerance
            assert relative_error(g, w) < bound or not w.any(), name


def test_default_layout_matches_the_reference(device):
    layout = GridLayout()
    x, table = problem(layout, 200)
    want = reference.hashgrid_encode(x, table, layout)
    got = hashgrid_encode(x.float().to(device), table.float().to(device), layout)
    assert relative_error(got, want) < 2e-4  # eps * 2047 cells


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_edges_of_the_cube_and_of_cells(device, interpolation):
    layout = GridLayout(levels=3, log2_table=9, base_resolution=8, finest_resolution=32, interpolation=interpolation)
    _, table = problem(layout, 1)
    faces = [(k + 0.5) / s for s in layout.scale for k in range(0, int(s), 3)]
    values = torch.tensor([0.0, 1.0, -0.25, 1.5, *faces], dtype=torch.float64)
    x = torch.cartesian_prod(values[:8], values[:8], values)
    want = reference.hashgrid_encode(x, table, layout)
    got = hashgrid_encode(x.float().to(device), table.float().to(device), layout)
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_outside_clamps_and_has_no_derivative_in_that_axis(device, interpolation):
    layout = GridLayout(interpolation=interpolation, **SMALL)
    _, table = problem(layout, 1)
    table = table.float().to(device)
    outside = torch.tensor([[-0.5, 0.3, 0.6], [0.2, 1.7, 0.4], [0.7, 0.1, 9.0]], device=device, requires_grad=True)
    y = hashgrid_encode(outside, table, layout)
    assert torch.equal(y, hashgrid_encode(outside.detach().clamp(0, 1), table, layout))
    (grad,) = torch.autograd.grad(y.square().sum(), outside)
    assert torch.equal(grad.diagonal(), torch.zeros(3, device=device))
    assert (grad != 0).sum() == 6


def test_coordinates_that_are_no_numbers_stay_in_the_table(device):
    layout = GridLayout(**SMALL)
    table = problem(layout, 1)[1].float().to(device)
    strange = torch.tensor([[float("nan")] * 3, [float("-inf")] * 3, [float("inf")] * 3], device=device)
    corners = torch.tensor([[0.0] * 3, [0.0] * 3, [1.0] * 3], device=device)
    assert torch.equal(hashgrid_encode(strange, table, layout), hashgrid_encode(corners, table, layout))


@pytest.mark.parametrize("valid", [0, 1, 40, 64, 100])
def test_count_cuts_rows_off(device, valid):
    layout = GridLayout(**SMALL)
    x, table = problem(layout, 64)
    x[valid:] = float("nan")
    x, table = x.float().to(device), table.float().to(device)
    grad_y = torch.randn(64, layout.width, device=device)
    got = encode_and_gradients(hashgrid_encode, x, table, layout, grad_y, torch.tensor([valid], device=device))
    want = encode_and_gradients(hashgrid_encode, x[:valid], table, layout, grad_y[:valid])
    for g, w in zip(got[:2], want, strict=False):
        assert torch.equal(g[: len(w)], w) and not g[len(w) :].any()
    torch.testing.assert_close(got[2], want[2])


def test_non_contiguous_arguments(device):
    layout = GridLayout(**SMALL)
    x, table = (t.float().to(device) for t in problem(layout, 50))
    grad_y = torch.randn(layout.width, 50, device=device).T
    want = encode_and_gradients(hashgrid_encode, x, table, layout, grad_y.contiguous())
    got = encode_and_gradients(hashgrid_encode, x.T.contiguous().T, table.T.contiguous().T, layout, grad_y)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_gradcheck(interpolation):
    layout = GridLayout(interpolation=interpolation, **TINY)
    table = problem(layout, 1)[1].requires_grad_()
    x = off_faces(layout, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: hashgrid_encode(x, t, layout), (x, table))


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_gradgradcheck(interpolation):
    """In x, table and the incoming gradient."""
    layout = GridLayout(interpolation=interpolation, **TINY)
    table = problem(layout, 1)[1].requires_grad_()
    x = off_faces(layout, 4, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, t: hashgrid_encode(x, t, layout), (x, table))


def test_second_derivatives_match_the_reference(device):
    layout = GridLayout(interpolation="smoothstep", **SMALL)
    x, table = problem(layout, 100)
    grad_y, direction = torch.randn(100, layout.width).double(), torch.randn(100, 3).double()

    def second(encode, dtype, where):
        args = [t.to(where, dtype).requires_grad_() for t in (x, table, grad_y)]
        (grad_x,) = torch.autograd.grad(encode(args[0], args[1], layout), args[0], args[2], create_graph=True)
        return torch.autograd.grad(grad_x, args, direction.to(where, dtype))

    want = second(reference.hashgrid_encode, torch.float64, "cpu")
    for g, w in zip(second(hashgrid_encode, torch.float32, device), want, strict=True):
        assert relative_error(g, w) < 1e-4


def test_third_derivative_raises():
    layout = GridLayout(interpolation="smoothstep", **TINY)
    table, x = problem(layout, 1)[1], off_faces(layout, 3).requires_grad_()
    (first,) = torch.autograd.grad(hashgrid_encode(x, table, layout).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="hashgrid_encode: differentiated three times"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("name", ["encode", "grad_table", "grad_x", "grad_x_backward"])
@pytest.mark.parametrize("counted", [False, True])
def test_opcheck(device, name, counted):
    layout = GridLayout(interpolation="smoothstep", **TINY)
    x, table = (t.float().to(device) for t in problem(layout, 7))
    grad_y, direction = torch.randn(7, layout.width, device=device), torch.randn(7, 3, device=device)
    tensors = {
        "encode": (x, table),
        "grad_table": (grad_y, x),
        "grad_x": (grad_y, x, table),
        "grad_x_backward": (direction, grad_y, x, table),
    }[name]
    if name != "grad_x_backward":  # its own backward is an error
        tensors = [t.requires_grad_() for t in tensors]
    count = torch.tensor([5], device=device) if counted else None
    torch.library.opcheck(getattr(OPS, f"hashgrid_{name}").default, (*tensors, *layout.arguments, count))


def test_same_bits_for_any_number_of_threads(restore_threads):
    layout = GridLayout(**SMALL)
    x, table = (t.float() for t in problem(layout, 5000))
    grad_y, direction = torch.randn(5000, layout.width), torch.randn(5000, 3)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(
            [
                *encode_and_gradients(hashgrid_encode, x, table, layout, grad_y),
                *OPS.hashgrid_grad_x_backward(direction, grad_y, x, table, *layout.arguments, None),
            ]
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


LAYOUT = GridLayout(**SMALL)
GOOD = dict(x=torch.rand(5, 3), table=torch.rand(LAYOUT.entries, 2), layout=LAYOUT)


@pytest.mark.parametrize(
    "bad, error, text",
    [
        (dict(x=[0.0, 0.0, 0.0]), TypeError, "x must be a torch.Tensor, got list"),
        (dict(x=torch.rand(5, 3).half()), TypeError, "x must be torch.float32 or torch.float64"),
        (dict(x=torch.rand(5, 2)), ValueError, r"x must be \(N, 3\), got \(5, 2\)"),
        (dict(x=torch.rand(3)), ValueError, r"x must be \(N, 3\), got \(3,\)"),
        (dict(table=GOOD["table"].double()), TypeError, "table must be torch.float32, got torch.float64"),
        (dict(table=GOOD["table"][1:]), ValueError, r"table must be \(entries, features\)"),
        (dict(table=GOOD["table"].to("meta")), ValueError, "table is on meta, expected cpu"),
        (dict(x=GOOD["x"].to("meta")), ValueError, "x must be on the CPU or a CUDA device"),
        (dict(layout=16), TypeError, "layout must be a GridLayout, got int"),
        (dict(count=5), TypeError, "count must be a torch.Tensor, got int"),
        (dict(count=torch.tensor([5], dtype=torch.int32)), TypeError, "count must be torch.int64"),
        (dict(count=torch.tensor(5)), ValueError, r"count must be \(1,\), got \(\)"),
    ],
)
def test_bad_arguments_are_named(bad, error, text):
    with pytest.raises(error, match=f"hashgrid_encode: {text}"):
        hashgrid_encode(**{**GOOD, **bad})


def test_same_table_as_drjit():
    """One table, two implementations. Resolutions are even, so that both round a level's rows to the same number."""
    pytest.importorskip("drjit", reason="drjit is not installed")
    import drjit as dr
    import numpy as np
    from drjit.nn import HashGridEncoding

    if not dr.has_backend(dr.JitBackend.LLVM):
        pytest.skip("drjit finds no libLLVM")
    from drjit.llvm.ad import ArrayXf, Float

    layout = GridLayout(levels=4, log2_table=12, base_resolution=8, finest_resolution=64)  # 8^3, 16^3, then hashed
    peer = HashGridEncoding(
        Float,
        3,
        n_levels=4,
        n_features_per_level=2,
        hashmap_size=1 << 12,
        base_resolution=8,
        per_level_scale=2,
        align_corners=False,
    )
    assert tuple(peer.level_offset(level) for level in range(5)) == layout.offset
    x, table = (t.float() for t in problem(layout, 2000))
    x[:2] = torch.tensor([[0.0] * 3, [1.0] * 3])
    grad_y = torch.randn(2000, layout.width)

    peer.set_params(Float(table.flatten().numpy()))
    dr.enable_grad(peer.data)
    y = peer(ArrayXf(x.T.contiguous().numpy()))
    want_y = torch.from_numpy(np.array(y)).T
    dr.backward(dr.sum(y * ArrayXf(grad_y.T.contiguous().numpy()), axis=None))
    want_grad = torch.from_numpy(np.array(dr.grad(peer.data))).view_as(table)

    got_y, _, got_grad = encode_and_gradients(hashgrid_encode, x, table, layout, grad_y)
    torch.testing.assert_close(got_y, want_y, rtol=0, atol=5e-5)  # eps * 63 cells * |table|
    torch.testing.assert_close(got_grad, want_grad, rtol=0, atol=5e-4)
