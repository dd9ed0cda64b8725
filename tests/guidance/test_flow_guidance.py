"""Stable Diffusion 3 as guidance: a tiny random pipeline against its own parts, the flow written out in float64."""

import json

import numpy as np
import pytest
import torch
from support.tiny_latent import tiny_flow_folder
from support.tiny_models import config, embedding, judged

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.guidance import memory, schedule
from dreamfusion_ngp.guidance.denoisers.flow import FLOW
from dreamfusion_ngp.guidance.load import load_guidance


def loaded(folder, **options):
    return load_guidance(config(folder, precision="float32", **options), "cpu")


def image(size=12) -> torch.Tensor:
    return torch.rand(3, size, size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


def in_float64(folder, rgb: torch.Tensor):
    """The transformer, a copy of rgb (3, H, H, 3) that takes a gradient, its latents (3, 4, 8, 8), and what seed 3
    draws in step 4: each view's place in [0, 1) among the noise levels and its noise (3, 4, 8, 8)."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel

    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    draws = generator(3, 4, Stream.GUIDANCE)
    order, offset = draws.random((2, 3))
    noise = torch.from_numpy(draws.standard_normal((3, 4, 8, 8), dtype=np.float32)).double()
    x = rgb.detach().double().requires_grad_()
    big = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=16, mode="bilinear", align_corners=False)
    latent = (vae.encode(big * 2 - 1).latent_dist.mean - 0.0609) * 1.5305
    net = SD3Transformer2DModel.from_pretrained(folder / "transformer").double()
    return net, x, latent, (np.argsort(order) + offset) / 3, noise


def reference_gradient(guidance, folder, rgb: torch.Tensor, scale: float) -> torch.Tensor:
    """Seed 3, step 4, the three views of `views()`, in the flow's own terms: z = (1 - s) x + s eps, velocity eps - x.
    The clean picture that it implies is the same one, whatever the schedule is called; w = s^2 / ((1 - s)^2 + s^2)."""
    net, x, latent, place, noise = in_float64(folder, rgb)
    loss = 0.0
    for b, word in enumerate(("front", "side", "back")):
        s = (int((0.02 + 0.96 * place[b]) * 1000) + 1) / 1000
        with torch.no_grad():
            z = (1 - s) * latent[b] + s * noise[b]
            velocity = []
            for prompt in ("", f"a red mug, {word} view"):
                row = guidance.denoiser.texts.rows[prompt]
                hidden, pooled = (
                    guidance.denoiser.texts.embeddings[key][row][None].double() for key in ("hidden", "pooled")
                )
                velocity.append(net(z[None], hidden, pooled, torch.tensor([1000.0 * s]).double()).sample[0])
            guided = velocity[0] + scale * (velocity[1] - velocity[0])
            noise_hat = z + (1 - s) * guided
            gradient = s**2 / ((1 - s) ** 2 + s**2) * (noise_hat - noise[b])
        loss = loss + (latent[b] * gradient).mean() / 3
    loss.backward()
    return x.grad


@pytest.mark.parametrize("options", [{}, {"slice": 2, "checkpoint": True}], ids=["whole", "frugal"])
def test_the_gradient_on_rgb_is_that_of_the_flow(latent_folders, options):
    guidance, rgb = loaded(latent_folders["sd3"], scale=9.0, **options), image()
    assert guidance.denoiser.family is FLOW and guidance.denoiser.schedule.prediction == "flow"
    rgb.grad = judged(guidance, rgb, 4).gradient
    expected = reference_gradient(guidance, latent_folders["sd3"], rgb, 9.0)
    error = (rgb.grad.double() - expected).norm() / expected.norm()
    assert error < 2e-5, float(error)


def test_flow_and_variance_preserving_terms_say_the_same():
    abar, t = schedule.flow_abar(1000), np.array([0, 250, 998])
    x, noise = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = schedule.signal_and_noise(abar, t, x)
    s = torch.tensor((t + 1) / 1000).reshape(3, 1, 1, 1)
    z = schedule.add_noise(x, noise, alpha, sigma)
    torch.testing.assert_close(z / (alpha + sigma), (1 - s) * x + s * noise)
    torch.testing.assert_close(schedule.predicted_noise(noise - x, z, alpha, sigma, "flow"), noise)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


@pytest.mark.parametrize("with_t5", [True, False])
def test_embeddings_are_those_of_the_pipelines_own_method(with_t5, latent_folders, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    folder = latent_folders["sd3"] if with_t5 else tiny_flow_folder(tmp_path, with_t5=False)
    absent = {} if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, low_cpu_mem_usage=False, **absent)
    prompt = "a red mug, front view"
    hidden, negative, pooled, _ = pipe.encode_prompt(prompt, None, None, device="cpu")
    guidance = loaded(folder)
    torch.testing.assert_close(embedding(guidance, prompt), hidden[0])
    torch.testing.assert_close(embedding(guidance, ""), negative[0])
    torch.testing.assert_close(embedding(guidance, prompt, "pooled"), pooled[0])


def test_it_has_a_plan_and_refuses_what_does_not_fit(latent_folders, tmp_path):
    plan = memory.plan(loaded(latent_folders["sd3"]).denoiser, 4, 16)
    assert plan.keys() == {"UNet", "UNet at work", "encoder", "encoder at work"} and min(plan.values()) > 0
    folder = tiny_flow_folder(tmp_path, with_t5=False)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "transformer": ["diffusers", "FluxTransformer2DModel"]}))
    with pytest.raises(PriorError, match="is not understood"):
        loaded(folder)
    for name in ("text_encoder", "tokenizer"):
        index[f"{name}_2"] = index[name]
        (folder / f"{name}_2").rename(folder / f"{name}_other")
        (folder / f"{name}_2").symlink_to(folder / name)
    path.write_text(json.dumps(index))
    with pytest.raises(PriorError, match="the text encoders give 48 and 32"):
        loaded(folder)


def test_preset_sd3_is_a_step_of_rfds(latent_folders):
    """Yang et al., ICLR 2025, written anew: z between the latents and noise at a sigma of the scheduler's table, by an
    index from 300 to 980; half of the mean of the squares (noise - latents - guided velocity), where RFDS has a
    random weight of mean 1/2 instead; here of every view, then their mean."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    folder, theirs = latent_folders["sd3"], preset("sd3").guidance
    names = ("scale", "weighting", "t_range", "t_max_end", "t_window", "t_shifted", "t_shared", "clip_clean", "rescale")
    guidance, rgb = loaded(folder, **{name: getattr(theirs, name) for name in names}), image()
    rgb.grad = judged(guidance, rgb, 4).gradient

    net, x, latents, place, noise = in_float64(folder, rgb)
    table = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    loss, indices = 0.0, []
    for b, word in enumerate(("front", "side", "back")):
        indices.append(999 - int(19 + 681 * place[b]))
        sigma, time = table.sigmas[indices[-1]].double(), table.timesteps[indices[-1]].double()
        with torch.no_grad():
            z = sigma * noise[b] + (1 - sigma) * latents[b]
            null, said = (
                net(
                    z[None],
                    *(
                        guidance.denoiser.texts.embeddings[key][guidance.denoiser.texts.rows[prompt]][None].double()
                        for key in ("hidden", "pooled")
                    ),
                    time[None],
                ).sample[0]
                for prompt in ("", f"a red mug, {word} view")
            )
            velocity = null + 100 * (said - null)
        loss = loss + 0.5 * ((noise[b] - latents[b] - velocity) ** 2).mean() / 3
    loss.backward()
    assert all(300 <= i <= 980 for i in indices) and max(indices) - min(indices) > 200
    assert (rgb.grad.double() - x.grad).norm() < 5e-5 * x.grad.norm()


def test_the_shifted_table_is_the_schedulers_from_its_clean_end(latent_folders):
    guidance = loaded(latent_folders["sd3"], t_shifted=True)
    low, high = preset("sd3").guidance.t_range
    t = np.array([round(low * 1000), round(high * 1000) - 1])
    alpha, sigma = (np.sqrt(v) for v in (guidance.denoiser.schedule.abar[t], 1 - guidance.denoiser.schedule.abar[t]))
    np.testing.assert_allclose(sigma / (alpha + sigma), [0.057692, 0.875], atol=1e-6)  # 3 u / (1 + 2 u) of .02 and .7
    np.testing.assert_allclose(guidance.denoiser.schedule.times[t], [57.6923, 875.0], atol=1e-3)


def test_a_noise_schedule_has_nothing_to_shift(latent_folders):
    with pytest.raises(UsageError, match="t_shifted is for models of a rectified flow.*DDIMScheduler"):
        loaded(latent_folders["sd"], t_shifted=True)


def test_every_noise_level_weighs_alike_with_velocity():
    """w (eps_hat - eps) is the difference of the velocities, whatever s is."""
    abar, t = schedule.flow_abar(1000), np.array([20, 500, 900])
    x, noise, velocity = torch.randn(3, 3, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = schedule.signal_and_noise(abar, t, x)
    z = schedule.add_noise(x, noise, alpha, sigma)
    noise_hat = schedule.predicted_noise(velocity, z, alpha, sigma, "flow")
    found = schedule.weight(alpha, sigma, "velocity") * (noise_hat - noise)
    torch.testing.assert_close(found, velocity - (noise - x))
