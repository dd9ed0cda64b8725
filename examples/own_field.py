"""A field of your own: a signed distance, made dense as in VolSDF (Yariv et al., NeurIPS 2021), in the usual loop.

    python examples/own_field.py --prompt "a red sphere" --steps 200

s(x) < 0 inside. The density is alpha Psi_beta(-s), alpha = 1 / beta, with the Laplace distribution function Psi_beta.
`Field` asks for its logarithm. `--set field.kind=sdf` is a field of this kind on the hash grid (docs/textmesh.md).
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.export.meshes import export_mesh
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.scene.distance_field import log_laplace_density
from dreamfusion_ngp.scene.field import Field


class SignedDistance(Field):
    """A ball of `radius` plus what a small network on sines and cosines of the position adds to it."""

    activation = "exp"

    def __init__(self, bound: float, seed: int, radius: float = 0.4, width: int = 32, frequencies: int = 3):
        super().__init__()
        self.bound, self.radius = bound, radius
        self.register_buffer("frequency", math.pi * 2.0 ** torch.arange(frequencies), persistent=False)
        draw = torch.Generator().manual_seed(seed)
        inputs = 3 + 6 * frequencies
        self.hidden = torch.nn.Parameter(torch.randn(width, inputs, generator=draw) / math.sqrt(inputs))
        self.out = torch.nn.Parameter(torch.zeros(4, width))  # a ball, exactly, and grey
        self.log_beta = torch.nn.Parameter(torch.tensor(math.log(0.05)))

    def parameter_groups(self):
        return {"mlp": [self.hidden, self.out, self.log_beta]}

    def distance(self, x):
        """World points (N, 3) -> signed distance (N,), colour before the sigmoid (N, 3)."""
        angle = (x[:, None] * self.frequency[:, None]).flatten(1)
        features = torch.nn.functional.softplus(torch.cat([x, angle.sin(), angle.cos()], -1) @ self.hidden.T)
        distance, color = (features @ self.out.T).split((1, 3), -1)
        return x.norm(dim=-1) - self.radius + distance[:, 0], color

    def forward(self, x, count=None):
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            distance, color = self.distance(x)
            (normal,) = torch.autograd.grad(distance.sum(), x, create_graph=learning)
        return log_laplace_density(distance, self.log_beta.exp().clamp(min=1e-3)), color, -normal


def main(argv=None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red sphere")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=32, help="pixels a side of the views")
    parser.add_argument("-o", "--out", type=Path, default=Path("outputs/own_field"))
    args = parser.parse_args(argv)
    config = replace(preset("fast"), prompt=args.prompt, steps=args.steps)
    config = replace(config, render=replace(config.render, resolution=args.resolution))
    field = SignedDistance(config.field.bound, config.seed)
    stage = VolumeStage(config, "cpu", field=field)
    train(stage, load_guidance(config, "cpu"), lambda record: None)
    args.out.mkdir(parents=True, exist_ok=True)
    return Path(export_mesh(field.density, field.albedo, field.bound, args.out, resolution=64)["paths"]["glb"])


if __name__ == "__main__":
    print(main())
