"""The student of vsd (Wang et al., "ProlificDreamer", NeurIPS 2023, section 3.3): the frozen UNet with a LoRA of its
attention, conditioned on camera and shading of a view as well, that learns to predict the noise on renderings. It is
the teacher's own network: the LoRA is only on for the student's calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..base.rng import Stream, generator
from ..base.slots import sent
from ..config.schema import GuidanceConfig
from ..scene.views import Views
from .denoisers.diffusion import DiffusionDenoiser, Family
from .pipeline_folder import installed
from .schedule import add_noise, target_of

ADAPTER, RANK = "vsd", 4
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CAMERA, SHADINGS = 16, 3  # numbers of a camera-to-world matrix; modes of `scene.lights`
WITHOUT_CAMERA = 0.1  # share of the student's training samples


def check_student(config: GuidanceConfig, family: Family) -> None:
    """Raise UsageError if a model's network cannot have a student."""
    if family.network != "unet":
        raise UsageError(
            f"rule vsd trains a LoRA of a UNet, and {config.model} has a {family.network}; rule asd has no LoRA"
        )
    if family.views_together:
        raise UsageError(f"rule vsd has lessons about single views, and {config.model} sees several; its rule is x0")
    if not installed("peft"):
        raise UsageError('rule vsd trains a LoRA, which takes one more package: pip install "dreamfusion_ngp[lora]"')
    if config.offload or config.compile is not None:
        raise UsageError("rule vsd trains what is in the UNet: guidance.offload and guidance.compile are not for it")


class Conditioning(nn.Module):
    """An addition (n, width) to the time embedding for cameras (n, 16) and shading modes (n,). The last layer and the
    table start at 0, so that the student starts as its teacher."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.last = nn.Linear(CAMERA, width), nn.Linear(width, width)
        self.shading = nn.Embedding(SHADINGS, width)

    def forward(self, camera: Tensor, modes: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.first(camera))) + self.shading(modes)


class Student:
    """Adds a LoRA to the denoiser's network; its parameters are float32, initialised from `seed`."""

    added: Tensor | None = None  # to the time embedding while the network is `awake`

    def __init__(self, denoiser: DiffusionDenoiser, seed: int):
        from peft import LoraConfig

        self.denoiser, self.network = denoiser, denoiser.network
        self.network.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION), adapter_name=ADAPTER)
        self.network.disable_adapters()
        embedding = self.network.time_embedding
        embedding.register_forward_hook(lambda _, __, out: out if self.added is None else out + self.added.to(out))
        self.conditioning = Conditioning(embedding.linear_2.out_features).to(denoiser.device)
        lora = {name: p for name, p in self.network.named_parameters() if f".{ADAPTER}." in name}
        if not lora:
            raise UsageError(f"rule vsd: the UNet of {denoiser.config.model} has no attention to train a LoRA of")
        self.parameters = lora | {f"conditioning.{name}": p for name, p in self.conditioning.named_parameters()}
        self._start(seed)
        self.optimiser = torch.optim.AdamW(self.parameters.values())
        self.updates = torch.zeros((), dtype=torch.float32)
        for p in self.parameters.values():
            self.optimiser.state[p] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def _start(self, seed: int) -> None:
        """First layers are uniform in +-1 / sqrt(inputs), like torch's linear layers, last layers 0."""
        random = generator(seed, 0, Stream.RULE_NOISE)
        for name, p in self.parameters.items():
            first = "lora_A" in name or name.startswith("conditioning.first")
            drawn = random.uniform(-1, 1, p.shape) / np.sqrt(CAMERA if "first" in name else p.shape[-1])
            p.data = torch.tensor(drawn if first else 0 * drawn, dtype=torch.float32, device=self.denoiser.device)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that learning changes in place: the parameters, AdamW's moments and its step count."""
        named = {"updates": self.updates}
        for name, p in self.parameters.items():
            state = self.optimiser.state[p]
            named |= {name: p.detach(), f"{name}.first": state["exp_avg"], f"{name}.second": state["exp_avg_sq"]}
        return {f"{ADAPTER}.{name}": value for name, value in named.items()}

    @torch.no_grad()
    def noise(self, z: Tensor, t: np.ndarray, views: Views) -> Tensor:
        """eps_hat (b, C, h, w) of z (b, C, h, w) at timesteps t (b,), by the prompt without view words."""
        alpha, sigma = self.denoiser.schedule.coefficients(t, z)
        with self.awake():
            return self.denoiser.schedule.noise(self.ask(z, t, views, np.ones(len(z))), z, alpha, sigma)

    def learn(
        self, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, with_camera: np.ndarray, rate: float
    ) -> Tensor:
        """One update on x with `noise` (b, C, h, w) at timesteps t. with_camera: (b,) 0 or 1, whether it gets the
        camera. Returns the mean squared error before the update."""
        schedule = self.denoiser.schedule
        alpha, sigma = schedule.coefficients(t, x)
        z, parameters = add_noise(x, noise, alpha, sigma), list(self.parameters.values())
        with torch.enable_grad(), self.awake():
            error = self.ask(z, t, views, with_camera) - target_of(x, noise, alpha, sigma, schedule.prediction)
            # The gradient of the sum does not underflow in float16. Adam ignores scale, but its eps and decay assume
            # the mean.
            gradients = torch.autograd.grad(error.square().sum(), parameters)
        for p, gradient, state in zip(parameters, gradients, self.optimiser.state.values(), strict=True):
            p.grad = gradient / error.numel()
            state["step"].copy_(self.updates)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.updates += 1
        return error.detach().square().mean()

    def ask(self, z: Tensor, t: np.ndarray, views: Views, with_camera: np.ndarray) -> Tensor:
        """The network's prediction while it is `awake`, in its own terms, (b, C, h, w) float32. with_camera: see
        `learn`."""
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(z), 1, 4)
        cameras = torch.cat([views.cameras.c2w.cpu(), bottom], 1).reshape(len(z), CAMERA)
        cameras = sent(cameras * torch.as_tensor(with_camera, dtype=torch.float32)[:, None], z.device)
        rows = self.denoiser.rows(z, t, views, self.denoiser.texts.branches_of(views, ["plain"]))
        self.added = self.conditioning(cameras, sent(np.asarray(views.modes, np.int64), z.device))
        return self.denoiser.ask(self.network, rows(slice(None))).float()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Within the block the LoRA is on and trainable."""
        self.network.enable_adapters()
        try:
            yield
        finally:
            self.network.disable_adapters()
            self.added = None
