"""How the field is called: rows cut off, memory layout, scratch and gradients from call to call, what autograd and
torch.library ask of it, threads and forks, and errors."""

import os
import threading
import time

import pytest
import torch
from support.field_cases import NAMES, SMALL, TINY, cotangents, network, points, relative_error, run

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.field import field, field_density, recycle_gradient
from dreamfusion_ngp.ops.hashgrid import GridLayout

OPS = torch.ops.dreamfusion_ngp
pytestmark = pytest.mark.usefixtures("simd")


def test_level_weights_change_between_calls(device):
    """Scratch memory that one call leaves behind never reaches the next."""
    layout, wide = GridLayout(**SMALL), GridLayout(**SMALL, features=8)
    args = points(layout, 100), network(layout, 16), layout, cotangents(100), device, torch.float32
    fresh = run(field, *args, level_weight=[1.0, 0.0, 0.0, 0.0])
    run(field, points(wide, 100), network(wide, 100), wide, cotangents(100), device, torch.float32)
    run(field, *args)
    for a, b in zip(run(field, *args, level_weight=[1.0, 0.0, 0.0, 0.0]), fresh, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_weights_in_a_tensor(device, dtype):
    """As numbers, in forward and backward; and they get no gradient."""
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 runs on the CPU only")
    layout, weights = GridLayout(**SMALL), [1.0, 0.5, 0.25, 0.0]
    args = points(layout, 300), network(layout, 16), layout, cotangents(300), device, dtype
    given = torch.tensor(weights, device=device, requires_grad=True)
    for a, b in zip(run(field, *args, level_weight=weights), run(field, *args, level_weight=given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if device == "cuda" else 0, atol=1e-6 if device == "cuda" else 0)
    assert given.grad is None


@pytest.mark.parametrize("valid", [0, 1, 63, 64, 1030, 5000])
def test_count_cuts_rows_off(device, valid):
    layout = GridLayout(**SMALL)
    x, tensors, grads = points(layout, 1100), network(layout, 32), cotangents(1100)
    got_x = x.clone()
    got_x[valid:] = float("nan")
    count = torch.tensor([valid], device=device)
    got = run(field, got_x, tensors, layout, grads, device, torch.float32, count=count)
    want = run(field, x[:valid], tensors, layout, [g[:valid] for g in grads], device, torch.float32)
    for g, w in zip(got[:3], want, strict=False):
        assert torch.equal(g[:valid], w) and not g[valid:].any()
    for g, w in zip(got[3:], want[3:], strict=True):
        torch.testing.assert_close(g, w)
    x, *tensors = (t.to(device, torch.float32) for t in (got_x, *tensors))
    h = field_density(x, *tensors, layout, bound=1.0, level_weight=[1.0] * 4, count=count)
    torch.testing.assert_close(h, got[0])


def test_non_contiguous_arguments(device):
    layout = GridLayout(**SMALL)
    x, tensors, grads = points(layout, 50), network(layout, 16), cotangents(50)
    strided = [t.T.contiguous().T if t.dim() == 2 else t.repeat_interleave(2)[::2] for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    spread = [g.repeat_interleave(2, 0)[::2] for g in grads]
    want = run(field, x, tensors, layout, grads, device, torch.float32)
    for a, b in zip(run(field, x.T.contiguous().T, strided, layout, spread, device, torch.float32), want, strict=True):
        torch.testing.assert_close(a, b)


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
    outputs = field(
        x.cpu().double(),
        *[t.detach().cpu().double() if t is not table else t for t in tensors],
        TINY,
        bound=1.0,
        level_weight=[1.0, 1.0],
    )
    sum(o.square().sum() for o in outputs).backward()
    torch.testing.assert_close(table.grad.float().to(want), want, rtol=1e-4, atol=1e-4)


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
    settings = (torch.tensor([1.0, 0.5], device=device), *TINY.arguments, 1.0, 1, 5.0, 0.4, counted, shadow, count)
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
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    want = run(reference.field, x.double(), tensors, layout, grads)
    for name, g, w in zip(NAMES[3:], results[0][3:], want[3:], strict=True):
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
BAD = (float("nan"), float("inf"), float("-inf"))
GOOD = dict(
    zip(
        ("x", "table", "W1", "b1", "W2", "b2"),
        [torch.rand(5, 3), *[t.float() for t in network(GOOD_LAYOUT, 16)]],
        strict=True,
    ),
    layout=GOOD_LAYOUT,
    bound=1.0,
    level_weight=[1.0] * 4,
)


@pytest.mark.parametrize("op", [field, field_density])
@pytest.mark.parametrize(
    "bad, error, text",
    [
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
        *[
            (dict(level_weight=[1.0, 1.0, 1.0, bad]), ValueError, "level_weight must be 4 finite numbers")
            for bad in BAD
        ],
        *[(dict(bound=bad), ValueError, "bound must be a finite number above 0") for bad in (*BAD, -1.0)],
        (dict(level_weight=torch.ones(3)), ValueError, r"level_weight must be \(4,\), got \(3,\)"),
        (dict(level_weight=torch.ones(4, dtype=torch.int64)), TypeError, "level_weight must be torch.float32"),
        (dict(level_weight=torch.ones(4, device="meta")), ValueError, "level_weight is on meta, expected cpu"),
        (dict(blob="gaussian"), ValueError, r"blob must be \(kind, strength, radius\)"),
        (dict(blob=("cube", 1.0, 1.0)), ValueError, "blob kind must be one of"),
        *[(dict(blob=("cone", bad, 1.0)), ValueError, "blob strength must be finite") for bad in BAD],
        *[
            (dict(blob=("cone", 1.0, bad)), ValueError, "blob radius must be a finite number above 0")
            for bad in (*BAD, -1)
        ],
        (dict(blob=("cone", 1.0, 0.0)), ValueError, "blob radius must be a finite number above 0"),
        (dict(count=torch.tensor([1, 2])), ValueError, r"count must be \(1,\), got \(2,\)"),
        (dict(shadow=GOOD["table"]), TypeError, "shadow must be torch.float16, got torch.float32"),
        (dict(shadow=GOOD["table"].half()[1:]), ValueError, "shadow must be"),
        (dict(shadow=GOOD["table"].half().T.contiguous().T), ValueError, "shadow must be contiguous"),
    ],
)
def test_bad_arguments_are_named(op, bad, error, text):
    with pytest.raises(error, match=f"{op.__name__}: {text}"):
        op(**{**GOOD, **bad})
