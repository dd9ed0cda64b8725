"""One optimisation step in three flat functions, before and after the guidance. They read what changes from step to
step from `State.eye` and `State.numbers` alone, wait for nothing and branch on nothing that a device computes, so that
CUDA graphs can hold them (executors.py); without graphs they run as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.rng import Stream, generator, kernel_stream, uniform
from ..base.slots import Slots
from ..config.schema import RunConfig, resolution_at
from ..render.losses import (
    eikonal_loss,
    entropy_loss,
    entropy_weight,
    opacity_loss,
    opacity_target,
    orientation_loss,
    orientation_weight,
    smoothness_loss,
    transmittance_loss,
)
from ..render.volume import Rays, Rendering, cast, flat_background, integrate
from ..scene.cameras import Cameras
from ..scene.distance_field import make_field
from ..scene.field import Field
from ..scene.fields import Background, random_background
from ..scene.occupancy import Occupancy
from ..scene.views import Views, sample_views
from .adam import Adam

CAMERA = ("c2w", "focal", "azimuth", "elevation")
REGULARISERS = ("orientation", "opacity_loss", "entropy", "smoothness", "eikonal", "transmittance")

EIKONAL_STRIDE = 4  # one sample in so many: the backward of the field skips samples without a gradient


class State:
    """Everything that a run changes: field, background network, occupancy grid, optimiser, and the number of the next
    step. refreshed: the part (`Draw.number`) before which the grid was refreshed last. whole, weights, guided: see
    `Stage` (stage.py). eye, numbers: what the functions of a step read; filled before each."""

    def __init__(self, config: RunConfig, device: str | torch.device, field: Field | None = None):
        """field: instead of that of `config.field`."""
        self.config, self.step, self.before, self.refreshed, self.whole = config, 0, 0, -1, True
        self.weights: dict[str, str] = {}
        self.guided: dict[str, Tensor] = {}
        self.field = (make_field(config.field, config.seed) if field is None else field).to(device)
        self.field.refresh()
        self.background = Background(config.field, config.seed).to(device) if config.field.background_hidden else None
        self.occupancy = Occupancy(config.render, self.field.bound).to(device)
        self.device = self.occupancy.bits.device
        optim = config.optim
        rates = {"grid": optim.lr_grid, "mlp": optim.lr_mlp}
        pairs = [(p, rates[name]) for name, group in self.field.parameter_groups().items() for p in group]
        if self.background is not None:
            pairs += [(p, optim.lr_background) for p in self.background.parameters()]
        self.adam = Adam(pairs, optim)

        def zeros(*shape):
            return np.zeros(shape, np.float32)

        views = config.views
        self.eye = Slots(
            device,
            stream=np.zeros(1, np.int64),
            c2w=zeros(views, 3, 4),
            focal=zeros(views),
            azimuth=zeros(views),
            elevation=zeros(views),
        )
        self.numbers = Slots(
            device,
            shading=zeros(views, 6),
            colors=zeros(views, 3),
            loss=zeros(len(REGULARISERS)),
            points=zeros(config.loss.eikonal_points if config.loss.eikonal else 0, 3),
            target=zeros(),
            factors=zeros(len(pairs), 2),
            **self.schedule(0.0),
        )
        self.field.bind({name: self.numbers[f"field.{name}"] for name in self.field.schedule(0.0)})
        self.show_progress(0.0)

    def schedule(self, progress: float) -> dict[str, np.ndarray]:
        """The scheduled values of the field, by their names in `numbers`; of one that another stage has finished those
        at the end of a run."""
        at = 1.0 if self.before else progress
        return {f"field.{name}": value for name, value in self.field.schedule(at).items()}

    def show_progress(self, progress: float) -> None:
        """Set the field's scheduled values for a fraction of the run, between steps and for pictures; a step sets its
        own."""
        for name, value in self.schedule(progress).items():
            self.numbers[name].copy_(torch.from_numpy(value), non_blocking=True)

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the whole state, in place: what a checkpoint holds apart from the config and the step."""
        tensors = {f"field.{k}": v.data for k, v in self.field.named_parameters()}
        if self.background is not None:
            tensors |= {f"background.{k}": v.data for k, v in self.background.named_parameters()}
        tensors |= {f"occupancy.{k}": v for k, v in self.occupancy.named_buffers()}
        for i, (first, second) in enumerate(self.adam.moments):
            tensors |= {f"adam.{i}.first": first, f"adam.{i}.second": second}
        tensors |= {"adam.nonfinite": self.adam.nonfinite}
        return tensors | {f"guidance.{k}": v.data for k, v in self.guided.items()}


@dataclass(frozen=True)
class Draw:
    """The random choices of a part of a step, except those of the guidance and the jitter. number: how many parts come
    before it in the run. progress: fraction of the run. colors: (B, 3) backgrounds. network: whether the background
    network takes their place. size: pixels a side."""

    number: int
    progress: float
    views: Views
    colors: Tensor
    network: bool
    size: int


