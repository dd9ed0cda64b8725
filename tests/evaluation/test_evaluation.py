"""Scores of fields whose shapes are known: the true toy, and fields that are wrong in known ways."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.analytic import ball, solid, toy, toy_albedo, toy_distance, union

from dreamfusion_ngp.base.errors import ExportError, PromptError
from dreamfusion_ngp.evaluation import figures
from dreamfusion_ngp.evaluation.figures import FIGURES, toy_figures
from dreamfusion_ngp.evaluation.metrics.colors import color_scores, surface_colors
from dreamfusion_ngp.evaluation.metrics.silhouettes import evaluation_cameras, silhouette_iou
from dreamfusion_ngp.evaluation.metrics.volume import SCALES, fill_cavities, iou, pieces, volumetric_iou
from dreamfusion_ngp.evaluation.pictures import judging_cameras, lit_pictures, toy_pictures
from dreamfusion_ngp.scene.cameras import Cameras, camera_rays
from dreamfusion_ngp.scene.isolevel import LEVEL
from dreamfusion_ngp.toybox.world.shapes import COLORS, PARAMETERS
from dreamfusion_ngp.toybox.world.tracer import silhouette, trace

BOUND = 0.75


def moved(signed_distance, yaw=0.0, scale=1.0, shift=(0.0, 0.0, 0.0)):
    """The solid turned by `yaw` degrees (its front towards that azimuth), scaled, then shifted."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))

    def distance(x):
        x = (x - torch.tensor(shift)) / scale
        return scale * signed_distance(torch.stack([c * x[:, 0] - s * x[:, 2], x[:, 1], s * x[:, 0] + c * x[:, 2]], -1))

    return distance


def render_density(density, steps=120):
    """A plain volume renderer of opacity."""

    def opacity(cameras, resolution):
        origin, direction = camera_rays(cameras, resolution)
        depth = torch.zeros(len(origin))
        near, far = 0.95, 2.25
        for k in range(steps):
            x = origin + direction * (near + (k + 0.5) / steps * (far - near))
            inside = (x.abs() < BOUND).all(1)
            depth[inside] += density(x[inside]) * (far - near) / steps
        return (1 - torch.exp(-depth)).view(len(cameras), resolution, resolution)

    return opacity


def render_toy(name):
    def opacity(cameras, resolution):
        return trace(name, torch.zeros(len(cameras), PARAMETERS), cameras, resolution).alpha.float() / 255

    return opacity


@pytest.mark.parametrize("name", ["mug", "airplane", "torus"])
def test_a_toy_agrees_with_itself(name):
    result = volumetric_iou(toy(name), name, BOUND)
    assert result.iou >= 0.97 and result.unaligned >= 0.97 and result.level == LEVEL
    assert abs(result.scale - 1) < 0.03


@pytest.mark.parametrize("right, wrong", [("chair", "snowman"), ("airplane", "house"), ("torus", "sphere")])
def test_another_toy_scores_clearly_lower(right, wrong):
    assert volumetric_iou(toy(wrong), right, BOUND).iou < 0.65


@pytest.mark.parametrize("name, yaw, scale", [("chair", 137.0, 0.8), ("duck", -63.0, 1.25)])
def test_a_turned_and_scaled_toy_is_found(name, yaw, scale):
    result = volumetric_iou(solid(moved(toy_distance(name), yaw, scale)), name, BOUND)
    assert result.iou >= 0.95 and result.unaligned < 0.6
    assert abs((result.yaw - yaw + 180) % 360 - 180) < 3 and result.scale == pytest.approx(scale, rel=0.03)


def test_a_shift_and_a_scale_out_of_range_are_not_forgiven():
    shifted = volumetric_iou(solid(moved(toy_distance("torus"), shift=(0.0, 0.2, 0.0))), "torus", BOUND)
    small = volumetric_iou(solid(moved(toy_distance("sphere"), scale=0.5)), "sphere", BOUND)
    assert shifted.iou < 0.4
    assert small.iou == pytest.approx((0.5 / SCALES[0]) ** 3, abs=0.05)


