"""Fused Adam: against torch.optim.Adam and the reference, what is not finite on the way in or out, its errors."""

import pytest
import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.adam import adam_factors, adam_step

OPS = torch.ops.dreamfusion_ngp
pytestmark = pytest.mark.usefixtures("simd")
SETTINGS = dict(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-15)


def state(shape, seed=0, dtype=torch.float32, device="cpu"):
    """param, grad, exp_avg, exp_avg_sq, nonfinite, as in the middle of a run."""
    generator = torch.Generator().manual_seed(seed)
    param, grad, first, second = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))
    return [param, grad, first * 0.1, second.square(), torch.zeros(1, dtype=torch.int64, device=device)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("weight_decay, eps", [(0.0, 1e-15), (0.03, 1e-8)])
def test_fifty_steps_of_torch(device, dtype, tolerance, weight_decay, eps):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 runs on the CPU only")
    generator = torch.Generator().manual_seed(1)
    theirs = torch.nn.Parameter(torch.randn(123, 3, generator=generator).to(device, dtype))
    ours = theirs.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.99), eps=eps, weight_decay=weight_decay)
    moments, nonfinite = [torch.zeros_like(ours) for _ in range(2)], torch.zeros(1, dtype=torch.int64, device=device)
    for step in range(1, 51):
        grad = torch.randn(123, 3, generator=generator).to(device, dtype) * 10.0 ** (step % 7 - 4)
        grad[step % 123] = 0.0
        theirs.grad = grad.clone()
        optimizer.step()
        adam_step(ours, grad, *moments, nonfinite, **SETTINGS | dict(eps=eps), step=step, weight_decay=weight_decay)
        assert not grad.any()
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=tolerance, rtol=tolerance)
    assert (ours - torch.randn(123, 3, generator=torch.Generator().manual_seed(1)).to(device, dtype)).abs().max() > 0.05
    assert not nonfinite.any()


@pytest.mark.parametrize("n", [0, 1, 7, 64, 1000, 40001])
@pytest.mark.parametrize("step", [1, 1000])
def test_matches_the_reference(device, n, step):
    got, want = state(n, 2, device=device), state(n, 2, torch.float64)
    adam_step(*got, **SETTINGS, step=step, weight_decay=0.1)
    reference.adam_step(*want, **SETTINGS, step=step, weight_decay=0.1)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu().double(), b.double(), atol=1e-6, rtol=1e-5)


def test_non_finite_gradients_are_counted_and_not_applied(device):
    tensors = state(50000, 3, device=device)
    untouched = [v.clone() for v in tensors]
    bad = torch.zeros(50000, dtype=torch.bool)
    bad[[0, 5, 31, 20000, 49999]] = True
    tensors[1][bad] = torch.tensor([NAN, INF, -INF, NAN, INF], device=device)
    adam_step(*tensors, **SETTINGS, step=3)
    assert int(tensors[4]) == 5 and not tensors[1].any()
    for a, b in zip((tensors[0], *tensors[2:4]), (untouched[0], *untouched[2:4]), strict=True):
        assert torch.equal(a[bad], b[bad]) and (a[~bad] != b[~bad]).float().mean() > 0.99
        assert a.isfinite().all()
    tensors[1][:2] = float("nan")
    adam_step(*tensors, **SETTINGS, step=4)
    assert int(tensors[4]) == 7, "the counter goes on"


NAN, INF = float("nan"), float("inf")
NAMES = ("param", "grad", "exp_avg", "exp_avg_sq")


@pytest.mark.parametrize("dtype, huge", [(torch.float32, 1e21), (torch.float64, 1e160)])
@pytest.mark.parametrize(
    "name, value",
    [
        *[(name, value) for name in NAMES for value in (NAN, INF, -INF)],
        ("grad", "huge"),
        ("grad", "-huge"),
        ("exp_avg_sq", -1.0),
        ("exp_avg_sq", -1e-30),
    ],
)
def test_what_would_not_be_finite_is_left_out(device, dtype, huge, name, value):
    """In every lane of a vector and in the rest behind it: the element keeps its bits and is counted, its neighbours
    are those of a run without it. The reference does the same."""
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 runs on the CPU only")
    value = {"huge": huge, "-huge": -huge}.get(value, value)
    bad = torch.arange(77) % 3 == 1  # 64 in vectors of up to 16, and 13
    start, good = state(77, 6, dtype, device), state(77, 6, dtype, device)
    start[NAMES.index(name)][bad.to(device)] = value
    want, got = [v.clone() for v in start], [v.clone() for v in start]
    for step, tensors in ((adam_step, got), (adam_step, good), (reference.adam_step, want)):
        step(*tensors, **SETTINGS, step=3)
    for tensors in (got, want):
        assert int(tensors[4]) == int(bad.sum()) and not tensors[1].any()
        for after, before in zip((tensors[0], *tensors[2:4]), (start[0], *start[2:4]), strict=True):
            assert torch.equal(after[bad].nan_to_num(7.0), before[bad].nan_to_num(7.0))
    for after, other, twin in zip(got[:4], good, want, strict=False):
        assert torch.equal(after[~bad], other[~bad])
        torch.testing.assert_close(after[~bad], twin[~bad], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [NAN, INF, -INF, -1.0])