def draw(config: RunConfig, number: int) -> Draw:
    """Part `number` of a run, `config.accumulate` of them a step. The background is the network's, or with the
    configured probability (always, without a network) one random colour per view, or ring of views."""
    progress = number // config.accumulate / config.steps
    random = generator(config.seed, number, Stream.VIEWS)
    views = sample_views(config.camera, config.light, config.views, progress, random)
    ring = config.camera.ring or 1
    colors, flat = random_background(-(-len(views) // ring), random), random.random() < config.render.random_background
    colors = colors.repeat_interleave(ring, 0)[: len(views)]
    network = config.field.background_hidden > 0 and not flat
    return Draw(number, progress, views, colors, network, resolution_at(config.render, progress))


def fill_eye(state: State, drawn: Draw) -> None:
    """Fill in what `cast_rays` reads."""
    cameras = {name: getattr(drawn.views.cameras, name) for name in CAMERA}
    state.eye.fill(stream=kernel_stream(drawn.number, Stream.MARCH), **cameras)


def fill_numbers(state: State, drawn: Draw) -> None:
    """Fill in what `look`, `learn` and every other call of the field read."""
    config = state.config
    step, weights = drawn.number // config.accumulate, config.loss
    state.numbers.fill(
        shading=drawn.views.shading,
        colors=drawn.colors,
        loss=(
            orientation_weight(weights, drawn.progress),
            weights.opacity,
            entropy_weight(weights, drawn.progress),
            weights.smoothness,
            weights.eikonal,
            weights.transmittance,
        ),
        points=eikonal_points(state, drawn.number),
        target=opacity_target(weights, drawn.progress),
        factors=state.adam.factors(step, config.steps),
        **state.schedule(drawn.progress),
    )


def eikonal_points(state: State, number: int) -> np.ndarray:
    """(P, 3) float32, uniform in the scene's cube, for part `number`; P is 0 without an eikonal loss."""
    shape = tuple(state.numbers["points"].shape)
    return (2 * uniform(shape, state.config.seed, number, Stream.EIKONAL) - 1) * np.float32(state.field.bound)


def refresh_is_due(config: RunConfig, number: int) -> bool:
    """Whether the occupancy grid is refreshed before part `number`."""
    return number % (config.render.occupancy_interval * config.accumulate) == 0


@dataclass(frozen=True)
class Look:
    """A rendering with its loss terms, kept until its gradient arrives. rgb: (B, H, W, 3), what the guidance sees,
    or (B, H, W, 4) layers. penalty: their weighted sum. opacity: mean. info: (2,) samples taken and dropped."""

    rgb: Tensor
    terms: dict[str, Tensor]
    penalty: Tensor
    opacity: Tensor
    info: Tensor


def cast_rays(state: State, size: int) -> Rays:
    """The rays of the cameras in `state.eye`, and their samples."""
    config, eye = state.config, state.eye
    return cast(
        state.occupancy,
        Cameras(*(eye[name] for name in CAMERA)),
        config.render,
        size=size,
        seed=config.seed,
        stream=eye["stream"],
    )


def look(state: State, rays: Rays, network: bool) -> Look:
    """Render `rays` over the background network or plain colours."""
    config, numbers = state.config, state.numbers
    background = state.background if network else flat_background(numbers["colors"])
    if config.guidance.layers:
        background = flat_background(torch.zeros_like(numbers["colors"]))
    rendering = integrate(state.field, rays, numbers["shading"], background, config.render)
    terms = losses(state, rendering)
    weights: dict[str, Tensor] = dict(zip(REGULARISERS, numbers["loss"].unbind(), strict=True))
    first, *others = (weights[name] * term for name, term in terms.items())
    penalty, opacity = sum(others, first), rendering.opacity
    rgb = torch.cat([rendering.rgb, opacity[..., None]], -1) if config.guidance.layers else rendering.rgb
    return Look(rgb, terms, penalty, opacity.detach().mean(), rendering.info)


def losses(state: State, rendering: Rendering) -> dict[str, Tensor]:
    """The unweighted regularisers of a rendering: three that are always computed, others if the config weights them."""
    terms = {
        "orientation": orientation_loss(rendering.orientation),
        "opacity_loss": opacity_loss(rendering.opacity),
        "entropy": entropy_loss(rendering.opacity),
    }
    if state.config.loss.smoothness:
        terms["smoothness"] = smoothness_loss(rendering.normal, rendering.opacity)
    if state.config.loss.eikonal:
        _, _, elsewhere = state.field(state.numbers["points"])
        some = rendering.gradient[::EIKONAL_STRIDE], (rendering.count + EIKONAL_STRIDE - 1) // EIKONAL_STRIDE
        terms["eikonal"] = eikonal_loss(*some) + eikonal_loss(elsewhere)
    if state.config.loss.transmittance:
        terms["transmittance"] = transmittance_loss(rendering.opacity, state.numbers["target"])
    return terms


def learn(state: State, rendering: Look, d_rgb: Tensor, last: bool) -> None:
    """Add the gradient of a part of a step, given that of `rendering.rgb`; after the last part update everything."""
    parameters, parts = [p for p, _ in state.adam.pairs], state.config.accumulate
    penalty = rendering.penalty if parts == 1 else rendering.penalty / parts
    gradients = torch.autograd.grad((rendering.rgb, penalty), parameters, (d_rgb, None), allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    if last:
        state.adam.step(state.numbers["factors"].unbind())
        state.field.refresh()
