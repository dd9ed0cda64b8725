"""Functions and networks that are captured at their fourth call; a tape stands for a CUDA graph."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tape import Tape
from support.tiny_latent import tiny_latent_folder
from support.tiny_models import config, judged, views

from dreamfusion_ngp.base.cuda_graphs import CudaCapture, Repeated, Replayed
from dreamfusion_ngp.guidance.load import load_guidance


def numbers(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_function_runs_thrice_as_it_is_and_then_from_its_graph():
    calls, tape = [], Tape()

    def function(a, b):
        calls.append(1)
        return a * 2 + b

    repeated = Repeated(function, tape)
    for seed in range(6):
        a, b = numbers(3, seed=seed), numbers(3, seed=seed + 9)
        assert torch.equal(repeated(a, b), a * 2 + b)
    assert len(calls) == 4 and tape.captured == 1 and tape.runs == 3


def test_a_network_has_a_graph_for_every_set_of_shapes_and_plain_arguments():
    calls, tape = [], Tape()

    def network(x, t=None, *, mask=None, extra=None, mode="plain"):
        calls.append(mode)
        y = x + t + (0 if mask is None else mask) + extra["deep"]["shift"]
        return SimpleNamespace(sample=-y if mode == "negative" else y)

    replayed = Replayed(network, tape)
    for size in (2, 3):
        for mode in ("plain", "negative"):
            for seed in range(6):
                x, t, mask, shift = (numbers(size, seed=10 * seed + k) for k in range(4))
                found = replayed(x, t, mask=mask, extra={"deep": {"shift": shift}}, mode=mode).sample
                expected = (x + t + mask + shift) * (-1 if mode == "negative" else 1)
                assert torch.equal(found, expected)
    assert len(calls) == 4 * 4 and tape.captured == 4
    assert torch.equal(replayed(x, t, mask=None, extra={"deep": {"shift": shift}}).sample, x + t + shift)


@pytest.mark.parametrize("kind", ["placed", "if", "eps", "sdxl"])
def test_guidance_through_graphs_is_the_same(folders, tmp_path, kind):
    """Bit for bit, for views, steps and noise levels that change; what the tape refuses would stop a capture."""
    folder = folders[kind] if kind in folders else tiny_latent_folder(tmp_path, kind)
    found = []
    for tape in (None, Tape()):
        guidance = load_guidance(config(folder), "cpu")
        if tape:
            guidance.denoiser.forward = Replayed(guidance.denoiser.network, tape)
        gradients = []
        for step in range(6):
            rgb = numbers(3, 16, 16, 3, seed=step).requires_grad_()
            rgb.grad = judged(guidance, rgb, step, views((10.0 * step, 90.0, 180.0))).gradient
            gradients.append(rgb.grad)
        found.append(torch.stack(gradients))
    assert tape.captured == 1 and tape.runs == 3
    assert torch.equal(*found) and found[0].abs().sum() > 0


# On a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["placed", "if"])
def test_guidance_in_cuda_graphs(cuda, folders, kind):
    plain, graphed = (load_guidance(replace(config(folders[kind]), cuda_graphs=on), cuda) for on in (False, True))
    assert isinstance(graphed.denoiser.forward, Replayed) and isinstance(graphed.denoiser.forward.capture, CudaCapture)
    for step in range(7):
        rgb = [numbers(3, 16, 16, 3, seed=step).to(cuda).requires_grad_() for _ in range(2)]
        for guidance, x in zip((plain, graphed), rgb, strict=True):
            x.grad = judged(guidance, x, step, views((10.0 * step, 90.0, 180.0))).gradient
        torch.testing.assert_close(rgb[1].grad, rgb[0].grad, rtol=1e-2, atol=1e-3 * float(rgb[0].grad.abs().max()))
    assert all(forward.replay is not None for forward in graphed.denoiser.forward.forwards.values())