def test_a_large_toy_is_compared_beyond_the_scene():
    """The part of the scaled toy that leaves the scene counts against the field."""
    result = volumetric_iou(lambda x: torch.full((len(x),), 50.0), "cube", 0.3)
    assert result.iou == pytest.approx(1.0, abs=0.06)
    assert result.scale == pytest.approx(0.3 / 0.29, rel=0.08)  # cells of 0.02
    assert volumetric_iou(toy("cube"), "cube", 0.2).unaligned == pytest.approx((0.2 / 0.29) ** 3, abs=0.05)

    def outside_is_never_asked(x):
        assert (x.abs() <= 0.3).all()
        return toy("cube")(x)

    volumetric_iou(outside_is_never_asked, "cube", 0.3)


def test_a_hollow_toy_is_filled_but_one_with_a_hole_is_not():
    def shell(x):
        return toy_distance("sphere")(x).abs() - 0.04

    assert volumetric_iou(solid(shell), "sphere", BOUND).iou > 0.95

    def pierced(x):
        channel = torch.maximum(x[:, [0, 2]].norm(dim=-1) - 0.12, -x[:, 1])
        return torch.maximum(shell(x), -channel)

    assert volumetric_iou(solid(pierced), "sphere", BOUND).iou < 0.6


def test_fill_cavities_fills_exactly_the_closed_ones():
    block = np.zeros((9, 9, 9), dtype=bool)
    block[1:8, 1:8, 1:8] = True
    hollow = block.copy()
    hollow[3:6, 3:6, 3:6] = False
    assert (fill_cavities(hollow) == block).all()
    open_ = hollow.copy()
    open_[4, 4, 6:] = False
    assert (fill_cavities(open_) == open_).all()
    edge = np.ones((4, 4, 4), dtype=bool)
    edge[0, 0, 0] = False  # an opening at the side of the grid is no cavity
    assert (fill_cavities(edge) == edge).all()
    assert iou(block, block) == 1 and iou(block, ~block) == 0 and iou(~np.ones(3, bool), ~np.ones(3, bool)) == 1


def test_empty_and_broken_fields_are_refused():
    with pytest.raises(ExportError, match="empty"):
        volumetric_iou(lambda x: torch.zeros(len(x)), "mug", BOUND)
    with pytest.raises(ExportError, match="not finite"):
        volumetric_iou(lambda x: torch.full((len(x),), math.nan), "mug", BOUND)


def test_the_cameras_see_the_whole_of_every_toy_in_24_views():
    cameras = evaluation_cameras()
    assert len(cameras) == len(torch.stack([cameras.azimuth, cameras.elevation], -1).unique(dim=0)) == 24
    for name in ("airplane", "rocket", "table", "boat", "lamp"):
        mask = silhouette(trace(name, torch.zeros(24, PARAMETERS), cameras, 48))
        assert not (mask[:, [0, 1, -2, -1]].any() or mask[:, :, [0, 1, -2, -1]].any())
        assert mask.float().mean((1, 2)).min() > 0.02


def test_silhouettes_of_a_toy_with_itself_and_in_the_wrong_pose():
    own = silhouette_iou(render_density(toy("chair", sharpness=3000.0, most=3000.0)), "chair")
    assert len(own) == 24 and min(own) >= 0.93 and np.mean(own) >= 0.97
    assert min(silhouette_iou(render_toy("duck"), "duck", resolution=64)) == 1.0
    sideways = render_density(solid(moved(toy_distance("chair"), yaw=90.0)), steps=60)
    turned = silhouette_iou(sideways, "chair", resolution=48)
    assert np.mean(turned) < 0.8
    assert np.mean(silhouette_iou(render_toy("snowman"), "chair", resolution=48)) < 0.6
    assert max(silhouette_iou(lambda c, r: torch.zeros(len(c), r, r), "chair", resolution=48)) == 0.0


def test_the_views_are_asked_for_in_order_and_with_the_resolution():
    asked = []

    def opacity(cameras: Cameras, resolution: int):
        asked.extend(zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True))
        return render_toy("mug")(cameras, resolution)

    assert silhouette_iou(opacity, "mug", resolution=32) == [1.0] * 24
    assert np.allclose(np.rad2deg(asked[:9]), [(a, -5) for a in range(0, 360, 45)] + [(0, 20)], atol=1e-4)


