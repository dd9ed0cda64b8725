"""The verb `sample`: pictures of guidance models, against what the models know, and one line for what cannot be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_latent import latent_folders
from support.tiny_models import config, folders
from support.tiny_multiview import tiny_mvdream_folder

from dreamfusion_ngp import sample
from dreamfusion_ngp.base.errors import OutputError, UsageError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.presets import fast
from dreamfusion_ngp.config.schema import CameraConfig, GuidanceConfig
from dreamfusion_ngp.guidance.protocol import Predictions
from dreamfusion_ngp.guidance.sampling import ddim
from dreamfusion_ngp.guidance.schedule import Schedule
from dreamfusion_ngp.runs import sample as samples
from dreamfusion_ngp.runs.sample import side_views
from dreamfusion_ngp.toybox.oracle import cosine_schedule

__all__ = ["folders", "latent_folders"]


class Knowing:
    """A denoiser that knows the picture: its answer is right at every noise level. Without a text it is off by one."""

    shape, schedule, scale, views_together, device = (3, 8, 8), Schedule(cosine_schedule()), 1.0, False, "cpu"

    def __init__(self, picture):
        self.picture, self.asked = picture, []

    def predict(self, z, t, views):
        self.asked.append(int(t[0]))
        alpha, sigma = self.schedule.coefficients(t, z)
        right = (z - alpha * self.picture) / sigma
        return Predictions(right + 1, right)


def test_the_sampler_arrives_at_what_the_model_knows():
    picture = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    denoiser, noise = Knowing(picture), torch.randn(4, 3, 8, 8)
    views = side_views(config("x"), 4, 15.0)
    found = ddim(denoiser, noise, views, GuidanceConfig(scale=1.0), 5)
    torch.testing.assert_close(found, picture, atol=1e-3, rtol=0)
    assert denoiser.asked == [989, 791, 593, 396, 198]
    guided = ddim(denoiser, noise, views, GuidanceConfig(scale=2.0, clip_clean=True), 5)
    assert (guided - picture).abs().max() > 0.01 and guided.abs().max() <= 1 + 1e-5


def test_cameras_stand_in_front_and_go_around():
    views = side_views(fast(), 4, 15.0)
    np.testing.assert_allclose(views.cameras.azimuth.rad2deg(), [0, 90, 180, 270], atol=1e-4)
    np.testing.assert_allclose(views.cameras.elevation.rad2deg(), 15, atol=1e-4)
    camera = fast().camera
    assert float(views.cameras.position.norm(dim=1)[0]) == pytest.approx(
        np.mean(camera.distance) * np.mean(camera.focal), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["packed", "if", "sd", "sdxl", "sd3"])
def test_every_family_draws_and_a_seed_draws_again(kind, folders, latent_folders, tmp_path):
    made = config({**folders, **latent_folders}[kind], precision="float32")
    found = sample(made, tmp_path / "a.png", rows=2, steps=2, device="cpu")
    side = found.pictures.shape[2]
    assert found.pictures.shape == (2, 4, side, side, 3) and found.pictures.isfinite().all()
    assert found.pictures.min() >= 0 and found.pictures.max() <= 1 and found.pictures.std() > 0
    assert Image.open(found.path).size == (4 * side, 2 * side) and found.scale == 7.5
    again = sample(made, tmp_path / "b.png", rows=1, steps=2, device="cpu")
    torch.testing.assert_close(again.pictures[0], found.pictures[0])
    assert (found.pictures[0] - found.pictures[1]).abs().max() > 1e-2, "rows have noise of their own"
    sliced = replace(made, guidance=replace(made.guidance, slice=1))
    torch.testing.assert_close(
        sample(sliced, tmp_path / "c.png", rows=1, steps=2, device="cpu").pictures, again.pictures, atol=1e-3, rtol=0
    )


def test_a_row_of_a_model_of_several_views_is_one_object(tmp_path):
    (tmp_path / "model").mkdir()
    made = config(tiny_mvdream_folder(tmp_path / "model"), precision="float32", t_shared=True, view_words="none")
    made = replace(made, views=4, camera=CameraConfig(ring=4))
    found = sample(made, tmp_path / "a.png", rows=1, steps=1, device="cpu")
    assert found.pictures.shape == (1, 4, 16, 16, 3)


def test_the_embedded_prior_knows_its_toys(tmp_path):
    """Few steps suffice for the colour in the middle, whatever the side."""
    found = sample(replace(fast(), prompt="Mug, red!"), tmp_path / "a.png", rows=1, steps=4, device="cpu")
    middle = found.pictures[0, :, 28:36, 28:36].mean((1, 2))
    assert (middle[:, 0] > middle[:, 1] + 0.2).all() and (middle[:, 0] > middle[:, 2] + 0.2).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": 0}, "rows must be from 1 to 64"),
        ({"steps": 0}, "steps must be from 1 to 1000"),
        ({"elevation": 95.0}, "elevation must be from -90 to 90"),
    ],
)
def test_bad_numbers_are_refused(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        sample(replace(fast(), prompt="a red mug"), tmp_path / "a.png", **options)
    assert not (tmp_path / "a.png").exists()


def test_a_sheet_that_cannot_be_written_is_said_before_anything_is_drawn(folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(samples, "load_guidance", None)
    with pytest.raises(OutputError, match="cannot write"):
        sample(config(folders["packed"]), tmp_path / "file" / "a.png", rows=1, steps=1, device="cpu")
    with pytest.raises(OutputError, match="it is a folder"):
        sample(config(folders["packed"]), tmp_path, rows=1, steps=1, device="cpu")
    with pytest.raises(UsageError, match="does not end in .png"):
        sample(config(folders["packed"]), tmp_path / "a.jpg", rows=1, steps=1, device="cpu")


def test_the_command_draws_and_refuses_what_it_does_not_know(folders, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    args = ["sample", "a red mug", "--guidance", str(folders["packed"]), "--device", "cpu", "-o", str(out)]
    assert main([*args, "--rows", "1", "--steps", "1", "--guidance-scale", "9"]) == 0
    assert f"{out}: 1 row at guidance scale 9" in capsys.readouterr().out and out.exists()
    assert main(["sample", "a red peacock"]) == UsageError.exit_code
    assert "does not know 'peacock'" in capsys.readouterr().err
