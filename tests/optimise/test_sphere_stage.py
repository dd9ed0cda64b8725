"""The stage of a sphere, a volume before layers, and the losses that came with CLIP's two baselines."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY, all_finite

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.baselines import CLIP_MESH, DREAM_FIELDS
from dreamfusion_ngp.config.schema import GuidanceConfig, LossConfig, MeshConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.sphere import SphereStage
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.render.losses import opacity_target, transmittance_loss
from dreamfusion_ngp.render.mesh_losses import laplacian_weight
from dreamfusion_ngp.runs.stages import start

LAYERED = replace(TINY, guidance=GuidanceConfig(kind="clip"), steps=30)
SPHERE = replace(
    LAYERED,
    kind="sphere",
    mesh=MeshConfig(
        sphere_level=1, lr_offset=2e-2, laplacian=1.0, detail_levels=2, detail_finest=16, detail_log2_table=8, bump=0.01
    ),
)


class Wanted:
    """A guidance on layers: nothing is opaque right of the middle (`half`), what is left is red."""

    def tensors(self):
        return {}

    def __call__(self, image, views, part, progress):
        assert image.shape[-1] == 4 and (image[..., :3] <= image[..., 3:] + 1e-4).all(), "colours are over black"
        target = image[..., 3:] * torch.tensor([1.0, 0.0, 0.0, 0.0])
        target[..., 3] = 0.1
        difference = image - target
        return GuidanceOutput(difference / image.numel(), 0.5 * difference.square().mean(), {})


@pytest.mark.parametrize("config", [LAYERED, SPHERE], ids=["volume", "sphere"])
def test_layers_reach_a_guidance_and_its_gradient_the_scene(config):
    stage, values = start(config, "cpu"), []
    train(stage, Wanted(), lambda record: values.append((float(record.terms["sds"]), float(record.opacity))) and None)
    assert isinstance(stage, SphereStage if config.kind == "sphere" else VolumeStage) and all_finite(stage)
    assert values[-1][0] < 0.8 * values[0][0] and values[-1][1] < values[0][1]


def test_a_sphere_goes_on_from_its_tensors():
    def run(stage, until):
        train(stage, Wanted(), lambda record: stage.step >= until)
        return stage

    whole, first, second = run(SphereStage(SPHERE, "cpu"), 6), run(SphereStage(SPHERE, "cpu"), 3), None
    second = SphereStage(SPHERE, "cpu")
    for name, value in second.tensors().items():
        value.copy_(first.tensors()[name])
    second.restore(3, first.counters())
    run(second, 6)
    assert all(torch.equal(value, second.tensors()[name]) for name, value in whole.tensors().items())
    assert 0 < whole.occupied() < 1
    with pytest.raises(UsageError, match="takes nothing over"):
        SphereStage.start(SPHERE, "cpu", whole)


def test_transmittance_is_rewarded_up_to_the_target():
    opacity = torch.tensor([[[0.2]], [[0.9]]], requires_grad=True)
    loss = transmittance_loss(opacity, torch.tensor(0.5))
    assert loss.item() == pytest.approx(-(0.5 + 0.1) / 2)
    loss.backward()
    assert opacity.grad.flatten().tolist() == [0.0, 0.5], "what is clear enough is left alone"


def test_the_target_falls_as_dream_fields():
    """acct = 1.2 a(t), a from .5 to .1, log-linear over 500 of 10,000 steps."""
    at = [opacity_target(DREAM_FIELDS.loss, step / 10_000) for step in (0, 250, 500, 10_000)]
    assert at == pytest.approx([1.2 * 0.5, 1.2 * 0.05**0.5, 1.2 * 0.1, 1.2 * 0.1])
    state = VolumeStage(replace(LAYERED, loss=LossConfig(transmittance=0.5, opacity_target=(0.6, 0.01))), "cpu")
    found = []
    train(state, Wanted(), lambda record: found.append(float(record.terms["transmittance"])) and None)
    assert len(found) == 30 and all(-1 <= value <= 0 for value in found)


def test_the_laplacian_falls_as_clip_mesh():
    """w <- (w - 0.6) 10^(-1e-6 it) + 0.6 from 30, as its code has it step by step."""
    theirs = [30.0]
    for it in range(1, 2001):
        theirs.append((theirs[-1] - 0.6) * 10 ** (-1e-6 * it) + 0.6)
    scale = CLIP_MESH.mesh.laplacian / 30
    for it in (0, 500, 1000, 2000):
        assert laplacian_weight(CLIP_MESH.mesh, it / 2000) / scale == pytest.approx(theirs[it], rel=2e-3)
    assert laplacian_weight(MeshConfig(laplacian=0.3), 0.9) == 0.3
