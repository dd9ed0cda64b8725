"""The field: against the float64 reference, its derivatives, its edges, its errors, and the thread pool beneath it."""

import os
import threading
import time

import pytest
import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.field import field, field_density, recycle_gradient
from dreamfusion_ngp.ops.hashgrid import GridLayout

OPS = torch.ops.dreamfusion_ngp
pytestmark = pytest.mark.usefixtures("simd")
SMALL = dict(levels=4, log2_table=9, base_resolution=4, finest_resolution=40)  # 1 dense level of 4^3, 3 hashed
TINY = GridLayout(levels=2, log2_table=4, base_resolution=2, finest_resolution=5)  # 24 rows, for gradcheck
NAMES = ("h", "rgb_raw", "grad_h", "table", "W1", "b1", "W2", "b2")


def relative_error(got, want):
    """Largest error, relative to the largest magnitude; 0 for empty tensors."""
    if want.numel() == 0:
        assert got.shape == want.shape
        return 0.0
    assert torch.isfinite(got).all()
    return ((got.cpu().double() - want).abs().max() / want.abs().max().clamp_min(1e-30)).item()


def network(layout, hidden, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(layout.entries, layout.features), (hidden, layout.width), (hidden,), (4, hidden), (4,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [(t * scale).float().double() for t, scale in zip(tensors, (0.5, 0.5, 0.2, 0.5, 0.5))]


def points(layout, n, bound=1.0, seed=0, margin=0.02):
    """World points inside the cube that keep a distance from cell faces, where the linear grad_h jumps."""
    u = torch.rand(max(50 * n, 50), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for scale in layout.scale:
        f = (u * scale + 0.5) % 1
        u = u[((f > margin) & (f < 1 - margin)).all(1)]
    assert len(u) >= n
    return ((2 * u[:n] - 1) * bound).float().double()


def cotangents(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((n,), (n, 3), (n, 3))]


def run(op, x, tensors, layout, grads, device="cpu", dtype=torch.float64, **settings):
    """The three outputs, then the gradients of the table and of the four weights."""
    tensors = [t.detach().to(device, dtype).requires_grad_() for t in tensors]
    settings = {"bound": 1.0, "level_weight": [1.0] * layout.levels, **settings}
    outputs = op(x.to(device, dtype), *tensors, layout, **settings)
    gradients = torch.autograd.grad(outputs, tensors, [g.to(device, dtype) for g in grads])
    return [o.detach() for o in outputs] + list(gradients)


def check(device, layout, hidden, n, tolerance=2e-5, x=None, **settings):
    tensors, grads = network(layout, hidden), cotangents(n)
    x = points(layout, n, settings.get("bound", 1.0)) if x is None else x
    want = run(reference.field, x, tensors, layout, grads, **settings)
    for dtype, limit in ((torch.float32, tolerance), (torch.float64, 1e-12)):
        if device == "cuda" and dtype == torch.float64:
            continue
        for name, g, w in zip(NAMES, run(field, x, tensors, layout, grads, device, dtype, **settings), want):
            assert relative_error(g, w) < limit or not (w.any() or g.any()), (name, dtype)


@pytest.mark.parametrize("levels, hidden, interpolation", [(16, 64, "linear"), (8, 32, "smoothstep")])
def test_the_shapes_of_the_presets_match_the_reference(device, levels, hidden, interpolation):
    """They have CUDA kernels of their own."""
    layout = GridLayout(levels=levels, log2_table=9, base_resolution=4, finest_resolution=30,
                        interpolation=interpolation)
    check(device, layout, hidden, 300, blob=("gaussian", 5.0, 0.3), x=points(layout, 300, margin=2e-3))


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("n", [0, 1, 31, 33, 1000])
def test_matches_the_reference(device, interpolation, n):
    check(device, GridLayout(interpolation=interpolation, **SMALL), 32, n, blob=("gaussian", 5.0, 0.3))


@pytest.mark.parametrize("features, hidden", [(1, 1), (1, 19), (2, 64), (4, 5), (8, 33), (2, 128)])
def test_every_width_matches_the_reference(device, features, hidden):
    check(device, GridLayout(features=features, **SMALL), hidden, 100)


def test_largest_network_matches_the_reference(device):
    layout = GridLayout(levels=32, features=2, log2_table=8, base_resolution=4, finest_resolution=20)
    check(device, layout, 128, 70, x=points(layout, 70, margin=1e-4), tolerance=1e-4)


@pytest.mark.parametrize("blob", [("none", 0.0, 1.0), ("gaussian", 5.0, 0.2), ("cone", 10.0, 0.5)])
@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_blob_and_bound(device, blob, bound):
    check(device, GridLayout(**SMALL), 16, 100, blob=blob, bound=bound)


@pytest.mark.parametrize("kind, value", [("gaussian", 5.0), ("cone", 5.0)])
def test_blob_at_the_origin(device, kind, value):
    layout = GridLayout(**SMALL)
    tensors = [torch.zeros_like(t).float().to(device) for t in network(layout, 8)]
    settings = dict(bound=1.0, level_weight=[1.0] * 4, blob=(kind, value, 0.5))
    h, _, grad_h = field(torch.tensor([[0.0, 0, 0], [0.25, 0, 0]], device=device), *tensors, layout, **settings)
    assert h[0].item() == pytest.approx(value, rel=1e-3)
    assert not grad_h[0].any()
    assert grad_h[1, 0] < 0 and not grad_h[1, 1:].any()


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_grad_h_is_the_derivative_of_h(interpolation):
    """By differences of h in float64, so independent of every formula for grad_h."""
    layout = GridLayout(interpolation=interpolation, **SMALL)
    tensors = network(layout, 16)
    settings = dict(bound=1.5, level_weight=[1.0, 0.5, 0.25, 1.0], blob=("gaussian", 5.0, 0.4))
    x = points(layout, 50, bound=1.5)
    grad_h = field(x, *tensors, layout, **settings)[2]
    step = 1e-7
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        rise = field(x + shift, *tensors, layout, **settings)[0] - field(x - shift, *tensors, layout, **settings)[0]
        torch.testing.assert_close(rise / (2 * step), grad_h[:, axis], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.3], [0.0] * 4])
def test_level_weights(device, weights):
    check(device, GridLayout(**SMALL), 32, 100, level_weight=weights, blob=("gaussian", 1.0, 0.5))


def test_levels_of_weight_zero_are_not_read(device):
    layout = GridLayout(**SMALL)
    tensors = network(layout, 16)
    tensors[0][layout.offset[2]:] = float("nan")
    args = points(layout, 100), tensors, layout, cotangents(100), device, torch.float32
    results = run(field, *args, level_weight=[1.0, 1.0, 0.0, 0.0])
    assert all(torch.isfinite(r).all() for r in results)
    assert not results[3][layout.offset[2]:].any() and results[3][: layout.offset[2]].any()


def test_level_weights_change_between_calls(device):
    """Scratch memory that one call leaves behind never reaches the next."""
    layout, wide = GridLayout(**SMALL), GridLayout(**SMALL, features=8)
    args = points(layout, 100), network(layout, 16), layout, cotangents(100), device, torch.float32
    fresh = run(field, *args, level_weight=[1.0, 0.0, 0.0, 0.0])
    run(field, points(wide, 100), network(wide, 100), wide, cotangents(100), device, torch.float32)
    run(field, *args)
    for a, b in zip(run(field, *args, level_weight=[1.0, 0.0, 0.0, 0.0]), fresh):
        torch.testing.assert_close(a, b)


def test_outside_the_bound(device):
    """The lookup clamps; the encoding's derivative of an axis outside is zero, the blob's is not."""
    layout = GridLayout(interpolation="smoothstep", **SMALL)
    x = torch.tensor([[1.5, 0.1, 0.2], [0.3, -7.0, 1.1], [1.0, -1.0, 0.0], [-3.0, 3.0, 3.0]], dtype=torch.float64)
    check(device, layout, 16, 4, x=x, blob=("gaussian", 5.0, 1.0))
    tensors = [t.float().to(device) for t in network(layout, 16)]
    grad_h = field(x.float().to(device), *tensors, layout, bound=1.0, level_weight=[1.0] * 4)[2]
    assert torch.equal(grad_h == 0, torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], device=device).bool())