def test_factors_that_are_no_factors_leave_everything_out(device, dtype, place, value):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 runs on the CPU only")
    factors = torch.tensor([0.01, 1.5], dtype=dtype, device=device)
    factors[place] = value
    for step in (adam_step, reference.adam_step):
        before = state(77, 6, dtype, device)
        after = [v.clone() for v in before]
        step(*after, beta1=0.9, beta2=0.99, eps=1e-15, factors=factors)
        assert int(after[4]) == 77 and not after[1].any()
        assert all(torch.equal(after[i], before[i]) for i in (0, 2, 3))


def test_a_zero_gradient_without_history_changes_nothing(device):
    param, grad, first, second, nonfinite = state(1000, 4, device=device)
    before = param.clone()
    adam_step(param, grad.zero_(), first.zero_(), second.zero_(), nonfinite, **SETTINGS, step=10)
    assert torch.equal(param, before) and not first.any() and not second.any()


def test_zero_learning_rate_only_moves_the_moments(device):
    tensors = state(100, 5, device=device)
    before = [v.clone() for v in tensors]
    adam_step(*tensors, **SETTINGS | dict(lr=0.0), step=1)
    assert torch.equal(tensors[0], before[0]) and not torch.equal(tensors[2], before[2])


def test_same_bits_for_any_number_of_threads(restore_threads):
    results = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        tensors = state(100003, 6)
        tensors[1][::1000] = float("nan")
        adam_step(*tensors, **SETTINGS, step=2)
        results.append(tensors)
    assert int(results[0][4]) == 101
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_views_at_any_alignment():
    """Slices of one flat buffer, as a field keeps its parameters."""
    whole, want = state(1000, 7), state(1000, 7)
    for begin, end in ((0, 1), (1, 334), (334, 1000)):
        adam_step(*(v[begin:end] for v in whole[:4]), whole[4], **SETTINGS, step=2)
    adam_step(*want, **SETTINGS, step=2)
    for a, b in zip(whole, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_factors_are_the_rate_and_the_step(device):
    """Numbers in a tensor, filled anew before every step, as a CUDA graph needs them: the same bits."""
    by_number, by_tensor = state(2000, 5, device=device), state(2000, 5, device=device)
    rest, factors = dict(beta1=0.9, beta2=0.99, eps=1e-15), torch.zeros(2, device=device)
    for step in range(1, 5):
        for tensors in (by_number, by_tensor):
            tensors[1].copy_(torch.randn(2000, generator=torch.Generator().manual_seed(step)))
        factors.copy_(torch.tensor(adam_factors(0.1 / step, 0.9, 0.99, step)))
        adam_step(*by_number, **rest, lr=0.1 / step, step=step)
        adam_step(*by_tensor, **rest, factors=factors)
        assert all(torch.equal(a, b) for a, b in zip(by_number, by_tensor, strict=True))
    by_tensor[1].copy_(torch.randn(2000, generator=torch.Generator().manual_seed(9)))
    want = [v.clone() for v in by_tensor]
    reference.adam_step(*want, **rest, factors=factors)
    adam_step(*by_tensor, **rest, factors=factors)
    for a, b in zip(by_tensor, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_parameters_that_require_gradients_are_changed_in_place(device):
    param, *rest = state((4, 5), 8, device=device)
    param = torch.nn.Parameter(param)
    before, version = param.detach().clone(), param._version
    adam_step(param, *rest, **SETTINGS, step=1)
    assert param.requires_grad and param.is_leaf and not torch.equal(param.detach(), before)
    assert param._version > version, "autograd must know"


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(param=torch.zeros(4, dtype=torch.float16)), TypeError, "param"),
        (dict(grad=torch.zeros(5)), ValueError, "grad"),
        (dict(grad=None), TypeError, "grad"),
        (dict(grad=torch.zeros(8)[::2]), ValueError, "grad"),
        (dict(exp_avg=torch.zeros(4, dtype=torch.float64)), TypeError, "exp_avg"),
        (dict(exp_avg_sq=torch.zeros(4, device="meta")), ValueError, "exp_avg_sq"),
        (dict(nonfinite=torch.zeros(1)), TypeError, "nonfinite"),
        (dict(nonfinite=torch.zeros((), dtype=torch.int64)), ValueError, "nonfinite"),
        (dict(lr=-1.0), ValueError, "lr"),
        *[
            ({name: bad}, ValueError, name)
            for bad in (NAN, INF, -INF)
            for name in ("lr", "beta1", "beta2", "eps", "weight_decay")
        ],
        (dict(beta1=1.0), ValueError, "beta1"),
        (dict(beta2=-0.1), ValueError, "beta2"),
        (dict(eps=0.0), ValueError, "eps"),
        (dict(step=0), ValueError, "step"),
        (dict(weight_decay=-1.0), ValueError, "weight_decay"),
        (dict(factors=torch.zeros(3)), ValueError, "factors"),
        (dict(factors=torch.zeros(2, dtype=torch.int64)), TypeError, "factors"),
        (dict(factors=torch.zeros(2, device="meta")), ValueError, "factors"),
    ],
)
def test_errors_name_the_argument(change, error, name):
    names = ("param", "grad", "exp_avg", "exp_avg_sq", "nonfinite")
    with pytest.raises(error, match=f"adam_step: {name} "):
        adam_step(**dict(zip(names, state(4), strict=True)) | SETTINGS | dict(step=1) | change)


def test_opcheck(device):
    factors = torch.tensor([0.1, 1.5], device=device)
    torch.library.opcheck(OPS.adam_step.default, (*state(10, 9, device=device), factors, 0.9, 0.99, 1e-8, 0.0))
