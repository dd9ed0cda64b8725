"""The examples run, and do what they say."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_latent import latent_folders
from support.tiny_models import cache, config, embedding, folders, judged

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


def test_the_ops_alone_learn_a_signed_distance():
    error, slope = example("ops_alone").fit(steps=60, device="cpu", points=1024)
    assert error < 0.02 and 0.8 < slope < 1.2


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


@pytest.mark.parametrize("kind", ["if", "sdv"])
def test_own_rule_is_classifier_score_distillation_in_float64(kind, folders, latent_folders):
    """Its gradient on the image, of a model of pixels that predicts the noise and of one of latents that predicts v."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from dreamfusion_ngp.base.rng import Stream, generator
    from dreamfusion_ngp.guidance.load import load_guidance

    folder, image = {**folders, **latent_folders}[kind], torch.rand(3, 16, 16, 3, generator=torch.manual_seed(0))
    guidance = load_guidance(config(folder, precision="float32"), "cpu", example("own_rule").csd)
    found = judged(guidance, image[:, :8, :8] if kind == "if" else image, 4).gradient
    unet, leaf = UNet2DConditionModel.from_pretrained(folder / "unet").double(), image.double().requires_grad_()
    x = leaf.permute(0, 3, 1, 2) * 2 - 1
    if kind == "if":
        x = x[:, :, :8, :8]
    else:
        x = AutoencoderKL.from_pretrained(folder / "vae").double().encode(x).latent_dist.mean * 0.18215
    draws = generator(3, 4, Stream.GUIDANCE)
    order, offset = draws.random((2, 3))
    noise, loss = torch.from_numpy(draws.standard_normal(tuple(x.shape), dtype=np.float32)).double(), 0.0
    for b, word in enumerate(("front", "side", "back")):
        t = int((0.02 + 0.96 * (np.argsort(order)[b] + offset[b]) / 3) * 1000)
        abar = guidance.denoiser.schedule.abar[t]
        alpha, sigma = abar**0.5, (1 - abar) ** 0.5
        with torch.no_grad():
            z = (alpha * x[b] + sigma * noise[b])[None]
            texts = (embedding(guidance, text)[None].double() for text in (f"a red mug, {word} view", ""))
            cond, uncond = (unet(z, t, text).sample[0, : len(x[b])] for text in texts)
            difference = cond - uncond if kind == "if" else alpha * (cond - uncond)
        loss = loss + (x[b] * sigma**2 * difference).mean() / 3
    (wanted,) = torch.autograd.grad(loss, leaf)
    wanted = wanted[:, : found.shape[1], : found.shape[2]]
    assert (found - wanted).norm() < 2e-5 * wanted.norm() and wanted.abs().max() > 0


def test_own_rule_makes_a_mesh(tmp_path):
    mesh = example("own_rule").main(["--steps", "2", "--resolution", "8", "-o", str(tmp_path)])
    assert mesh.is_file() and mesh.stat().st_size > 10_000


@pytest.mark.parametrize("options", [{}, {"slice": 1}], ids=str)
def test_trained_guidance_learns_the_noise_and_resumes_bit_by_bit(folders, tmp_path, options):
    from support.tiny_runs import TINY

    from dreamfusion_ngp.guidance.load import load_guidance
    from dreamfusion_ngp.optimise.loop import train
    from dreamfusion_ngp.optimise.volume import VolumeStage
    from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint

    own, run = example("trained_guidance"), replace(TINY, steps=8, guidance=config(folders["if"], **options).guidance)

    def guidance():
        return load_guidance(run, "cpu", own.Variational(3, run.seed))

    whole, first, logs = guidance(), guidance(), []
    start = {name: value.clone() for name, value in whole.tensors().items()}
    stages = VolumeStage(run, "cpu"), VolumeStage(run, "cpu")
    train(stages[0], whole, lambda record: logs.append(record.plain()))
    assert not any(torch.equal(value, start[name]) for name, value in whole.tensors().items())
    train(stages[1], first, lambda record: record.step == 2)
    save_checkpoint(tmp_path / "c", stages[1])
    again, second = load_checkpoint(tmp_path / "c", "cpu"), guidance()
    train(again, second, lambda record: None)
    assert again.step == 8 and {"guidance.student.first", "guidance.momentum.last"} < again.tensors().keys()
    assert all(torch.equal(value, again.tensors()[name]) for name, value in stages[0].tensors().items())


def test_the_walkthrough_shows_a_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "walkthrough.py").read_text(encoding="utf-8")
    assert text.count("STEPS, SIZE = 20, 32") == 1
    exec(compile(text.replace("STEPS, SIZE = 20, 32", "STEPS, SIZE = 1, 8"), "walkthrough.py", "exec"), {})
    assert "gradient (4, 8, 8, 3)" in capsys.readouterr().out and (tmp_path / "walkthrough.png").stat().st_size > 500