def test_cell_faces(device):
    """On a face the value is continuous; the linear derivative across it is that of the upper cell."""
    layout = GridLayout(levels=2, log2_table=12, base_resolution=5, finest_resolution=9)  # scales 4 and 8: exact faces
    x = 2 * torch.cartesian_prod(*[torch.tensor([0.125, 0.375, 0.4375, 0.5, 0.875], dtype=torch.float64)] * 3) - 1
    check(device, layout, 16, len(x), x=x)


@pytest.mark.parametrize("valid", [0, 1, 63, 64, 1030, 5000])
def test_count_cuts_rows_off(device, valid):
    layout = GridLayout(**SMALL)
    x, tensors, grads = points(layout, 1100), network(layout, 32), cotangents(1100)
    got_x = x.clone()
    got_x[valid:] = float("nan")
    count = torch.tensor([valid], device=device)
    got = run(field, got_x, tensors, layout, grads, device, torch.float32, count=count)
    want = run(field, x[:valid], tensors, layout, [g[:valid] for g in grads], device, torch.float32)
    for g, w in zip(got[:3], want):
        assert torch.equal(g[:valid], w) and not g[valid:].any()
    for g, w in zip(got[3:], want[3:]):
        torch.testing.assert_close(g, w)
    x, *tensors = (t.to(device, torch.float32) for t in (got_x, *tensors))
    h = field_density(x, *tensors, layout, bound=1.0, level_weight=[1.0] * 4, count=count)
    torch.testing.assert_close(h, got[0])


