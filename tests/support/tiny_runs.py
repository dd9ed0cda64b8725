"""Runs of seconds for the tests of what makes, saves and scores runs, and for those of the prior's training."""

from contextlib import contextmanager
from unittest.mock import patch

import torch

from dreamfusion_ngp.config.schema import CameraConfig, FieldConfig, OptimConfig, RenderConfig, RunConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.recorder import Recorder
from dreamfusion_ngp.toybox.prior.loss import TrainPriorConfig

TINY = RunConfig(
    prompt="a red mug",
    steps=40,
    views=2,
    camera=CameraConfig(look_at_std=0.0),
    field=FieldConfig(
        levels=4,
        base_resolution=4,
        finest_resolution=32,
        log2_table=12,
        hidden=16,
        density="exp",
        blob=("cone", 6.0, 0.3),
        density_bias=-1.0,
        background_hidden=8,
        background_frequencies=2,
    ),
    render=RenderConfig(
        resolution=12,
        step=0.05,
        occupancy_resolution=16,
        occupancy_threshold=0.001,
        budget=1 << 15,
        random_background=0.5,
    ),
    optim=OptimConfig(lr_grid=0.02, lr_mlp=0.01),
)
TINY_PRIOR = TrainPriorConfig(
    images=240,
    batch=8,
    text_phase=0.0,
    chunk=2,
    views_per_class=4,
    warmup_images=48,
    ema_half_life=32,
    report_every=3,
    sheet_steps=0,
)


class Target:
    """A guidance that wants every image to have one colour: 1/2 (image - colour)^2, exact gradient."""

    def __init__(self, color=(0.9, 0.1, 0.1)):
        self.color, self.seen = torch.tensor(color), []

    def tensors(self):
        return {}

    def __call__(self, image, views, part, progress):
        self.seen.append((part, tuple(views.modes)))
        difference = image - self.color.to(image)
        return GuidanceOutput(difference / image.numel(), 0.5 * difference.square().mean(), {"t": 0.5})


def indifferent(image, views, part, progress):
    """A guidance without a gradient."""
    return GuidanceOutput(torch.zeros_like(image), image.new_zeros(()), {})


def run(config, guidance=None, state=None, stop_after=None, device="cpu"):
    state, records = state or VolumeStage(config, device), []

    def observe(record):
        records.append(record.plain())
        return stop_after is not None and state.step >= stop_after

    train(state, guidance or Target(), observe)
    return state, records


@contextmanager
def stopping_at(step):
    """Within the block, runs stop once their stages together have made so many steps."""
    tell = Recorder.__call__

    def stopping(self, record):
        answer = tell(self, record)
        return True if self.state.before + self.state.step == step else answer

    with patch.object(Recorder, "__call__", stopping):
        yield


def all_finite(state) -> bool:
    return all(v.isfinite().all() for v in state.tensors().values() if v.is_floating_point())
