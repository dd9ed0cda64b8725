"""The optimiser of the prior and of the judge: which weights are matrices, that they move, and how far."""

import pytest
import torch
from support.members import Small, two_steps

from dreamfusion_ngp.toybox.prior.model import build_prior
from dreamfusion_ngp.toybox.prior.optimizer import MATRIX_RATE, MuonAdamW, as_matrix, hidden_matrices
from dreamfusion_ngp.toybox.prior.processes import run_group


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"])
def small(request):
    torch.manual_seed(0)
    return Small().to(memory_format=request.param)


def test_hidden_matrices_leave_out_embeddings_and_the_outer_layers():
    prior = build_prior()
    unet = dict(prior.unet.named_parameters())
    found = {id(p) for module in (prior.unet, prior.text_encoder) for p in hidden_matrices(module)}
    inside = {name for name, p in unet.items() if id(p) in found}
    assert not any(name.startswith(("conv_in", "conv_out")) or name.endswith("bias") for name in inside)
    assert "mid_block.resnets.0.conv1.weight" in inside and "time_embedding.linear_1.weight" in inside
    assert id(prior.text_encoder.shared.weight) not in found
    assert sum(p.numel() for p in unet.values() if id(p) in found) > 0.9 * sum(p.numel() for p in unet.values())


def test_a_step_moves_every_used_weight_and_kernels_by_an_orthogonal_matrix(small):
    """Muon's update U of an (m, n) matrix has singular values from 0.5 to 1.5 times the rate (times sqrt(m / n) where
    m > n), by the authors' own account of their polynomial; AdamW's first step is the rate in every element."""
    optimizer, rate = MuonAdamW([small]), 1e-3
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    small(torch.randn(4, 3, 9, 9)).backward()
    # Well conditioned: none of its directions is lost.
    small.hidden.weight.grad = torch.randn_like(small.hidden.weight.detach())
    optimizer.aim()
    optimizer.move(rate)
    after = dict(small.named_parameters())
    for name in before:
        moved = not torch.equal(before[name], after[name])
        assert moved != name.startswith("unused"), name
    decay = 1 - 0.01 * rate * MATRIX_RATE
    update = (after["hidden.weight"] - before["hidden.weight"] * decay).detach().flatten(1)
    singular = torch.linalg.svdvals(update) / (rate * MATRIX_RATE)
    assert singular.max() < 1.5 and singular.min() > 0.5
    change = (after["conv_in.weight"] - before["conv_in.weight"]).detach().abs()
    assert change.median() == pytest.approx(rate, rel=0.05)


def test_matrices_are_views_in_either_memory_order(small):
    weight = small.hidden.weight
    matrix = as_matrix(weight.detach(), weight)
    assert matrix.shape == (16, 72) and matrix.data_ptr() == weight.data_ptr()
    assert torch.equal(as_matrix(weight.detach().clone(memory_format=torch.contiguous_format), weight), matrix)


def test_zero_grad_leaves_no_gradient(small):
    """It clears them where they are: a CUDA graph that adds to them finds them there."""
    optimizer = MuonAdamW([small])
    small(torch.randn(2, 3, 9, 9)).backward()
    grad = small.hidden.weight.grad
    assert grad is not None and grad.any()
    optimizer.zero_grad()
    assert small.hidden.weight.grad is grad
    assert all(p.grad is None or not p.grad.any() for p in small.parameters())


def test_what_wants_no_gradient_stays(small):
    small.hidden.weight.requires_grad_(False)
    before = small.hidden.weight.clone()
    optimizer = MuonAdamW([small])
    small(torch.randn(2, 3, 9, 9)).backward()
    optimizer.aim()
    optimizer.move(0.1)
    assert torch.equal(small.hidden.weight, before) and not any(p is small.hidden.weight for p in optimizer.parameters)


def test_processes_that_share_the_matrices_end_where_one_alone_ends(tmp_path):
    two_steps(0, 1, tmp_path)
    run_group(two_steps, 2, tmp_path)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name, value in alone.items():
        assert torch.equal(first[name], value) and torch.equal(second[name], value), name
    mine, other = (sum(m.numel() for m in share) for share in MuonAdamW([Small()], 1, 2).shares)
    assert mine > 0 and other > 0, "both have work"
