"""The whole loop against a diffusion model in closed form: cameras, view words, shading, gradients and optimiser
together.

The guidance knows the toy only through pictures; the shape that comes out is compared with the true one where it
stands, without any alignment. Measured over two seeds at density 3: torus .79 to .82, chair .57 to .60 by camera,
.52 to .57 by fine view words, .28 to .30 by the paper's four words, .22 to .25 without any; the sphere, one seed: .95.
"""

from dataclasses import replace
from functools import lru_cache
from time import perf_counter

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.presets import FRAMED_CAMERAS
from dreamfusion_ngp.config.schema import FieldConfig, GuidanceConfig, LightConfig, OptimConfig, RenderConfig, RunConfig
from dreamfusion_ngp.guidance.schedule import Schedule
from dreamfusion_ngp.optimise.volume import VolumeStage, train_step
from dreamfusion_ngp.toybox.oracle import Oracle, Posterior, cosine_schedule, posterior_mean
from dreamfusion_ngp.toybox.world.shapes import PARAMETERS, distance

SURFACE = 3.0  # density per world unit that counts as inside
CELLS = 32  # per axis of the comparison

SMALL = RunConfig(
    steps=100,
    views=4,
    camera=FRAMED_CAMERAS,
    light=LightConfig(albedo_only_until=0.2),
    field=FieldConfig(
        levels=4,
        log2_table=15,
        base_resolution=8,
        finest_resolution=32,
        hidden=16,
        background_hidden=0,
        blob=("gaussian", 8.0, 0.2),
        density_bias=-3.0,
    ),
    render=RenderConfig(
        resolution=32,
        step=1.5 * 3**0.5 / 64,
        budget=1 << 17,
        occupancy_resolution=32,
        random_background=1.0,
        occupancy_interval=8,
    ),
    guidance=GuidanceConfig(t_max_end=0.5),
    optim=OptimConfig(lr_grid=0.1, lr_mlp=1e-2, final=0.1),
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lru_cache
def shape(toy: str, view_words: str, camera: bool = False) -> torch.Tensor:
    """Occupied cells (CELLS^3,) of the field that SDS against the oracle makes of `toy`."""
    config = replace(SMALL, guidance=replace(SMALL.guidance, view_words=view_words))
    oracle, state = Oracle(config, toy, "red", camera), VolumeStage(config, "cpu")
    for _ in range(config.steps):
        train_step(state, oracle, config, perf_counter)
    return state.field.density(centres(CELLS, config.field.bound)) > SURFACE


def truth(toy: str) -> torch.Tensor:
    points = centres(CELLS, SMALL.field.bound)
    return (distance(toy, tuple(points[None, :, i] for i in range(3)), torch.zeros(1, PARAMETERS)) < 0)[0]


def centres(resolution: int, bound: float) -> torch.Tensor:
    axis = ((torch.arange(resolution) + 0.5) / resolution * 2 - 1) * bound
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def test_a_sphere_and_a_torus_come_out_of_view_words():
    assert iou(shape("sphere", "paper"), truth("sphere")) > 0.85
    assert iou(shape("torus", "fine"), truth("torus")) > 0.65


def test_a_chair_needs_views():
    chair = truth("chair")
    none = iou(shape("chair", "none"), chair)
    assert iou(shape("chair", "fine"), chair) > none + 0.15
    assert iou(shape("chair", "paper", camera=True), chair) > none + 0.15


def test_the_chair_faces_the_right_way():
    """Its back stands at -Z: turned by half a circle about the vertical axis, or mirrored upside down, it fits less."""
    made = shape("chair", "fine")
    chair = truth("chair").view(CELLS, CELLS, CELLS)
    turned, upside_down = chair.flip(0, 2).reshape(-1), chair.flip(1).reshape(-1)
    right = iou(made, chair.reshape(-1))
    assert right > iou(made, turned) + 0.1 and right > iou(made, upside_down) + 0.1


def test_the_oracle_is_the_posterior_mean():
    bank = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    z = 0.9 * bank[2] + 0.01 * torch.randn(3, 4, 4, dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(posterior_mean(z, bank, 0.9 * one, 0.01 * one), bank[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior_mean(z, bank, 0.0 * one, one), bank.mean(0))


def test_the_posterior_is_a_denoiser_for_every_rule():
    """Rules that ask for single texts get the answer that the others get: a bank knows of no text."""
    random = torch.Generator().manual_seed(0)
    banks = [torch.rand(5, 3, 8, 8, generator=random) * 2 - 1 for _ in range(2)]
    denoiser, t = Posterior(banks, Schedule(cosine_schedule())), np.array([200, 700])
    z = torch.randn(2, 3, 8, 8, generator=random)
    said = denoiser.predict(z, t, None)
    answers = denoiser.answers(z, t, None, ("text", "empty", "negative"))
    assert len(answers) == 3 and all(torch.equal(answer, said.cond) for answer in answers)
    alpha, sigma = denoiser.schedule.coefficients(t, z)
    clean = torch.stack([posterior_mean(*row) for row in zip(z, banks, alpha, sigma, strict=True)])
    torch.testing.assert_close(answers[0], (z - alpha * clean) / sigma)
