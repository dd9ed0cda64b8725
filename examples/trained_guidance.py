"""A guidance that learns as it judges: variational score distillation (Wang et al., "ProlificDreamer", NeurIPS 2023,
eq. 9) with a small convolutional network as the student instead of a LoRA of the teacher,

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps_student(z_t, t)),    z_t = alpha_t x + sigma_t eps,

trained in every step to predict the noise on the renderings themselves: min |eps_student(z_t, t) - eps|^2.

    python examples/trained_guidance.py --prompt "a red mug" --steps 100

What `tensors()` names goes into the checkpoint and comes back from it in place, so a resumed run is the same run.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import conv2d, silu

from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.guidance.classifier_free import guided_noise
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.schedule import add_noise, weight
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import save_checkpoint


class Variational:
    """The rule, with its student's weights and their momentum."""

    def __init__(self, channels, seed, device="cpu", hidden=16, rate=0.01):
        draws, self.rate = generator(seed, 0, Stream.INIT), rate
        shapes = {"first": (hidden, channels + 1, 3, 3), "last": (channels, hidden, 3, 3)}
        start = {k: torch.tensor(draws.normal(0.0, 0.05, s), dtype=torch.float32) for k, s in shapes.items()}
        self.weights = {k: v.to(device).requires_grad_() for k, v in start.items()}
        self.momentum = {k: torch.zeros_like(v, device=device) for k, v in start.items()}

    def tensors(self):
        own = {f"student.{k}": v.detach() for k, v in self.weights.items()}
        return own | {f"momentum.{k}": v for k, v in self.momentum.items()}

    def student(self, z, sigma):
        """sigma z is the best linear guess at the noise in z, if clean images have unit variance."""
        hidden = conv2d(torch.cat([z, sigma.expand_as(z[:, :1])], 1), self.weights["first"], padding=1)
        return sigma * z + conv2d(silu(hidden), self.weights["last"], padding=1)

    def __call__(self, denoiser, x, noise, t, views, config, moment):
        alpha, sigma = denoiser.schedule.coefficients(t, x)
        z = add_noise(x, noise, alpha, sigma)
        noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, denoiser.schedule, config)
        with torch.enable_grad():
            own = self.student(z, sigma)
            gradients = torch.autograd.grad((own - noise).square().mean(), list(self.weights.values()))
        for name, gradient in zip(self.weights, gradients, strict=True):
            self.momentum[name].mul_(0.9).add_(gradient)
            self.weights[name].data.sub_(self.rate * self.momentum[name])
        return weight(alpha, sigma, config.weighting) * (noise_hat - own.detach())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("-o", "--out", type=Path, default=Path("trained_guidance.safetensors"))
    args = parser.parse_args()
    config = replace(preset("fast"), prompt=args.prompt, steps=args.steps)
    stage, guidance = VolumeStage(config, "cpu"), load_guidance(config, "cpu", Variational(3, config.seed))
    train(stage, guidance, lambda record: print(record.plain()))
    save_checkpoint(args.out, stage)