def test_density_is_h_without_gradient(device):
    layout = GridLayout(**SMALL)
    x = points(layout, 200).float().to(device)
    tensors = [t.float().to(device).requires_grad_() for t in network(layout, 32)]
    settings = dict(bound=1.0, level_weight=[1.0, 1.0, 0.5, 0.0], blob=("cone", 3.0, 0.5))
    h = field_density(x, *tensors, layout, **settings)
    assert not h.requires_grad
    torch.testing.assert_close(h, field(x, *tensors, layout, **settings)[0].detach())
    want = reference.field_density(x.double(), *[t.double() for t in tensors], layout, **settings)
    assert relative_error(h, want.cpu()) < 1e-5


def test_non_contiguous_arguments(device):
    layout = GridLayout(**SMALL)
    x, tensors, grads = points(layout, 50), network(layout, 16), cotangents(50)
    strided = [t.T.contiguous().T if t.dim() == 2 else t.repeat_interleave(2)[::2] for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    spread = [g.repeat_interleave(2, 0)[::2] for g in grads]
    want = run(field, x, tensors, layout, grads, device, torch.float32)
    for a, b in zip(run(field, x.T.contiguous().T, strided, layout, spread, device, torch.float32), want):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("blob", [("none", 0.0, 1.0), ("gaussian", 5.0, 0.4)])
def test_gradcheck_through_every_output(blob):
    """Table, weights and biases through h, rgb_raw and grad_h; no hidden unit is near its kink."""
    x, tensors = points(TINY, 6), [t.requires_grad_() for t in network(TINY, 5, seed=4)]
    u, (table, W1, b1, _, _) = (x + 1) / 2, tensors
    z = reference.hashgrid_encode(u, table, TINY) * torch.tensor([1.0, 1.0, 0.7, 0.7]) @ W1.T + b1
    assert z.abs().min() > 1e-3 and (z > 0).any() and (z < 0).any()
    settings = dict(bound=1.0, level_weight=[1.0, 0.7], blob=blob)
    assert torch.autograd.gradcheck(lambda *t: field(x, *t, TINY, **settings), tensors)


def test_x_gets_no_gradient():
    x, tensors = points(TINY, 3).requires_grad_(), [t.requires_grad_() for t in network(TINY, 5)]
    sum(o.sum() for o in field(x, *tensors, TINY, bound=1.0, level_weight=[1.0, 1.0])).backward()
    assert x.grad is None and all(t.grad is not None for t in tensors)


def test_a_recycled_gradient_is_accumulated_into(device):
    """Same memory, same numbers; one that no longer fits is let go."""
    tensors = [t.float().to(device).requires_grad_() for t in network(TINY, 5)]
    x, table = points(TINY, 40).float().to(device), tensors[0]

    def gradient():
        sum(o.square().sum() for o in field(x, *tensors, TINY, bound=1.0, level_weight=[1.0, 1.0])).backward()
        return table.grad.data_ptr(), table.grad.clone()

    place, want = gradient()
    table.grad.zero_()
    recycle_gradient(table)
    assert table.grad is None
    held = torch.empty_like(table)  # would take the memory if it were free
    again, got = gradient()
    assert again == place != held.data_ptr()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    table.grad.fill_(float("nan"))
    recycle_gradient(table)
    table.data = table.data.cpu().double()
    outputs = field(x.cpu().double(), *[t.detach().cpu().double() if t is not table else t for t in tensors], TINY,
                    bound=1.0, level_weight=[1.0, 1.0])
    sum(o.square().sum() for o in outputs).backward()
    torch.testing.assert_close(table.grad.float().to(want), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_a_shadow_is_read_in_the_tables_place(device, levels):
    """As a table with the shadow's values, and the gradient is the table's, in its precision."""
    layout = GridLayout(levels=levels, log2_table=9, base_resolution=4, finest_resolution=30)
    tensors, grads, x = network(layout, 24), cotangents(200), points(layout, 200, margin=2e-3)
    shadow = tensors[0].half()
    want = run(reference.field, x, [shadow.double(), *tensors[1:]], layout, grads)
    got = run(field, x, tensors, layout, grads, device, torch.float32, shadow=shadow.to(device))
    for name, g, w in zip(NAMES, got, want):
        assert g.dtype == torch.float32 and relative_error(g, w) < 2e-5, name
    plain = run(field, x, tensors, layout, grads, device, torch.float32)
    assert 1e-5 < relative_error(plain[0], want[0]) < 1e-2, "without the shadow it is the table"
    near = [t.float().to(device) for t in (x, *tensors)]
    h = field_density(*near, layout, bound=1.0, level_weight=[1.0] * levels, shadow=shadow.to(device))
    assert relative_error(h, want[0]) < 2e-5


def test_second_differentiation_raises(device):
    tensors = [t.float().to(device).requires_grad_() for t in network(TINY, 5)]
    h, _, grad_h = field(points(TINY, 3).float().to(device), *tensors, TINY, bound=1.0, level_weight=[1.0, 1.0])
    first = torch.autograd.grad((h.sum() + grad_h.square().sum()), tensors, create_graph=True)
    with pytest.raises(RuntimeError, match="field: differentiated twice; its backward is final"):
        sum(g.square().sum() for g in first).backward()


@pytest.mark.parametrize("op", ["field", "field_density", "field_backward"])
@pytest.mark.parametrize("counted", [False, True])
def test_opcheck(device, op, counted):
    x, tensors = points(TINY, 7).float().to(device), [t.float().to(device) for t in network(TINY, 5)]
    grads = [g.float().to(device) for g in cotangents(7)] if op == "field_backward" else []
    if op == "field":  # the others have no backward
        tensors = [t.requires_grad_() for t in tensors]
    count = torch.tensor([5], device=device) if counted else None
    shadow = tensors[0].detach().half() if counted else None
    settings = (*TINY.arguments, [1.0, 0.5], 1.0, 1, 5.0, 0.4, shadow, count)
    torch.library.opcheck(getattr(OPS, op).default, (*grads, x, *tensors, *settings))


def test_same_bits_for_any_number_of_threads(restore_threads):
    """More samples than the backward keeps at a time, and no whole number of blocks."""
    layout = GridLayout(levels=5, log2_table=12, base_resolution=4, finest_resolution=40)
    n = 33_333
    x = 2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) - 1
    tensors, grads = network(layout, 32), cotangents(n)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(run(field, x, tensors, layout, grads, dtype=torch.float32))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    want = run(reference.field, x.double(), tensors, layout, grads)
    for name, g, w in zip(NAMES[3:], results[0][3:], want[3:]):
        assert relative_error(g, w) < 1e-3, name  # x is random: a few points may be on either side of a face


def exit_status(child, seconds):
    """The exit status of a child process, or None if it had to be killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_process_forked_in_the_middle_of_a_job_has_a_pool_of_its_own(restore_threads):
    layout = GridLayout(**SMALL)
    x, tensors = points(layout, 1000).float().repeat(8, 1), [t.float() for t in network(layout, 16)]
    settings = dict(bound=1.0, level_weight=[1.0] * 4)
    torch.set_num_threads(3)
    want = field_density(x, *tensors, layout, **settings)
    stop = threading.Event()

    def keep_the_pool_busy():
        while not stop.is_set():
            field_density(x, *tensors, layout, **settings)

    worker = threading.Thread(target=keep_the_pool_busy)
    worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if torch.equal(field_density(x, *tensors, layout, **settings), want) else 1)
            assert exit_status(child, seconds=20) == 0, "the forked process hung, or computed something else"
    finally:
        stop.set()
        worker.join()


GOOD_LAYOUT = GridLayout(**SMALL)
GOOD = dict(
    zip(("x", "table", "W1", "b1", "W2", "b2"), [torch.rand(5, 3), *[t.float() for t in network(GOOD_LAYOUT, 16)]]),
    layout=GOOD_LAYOUT, bound=1.0, level_weight=[1.0] * 4,
)


@pytest.mark.parametrize("op", [field, field_density])
@pytest.mark.parametrize("bad, error, text", [
    (dict(x=None), TypeError, "x must be a torch.Tensor, got NoneType"),
    (dict(x=torch.rand(5, 4)), ValueError, r"x must be \(N, 3\), got \(5, 4\)"),
    (dict(x=torch.rand(5, 3, dtype=torch.bfloat16)), TypeError, "x must be torch.float32 or torch.float64 on cpu"),
    (dict(table=torch.rand(7, 2)), ValueError, r"table must be \(entries, features\)"),
    (dict(W1=torch.rand(16, 7)), ValueError, r"W1 must be \(hidden, .* = \(hidden, 8\), got \(16, 7\)"),
    (dict(W1=torch.rand(129, 8)), ValueError, "W1 must have from 1 to 128 rows"),
    (dict(b1=torch.rand(15)), ValueError, r"b1 must be \(hidden,\) = \(16,\), got \(15,\)"),
    (dict(b1=torch.rand(16).double()), TypeError, "b1 must be torch.float32, got torch.float64"),
    (dict(W2=torch.rand(3, 16)), ValueError, r"W2 must be \(4, hidden\) = \(4, 16\), got \(3, 16\)"),
    (dict(b2=torch.rand(3)), ValueError, r"b2 must be \(4,\), got \(3,\)"),
    (dict(b2=torch.rand(4, device="meta")), ValueError, "b2 is on meta, expected cpu"),
    (dict(layout=None), TypeError, "layout must be a GridLayout"),
    (dict(bound=0.0), ValueError, "bound must be a finite number above 0"),
    (dict(level_weight=[1.0] * 3), ValueError, "level_weight must be 4 finite numbers"),
    (dict(level_weight=[1.0, 1.0, 1.0, float("nan")]), ValueError, "level_weight must be 4 finite numbers"),
    (dict(blob="gaussian"), ValueError, r"blob must be \(kind, strength, radius\)"),
    (dict(blob=("cube", 1.0, 1.0)), ValueError, "blob kind must be one of"),
    (dict(blob=("cone", float("inf"), 1.0)), ValueError, "blob strength must be finite"),
    (dict(blob=("cone", 1.0, 0.0)), ValueError, "blob radius must be a finite number above 0"),
    (dict(count=torch.tensor([1, 2])), ValueError, r"count must be \(1,\), got \(2,\)"),
    (dict(shadow=GOOD["table"]), TypeError, "shadow must be torch.float16, got torch.float32"),
    (dict(shadow=GOOD["table"].half()[1:]), ValueError, "shadow must be"),
    (dict(shadow=GOOD["table"].half().T.contiguous().T), ValueError, "shadow must be contiguous"),
])
def test_bad_arguments_are_named(op, bad, error, text):
    with pytest.raises(error, match=f"{op.__name__}: {text}"):
        op(**{**GOOD, **bad})
