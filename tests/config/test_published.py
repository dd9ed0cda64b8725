"""Published configurations in this package's units, worked out by hand, and what the presets change of them."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config import published
from dreamfusion_ngp.config.checks import setting
from dreamfusion_ngp.config.io import to_dict
from dreamfusion_ngp.config.models import DETAILS
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import FieldConfig, RunConfig
from dreamfusion_ngp.evaluation import pictures
from dreamfusion_ngp.guidance import classifier_free, schedule
from dreamfusion_ngp.hub.names import ALIASES, preset_name
from dreamfusion_ngp.render.losses import opacity_loss, orientation_weight
from dreamfusion_ngp.runs import display as runs
from dreamfusion_ngp.scene.cameras import camera_rays, orbit

DOCS = Path(__file__).parents[2] / "docs" / "guidance.md"


def test_a_summed_loss_and_a_mean_with_converted_weights_have_parallel_gradients():
    """threestudio: half the squared distance of the latents to their target, summed, by the number of views; a loss of
    the opacity beside it."""
    torch.manual_seed(0)
    picture = torch.rand(2, 6, 6, dtype=torch.float64, requires_grad=True)
    encode = torch.randn(6, 4 * 9, dtype=torch.float64)
    pull = torch.randn(2, 4, 6, 9, dtype=torch.float64)

    def latents():
        return (picture @ encode).reshape(2, 6, 4, 9).transpose(1, 2)

    target = (latents() - pull).detach()
    theirs = 0.5 * ((latents() - target) ** 2).sum() / 2 + 3.0 * opacity_loss(picture)
    (wanted,) = torch.autograd.grad(theirs, picture)
    ours = (latents() * pull).mean() + published.mean_weight(3.0, 4 * 6 * 9) * opacity_loss(picture)
    (found,) = torch.autograd.grad(ours, picture)
    torch.testing.assert_close(found * 4 * 6 * 9, wanted)


def test_scales_of_both_forms_give_one_guidance():
    uncond, cond = torch.randn(2, 3, 4, dtype=torch.float64)
    for scale in (0.0, 7.5, 20.0, 100.0):
        ours = classifier_free.classifier_free_guidance(uncond, cond, published.scale_of(scale, "omega"))
        torch.testing.assert_close(ours, cond + scale * (cond - uncond))
        assert published.scale_of(scale, "s") == scale


@pytest.mark.parametrize("angle", [15.0, 40.0, 55.0, 70.0, 90.0])
def test_a_focal_length_sees_the_field_of_view(angle):
    (focal, same) = published.focal_of((angle, angle))
    assert focal == same
    _, rays = camera_rays(orbit([0.0], [0.0], 2.0, focal), 400)
    row = rays.reshape(400, 400, 3)[200]
    seen = math.degrees(math.acos(float((row[0] * row[-1]).sum())))
    assert seen == pytest.approx(angle, abs=angle / 300)  # between the centres of the first and last pixel
    assert published.focal_of((40.0, angle))[1] == pytest.approx(0.5 / math.tan(math.radians(20)))


@pytest.mark.parametrize(
    "ends, descending, first, last",
    [((0.02, 0.98), False, 20, 980), ((0.02, 0.5), False, 20, 500), ((0.3, 0.98), True, 19, 699)],
)
def test_timesteps_are_those_that_are_drawn_there(ends, descending, first, last):
    low, high = published.t_range_of(ends, descending)
    config = dataclasses.replace(RunConfig().guidance, t_range=(low, high), t_max_end=high)
    t = schedule.sample_timesteps(config, np.random.default_rng(0).random((2, 50_000)), 0.5, 1000)
    counts = np.bincount(t, minlength=1000)
    assert (t.min(), t.max()) == (first, last)
    inside = counts[first : last + 1]
    assert inside.min() > 0.9 * inside.mean() and inside.max() < 1.1 * inside.mean()


@pytest.mark.parametrize(
    "source, numbers, scale, elevation",
    [(published.DREAMFUSION_SD, 16384, 101.0, (-10.0, 45.0)), (published.DREAMFUSION_IF, 12288, 21.0, (-10.0, 90.0))],
)
def test_threestudios_configurations(source, numbers, scale, elevation):
    config = published.convert(source)
    camera, loss, optim, field = config.camera, config.loss, config.optim, config.field
    assert (config.steps, config.views, config.render.resolution, config.render.random_background) == (10000, 1, 64, 0)
    assert (camera.distance, camera.elevation) == ((1.5, 2.0), elevation)
    assert camera.focal == pytest.approx((0.7140740, 1.3737387))
    assert (camera.position_jitter, camera.look_at_std, camera.up_std) == (0.1, 0.2, 0.02)
    assert config.guidance.scale == scale and config.guidance.weighting == "sigma2"
    assert config.guidance.t_range == (0.02, 0.981) and config.guidance.t_max_end == 0.981
    assert loss.opacity == pytest.approx(1 / numbers) and loss.entropy == 0
    weights = [orientation_weight(loss, step / 10000) for step in (0, 2500, 5000, 9000)]
    assert weights == pytest.approx([10 / numbers, 505 / numbers, 1000 / numbers, 1000 / numbers])
    assert (optim.lr_grid, optim.lr_mlp, optim.lr_background, optim.final) == (1e-2, 1e-2, 1e-3, 1.0)
    assert (optim.betas, optim.eps) == ((0.9, 0.99), 1e-15)
    assert (field.bound, field.finest_resolution) == (2.0, 4096)
    assert (field.density, field.blob) == ("softplus", ("cone", 10.0, 0.5))
    assert field.coarse_to_fine == (8, 0.6)
    assert config.render.step == pytest.approx(1.732 * 4 / 512, rel=1e-4)
    albedo = config.light.albedo_only_until
    assert 2000 / 10000 < albedo <= 2001 / 10000 and config.light.lit_probability == 0.75


def test_rfds_for_stable_diffusion_3():
    config = published.convert(published.RFDS_SD3)
    guidance, loss = config.guidance, config.loss
    assert (guidance.scale, guidance.weighting, guidance.t_shifted) == (100.0, "velocity", True)
    assert (loss.opacity, loss.entropy, loss.orientation) == (0.1, 0.1, (0.0, 0.0))
    assert (config.render.resolution, config.render.resolution_doubles[0] * config.steps) == (256, 5000)
    assert (config.camera.distance, config.camera.position_jitter, config.light.lit_probability) == ((1.0, 1.5), 0, 0)
    assert (config.optim.lr_grid, config.optim.lr_mlp) == (1e-2, 1e-3) and config.render.random_background == 0.5


def flat(data: dict, path: str = "") -> dict:
    found = {}
    for key, value in data.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return found


@pytest.mark.parametrize("name", DETAILS)
def test_what_a_preset_changes_is_what_it_lists_with_reasons_in_the_docs_too(name):
    base, config = published.convert(DETAILS[name].base), preset(name, toys=False)
    before, after = flat(to_dict(base)), flat(to_dict(config))
    assert {k for k in after if after[k] != before[k]} == {"preset", *DETAILS[name].changes}
    lines = DOCS.read_text().split("\n")
    (row,) = [line for line in lines if line.startswith(f"| `{name}` |") and DETAILS[name].base.source in line]
    for path, (value, reason) in DETAILS[name].changes.items():
        assert setting(config, path) == value and len(reason) > 20
        assert f"`{path}`" in row, f"docs/guidance.md does not say that {name} changes {path}"
        assert any(line.startswith(f"| `{path}` |") for line in lines), f"no reason for {path} in docs/guidance.md"


def test_every_model_has_a_preset_of_its_family():
    assert preset_name("", "StableDiffusion3Pipeline") == ALIASES["sd35"].preset == "sd3"
    assert preset_name("", "StableDiffusionXLPipeline") == "sdxl" and preset_name("", "IFPipeline") == "if"
    assert preset_name("", "CLIPModel") == preset_name("", "SiglipModel") == ALIASES["clip-b32"].preset
    assert {alias.preset for alias in ALIASES.values()} == {*DETAILS, "dreamfields"}


class Asked(Exception):
    pass


def test_a_wider_cube_is_shown_from_further_off(monkeypatch):
    def orbit(azimuths, elevation, distance, focal):
        raise Asked(distance / focal)

    monkeypatch.setattr(runs, "orbit", orbit)
    monkeypatch.setattr(pictures, "orbit", orbit)

    def asked(show, bound: float) -> float:
        field = dataclasses.replace(preset("fast").field, bound=bound)
        with pytest.raises(Asked) as caught:
            show(SimpleNamespace(config=dataclasses.replace(preset("fast"), field=field)))
        return caught.value.args[0]

    for show in (lambda state: runs.display(state, [30.0], 20.0, 8), pictures.field_pictures):
        assert asked(show, FieldConfig.bound) == runs.DISPLAY_DISTANCE / runs.DISPLAY_FOCAL
        assert asked(show, 1.5) == pytest.approx(2 * asked(show, 0.75))