def test_colours_are_those_of_the_outside():
    """A red mug is mostly red; what lies inside a solid does not count."""
    density, albedo = toy("sphere"), toy_albedo("sphere", "red")

    def inside_blue(x):
        return torch.where(x.norm(dim=-1, keepdim=True) < 0.3, torch.tensor(COLORS["blue"]), albedo(x))

    colors = surface_colors(density, inside_blue, BOUND, LEVEL)
    error, share = color_scores(colors, "red")
    assert error < 1e-3 and share == 1.0
    error, share = color_scores(colors, "green")
    assert error > 0.4 and share == 0.0


def test_the_report_is_json_and_holds_every_figure():
    result = toy_figures(
        "a red mug", toy("mug"), render_toy("mug"), toy_albedo("mug", "red"), BOUND, toy_pictures("mug", COLORS["red"])
    )
    again = json.loads(json.dumps(result))
    assert set(again) < set(FIGURES), "every figure is explained"
    assert (again["faces"], again["extra_faces"], again["faces_like"], again["views_astray"]) == (1, 0, "true", 0)
    assert (again["pieces"], again["floaters"], again["watertight"]) == (1, 0.0, True) and again["chamfer"] < 0.01
    assert (again["class"], again["color"]) == ("mug", "red") and again["volumetric_iou"] > 0.97
    assert again["silhouette_iou"] == again["silhouette_iou_worst"] == 1.0 and len(again["views"]) == 24
    assert again["views"][9] == {"azimuth": 45, "elevation": 20.0, "iou": 1.0}
    assert 0.7 < again["color_share"] < 1.0 and again["color_error"] < 0.1  # the coffee is brown
    assert np.allclose(again["mean_color"], COLORS["red"], atol=0.15)


def test_a_wider_cube_makes_no_other_faces(monkeypatch):
    """The pictures of a field in a wider cube are from further off, and so are the templates."""
    known = {"scale": 1.0, "iso_level": LEVEL}
    monkeypatch.setattr(figures, "geometry", lambda *_, **__: known)
    monkeypatch.setattr(figures, "silhouette_iou", lambda *_: [1.0] * 24)
    margins = []
    for bound in (BOUND, 1.5):
        pictures = toy_pictures("duck", COLORS["red"], cameras=judging_cameras(scale=BOUND / bound))
        found = toy_figures("a red duck", toy("duck"), None, toy_albedo("duck", "red"), bound, pictures)
        assert (found["faces"], found["faces_like"], found["views_astray"]) == (1, "true", 0)
        margins.append(found["faces_margin"])
    assert margins[1] == pytest.approx(margins[0], abs=0.1)


def test_pictures_for_psnr_are_from_the_cameras_of_the_true_toy():
    seen = []

    def show(cameras, *_):
        seen.append(cameras.position)
        return [SimpleNamespace(rgb=torch.zeros(len(cameras), 2, 2, 3))]

    lit_pictures(SimpleNamespace(config=SimpleNamespace(field=SimpleNamespace(bound=1.5)), show=show), 2)
    assert torch.equal(seen[0], judging_cameras().position)


def test_prompts_without_a_colour_and_without_a_toy():
    result = toy_figures(
        "a sphere",
        toy("sphere"),
        render_toy("sphere"),
        toy_albedo("sphere", "red"),
        BOUND,
        toy_pictures("sphere", COLORS["red"], resolution=32),
    )
    assert result["faces"] is result["extra_faces"] is None, "a sphere has no front"
    assert result["color_error"] is None and result["color_share"] is None and result["color"] == ""
    with pytest.raises(PromptError, match="does not know"):
        toy_figures("a castle", toy("mug"), render_toy("mug"), toy_albedo("mug", "red"), BOUND, None)


def test_floating_pieces_count_against_the_result():
    clean = volumetric_iou(toy("sphere"), "sphere", BOUND).iou
    floaters = volumetric_iou(solid(union(toy_distance("sphere"), ball((0.55, 0.55, 0.55), 0.18))), "sphere", BOUND).iou
    assert floaters < clean - 0.05


def test_pieces_are_counted_and_weighed():
    solid = np.zeros((8, 8, 8), dtype=bool)
    assert pieces(solid) == (0, 0.0)
    solid[:3, :3, :3] = True
    assert pieces(solid) == (1, 0.0)
    solid[3, 3, 3] = True  # touches at a corner only
    solid[5:7, 5:7, 5:7] = True
    assert pieces(solid) == (3, pytest.approx(9 / 36)) and pieces(solid, smallest=2) == (2, pytest.approx(9 / 36))
