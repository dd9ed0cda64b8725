"""What the UNet is told about each view, and that it is told just that."""

import logging

import pytest
import torch
from support.tiny_models import config, embedding, judged, recorded, views

from dreamfusion_ngp.guidance.classifier_free import classifier_free_guidance, perp_neg_guidance, rescale_guidance
from dreamfusion_ngp.guidance.load import load_guidance


def loaded(folder, **options):
    return load_guidance(config(folder, precision="float32", **options), "cpu")


def told(guidance, monkeypatch, seen, step=0):
    """Keywords of the UNet's one call, its batch, and its output, for renders of `seen`."""
    calls, forward = [], guidance.denoiser.forward

    def spy(batch, steps, hidden, **more):
        output = forward(batch, steps, hidden, **more)
        calls.append({"batch": batch, "hidden": hidden, "output": output.sample, **more})
        return output

    monkeypatch.setattr(guidance.denoiser, "forward", spy)
    judged(guidance, torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0)), step, seen)
    (call,) = calls
    return call


def test_mixed_words_are_mixed_embeddings(latent_folders, monkeypatch):
    guidance = loaded(latent_folders["sd"], view_blend="linear")
    hidden = told(guidance, monkeypatch, views((0.0, 45.0, 150.0)))["hidden"]
    front, side, back = (embedding(guidance, f"a red mug, {word} view") for word in ("front", "side", "back"))
    expected = [embedding(guidance, "")] * 3 + [front, (front + side) / 2, (side + 2 * back) / 3]
    torch.testing.assert_close(hidden, torch.stack(expected))


@pytest.mark.parametrize("kind", ["sd", "sdxl", "if"])
def test_perp_neg_asks_four_times_and_guides_by_the_formula(kind, latent_folders, folders, monkeypatch):
    guidance = loaded({**latent_folders, **folders}[kind], view_blend="perp-neg", scale=9.0)
    calls = recorded(guidance, monkeypatch)
    seen = views((30.0, 120.0, 10.0), elevation=[20.0, 20.0, 80.0])
    call = told(guidance, monkeypatch, seen)
    assert len(call["batch"]) == 4 * 3
    said = guidance.denoiser.texts.branches(seen)
    assert said.texts[2, :, 0].tolist() == [f"a red mug, {w} view" for w in ("front", "side", "front")]
    assert said.texts[3, :, 0].tolist() == [f"a red mug, {w} view" for w in ("side", "front", "side")]
    assert said.weights.shape == (2, 3) and (said.weights[:, 2] == 0).all() and (said.weights[:, :2] < 0).all()
    uncond, cond, *negatives = call["output"][:, : 3 if kind == "if" else 4].chunk(4)
    torch.testing.assert_close(calls[0][-1], perp_neg_guidance(uncond, cond, negatives, said.weights, 9.0))
    torch.testing.assert_close(calls[0][-1][2], classifier_free_guidance(uncond, cond, 9.0)[2])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_negative_prompt_is_the_unconditional_text(kind, latent_folders, monkeypatch):
    guidance = loaded(latent_folders[kind], negative="clay")
    call = told(guidance, monkeypatch, views())
    clay = embedding(guidance, "clay")
    torch.testing.assert_close(call["hidden"][:3], clay.expand(3, -1, -1))
    assert clay.abs().max() > 0
    if kind == "sdxl":
        torch.testing.assert_close(call["added_cond_kwargs"]["text_embeds"][0], embedding(guidance, "clay", "pooled"))
        plain = loaded(latent_folders[kind])
        assert plain.denoiser.texts.embeddings["hidden"][plain.denoiser.texts.rows[""]].abs().max() == 0, (
            "force_zeros_for_empty_prompt"
        )
    kept = loaded(latent_folders[kind], negative="clay", keep_view=True)
    assert kept.denoiser.texts.branches(views()).texts[0, :, 0].tolist() == [
        "clay, front view",
        "clay, side view",
        "clay, back view",
    ]


def test_rescaling_is_that_of_the_free_function(latent_folders, monkeypatch):
    guidance = loaded(latent_folders["sd"], rescale=0.7, scale=30.0)
    calls = recorded(guidance, monkeypatch)
    uncond, cond = told(guidance, monkeypatch, views())["output"].chunk(2)
    expected = rescale_guidance(classifier_free_guidance(uncond, cond, 30.0), cond, 0.7)
    torch.testing.assert_close(calls[0][-1], expected)


def test_clipping_in_the_image_bounds_every_pixel(latent_folders):
    rgb = torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    norms = []
    for limit in (None, 0.5):
        rgb.grad = None
        rgb.grad = judged(loaded(latent_folders["sd"], scale=30.0, clip_gradient=limit), rgb, 0).gradient
        norms.append(rgb.grad.norm(dim=-1) * rgb.numel())
    assert norms[0].max() > 0.6 and norms[1].max() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(norms[1], norms[0].clamp_max(0.5))


@pytest.mark.parametrize("kind", ["sd", "sdxl", "if"])
def test_a_long_prompt_says_which_words_are_cut(kind, latent_folders, folders, caplog):
    caplog.set_level(logging.WARNING)
    words = " ".join(8 * ["a red mug a blue mug a clay mug high low"])
    guidance = loaded({**latent_folders, **folders}[kind], prompt=words)
    cut = words.removeprefix(guidance.denoiser.texts.prompt).strip()
    assert cut and caplog.messages[-1].endswith(f"these words at the end of the prompt are ignored: {cut}")
    hidden = torch.stack(
        [
            embedding(guidance, f"{guidance.denoiser.texts.prompt}, {w} view").flatten()
            for w in ("front", "side", "back", "overhead")
        ]
    )
    apart = torch.pdist(hidden, float("inf")).min()
    assert apart > 1e-3 * hidden.abs().max(), "the words of the view are still read"


def test_a_long_negative_prompt_says_so_too(latent_folders, caplog):
    caplog.set_level(logging.WARNING)
    words = " ".join(["clay"] * 20)
    guidance = loaded(latent_folders["sd"], negative=words)
    kept = guidance.denoiser.texts.branches(views()).texts[0, 0, 0]
    assert (
        kept == " ".join(["clay"] * 14) and kept in guidance.denoiser.texts.rows
    )  # 16 tokens, two of them the start and the end
    assert caplog.messages[-1].endswith("are ignored: " + " ".join(["clay"] * 6))


def test_an_if_reads_small_letters(folders):
    small, large = (loaded(folders["if"], prompt=p) for p in ("a red mug", "A Red MUG"))
    assert torch.equal(small.denoiser.texts.embeddings["hidden"], large.denoiser.texts.embeddings["hidden"])


def test_the_annealing_of_t_follows_the_progress_it_is_given(latent_folders):
    guidance = loaded(latent_folders["sd"], t_max_end=0.05, t_window=0.01)
    image = torch.rand(3, 12, 12, 3)
    early, late = (guidance(image, views(), 60, progress).log["t"] for progress in (0.1, 0.9))
    assert early > 0.85 and late < 0.2
