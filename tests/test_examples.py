"""The examples run, and do what they say."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamfusion_ngp import preset
from dreamfusion_ngp.runs import outputs

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str):
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_own_field_is_the_density_of_a_signed_distance_and_makes_a_mesh(tmp_path):
    own = example("own_field")
    field = own.SignedDistance(0.75, seed=0)
    x = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.manual_seed(0)), dim=-1)
    for distance in (-0.2, -0.01, 0.01, 0.2):
        psi = 0.5 * torch.tensor(-abs(distance) / 0.05).exp()
        wanted = (1 - psi if distance < 0 else psi) / 0.05
        torch.testing.assert_close(field.density(x * (0.4 + distance)), wanted.expand(200), rtol=2e-4, atol=1e-5)
    h, _, grad_h = field(0.35 * x)
    torch.testing.assert_close(grad_h, -x, rtol=1e-4, atol=1e-4)
    grad_h.sum().backward()
    assert field.out.grad.isfinite().all() and field.out.grad.any(), "a loss on normals reaches the network"
    mesh = own.main(["--steps", "2", "--resolution", "8", "-o", str(tmp_path)])
    assert mesh.is_file() and mesh.stat().st_size > 10_000


def test_own_renderer_is_a_stage_that_resumes_bit_by_bit(tmp_path):
    from support.tiny_runs import TINY

    from dreamfusion_ngp.guidance.protocol import GuidanceOutput
    from dreamfusion_ngp.optimise.loop import train
    from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint

    class Red:
        def __call__(self, image, views, part, progress):
            miss = image - torch.tensor([1.0, 0.0, 0.0])
            return GuidanceOutput(miss / miss.numel(), miss.square().mean(), {})

        def tensors(self):
            return {}

    own, config = example("own_renderer"), replace(TINY, steps=12)
    whole, part, losses = own.Balls(config), own.Balls(config), []
    train(whole, Red(), lambda record: losses.append(float(record.terms["sds"])))
    assert losses[-1] < 0.7 * losses[0]
    train(part, Red(), lambda record: record.step == 4)
    save_checkpoint(tmp_path / "c", part)
    again = load_checkpoint(tmp_path / "c", "cpu", start=own.Balls.start)
    train(again, Red(), lambda record: None)
    assert torch.equal(again.balls, whole.balls)


def test_a_batch_goes_on_after_a_run_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "turntable_frames", lambda *_: [np.zeros((16, 16, 3), np.uint8)] * 48)
    small = replace(preset("fast"), steps=2, views=1)
    small = replace(small, render=replace(small.render, resolution=8, step=0.05))
    made, refused = (rows := example("batch").batch(small, tmp_path, ("a red mug", "a red dragon")))
    assert Path(made["result"]).stat().st_size > 10_000 and made["steps"] == "2"
    assert "dragon" in refused["result"] and refused["steps"] == "-"
    assert example("batch").table(rows).count("\n") == 3
