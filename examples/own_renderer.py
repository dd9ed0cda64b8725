"""A scene and a renderer of your own: soft balls, splatted in plain torch, as a stage of the usual loop.

    python examples/own_renderer.py --prompt "a red mug" --steps 100

A stage is a class with the members of `optimise.stage.Stage`; loop, guidance and checkpoint ask for no more.
"""

import argparse
from dataclasses import replace

import torch

from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.adam import Adam
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.stage import StepRecord
from dreamfusion_ngp.scene.views import sample_views


def splat(balls, cameras, size):
    """Rows (x, y, z, log radius, r, g, b, opacity) -> images (B, size, size, 3) over white, the nearest ball first."""
    axis = ((torch.arange(size) + 0.5) / size - 0.5)[None, :, None]
    local = (balls[None, :, :3] - cameras.position[:, None]) @ cameras.c2w[:, :, :3]  # x right, y up, looking down -z
    depth = (-local[..., 2]).clamp(min=0.1)
    x, y, radius = (v * cameras.focal[:, None] / depth for v in (local[..., 0], local[..., 1], balls[:, 3].exp()))
    distance = (axis - x[:, None]).square()[:, None] + (-axis - y[:, None]).square()[:, :, None]  # (B, H, W, balls)
    alpha = torch.sigmoid(balls[:, 7]) * (-0.5 * distance / radius.square()[:, None, None]).exp()
    order = depth.argsort(-1)
    alpha = alpha.gather(-1, order[:, None, None].expand_as(alpha))
    free = torch.cat([torch.ones_like(alpha[..., :1]), (1 - alpha).cumprod(-1)], -1)
    return torch.einsum("bhwk,bkc->bhwc", alpha * free[..., :-1], torch.sigmoid(balls[:, 4:7])[order]) + free[..., -1:]


class Balls:
    def __init__(self, config, device="cpu"):
        self.config, self.device, self.step, self.whole = config, torch.device(device), 0, True
        self.weights, self.guided = {}, {}
        start = torch.tensor(generator(config.seed, 0, Stream.INIT).normal(0.0, 0.2, (64, 8)), dtype=torch.float32)
        self.balls = torch.nn.Parameter(start - 2.5 * torch.eye(8)[3])
        self.adam = Adam([(self.balls, config.optim.lr_grid)], config.optim)

    @classmethod
    def start(cls, config, device, previous=None):
        return cls(config, device)

    def advance(self, guidance, clock):
        config, began, progress = self.config, clock(), self.step / self.config.steps
        random = generator(config.seed, self.step, Stream.VIEWS)
        views = sample_views(config.camera, config.light, config.views, progress, random)
        image = splat(self.balls, views.cameras, config.render.resolution)
        output = guidance(image.detach(), views, self.step, progress)
        (self.balls.grad,) = torch.autograd.grad(image, [self.balls], output.gradient)
        self.whole = False
        self.adam.step([torch.tensor(f) for f in self.adam.factors(self.step, config.steps)])
        self.step, self.whole, none = self.step + 1, True, torch.zeros(2)
        seconds = {"guidance": 0.0, "field": clock() - began, "other": 0.0}
        return StepRecord(self.step - 1, {"sds": output.value}, output.log, none[0], none, self.adam.nonfinite, seconds)

    def tensors(self):
        first, second = self.adam.moments[0]
        own = {"balls": self.balls.data, "first": first, "second": second, "nonfinite": self.adam.nonfinite}
        return own | {f"guidance.{name}": value for name, value in self.guided.items()}

    def counters(self):
        return {}

    def restore(self, step, counters):
        self.step = step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    config = replace(preset("fast"), prompt=args.prompt, steps=args.steps)
    train(Balls(config), load_guidance(config, "cpu"), lambda record: print(record.plain()))
