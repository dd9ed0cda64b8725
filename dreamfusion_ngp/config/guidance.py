"""Settings of guidance by subject. All keys are `guidance.NAME`; a function that needs one subject only takes that
class.
"""

from __future__ import annotations

from dataclasses import dataclass

from .limits import choice, interval, maybe, maybe_choice, number


@dataclass(frozen=True)
class MachineConfig:
    """How the model runs: precision, memory, compilation."""

    precision: str = choice("auto", "float32", "float16", "bfloat16")  # float16: on the CPU auto
    slice: int | None = maybe(1, 256)  # views encoded and denoised at a time; None: all
    checkpoint: bool = False  # the encoder's activations are recomputed in the backward pass
    offload: bool = False  # the UNet is on the GPU only while it works
    compile: str | None = maybe_choice("default", "reduce-overhead", "max-autotune")  # of the UNet, by torch.compile


@dataclass(frozen=True)
class WordsConfig:
    """What the text encoder gets besides the prompt."""

    view_words: str = choice("paper", "fine", "degrees", "none")  # config/prompts.py
    mode_words: bool = False  # name the shading mode; only for models that know the words
    keep_view: bool = False  # the unconditional branch keeps the view words
    view_blend: str = choice("nearest", "linear", "perp-neg")  # linear, perp-neg: embeddings mixed
    negative: str = ""  # negative prompt: the text of the unconditional branch
    flaws: str = ""  # rule bridge: words added to the prompt for the text to move away from


@dataclass(frozen=True)
class RuleConfig:
    """How the model's predictions become a gradient."""

    rule: str = choice(
        "sds", "linear", "csd", "nfsd", "bridge", "x0", "asd", "ism", "sdi", "vsd", "rfds", "rfds_rev"
    )  # of distillation: guidance/distill/, one per file; `--rule` also sets what goes with it (config/rules.py)
    weighting: str = choice("sigma2", "uniform", "clean", "velocity")  # w(t) (sds.py)
    weights: tuple[float, float, float, float] = number((1.0, -1.0, 0.0, 0.0), -1e6, 1e6)  # rule linear: text, empty
    # text, negative prompt, noise
    denoise_steps: int = number(1, 1, 100)  # rule sdi: from z_t to the target; 1: at once
    lr_lora: float = number(1e-4, 0, 1e3)  # rule vsd: of the LoRA and its conditioning
    clip_clean: bool = False  # the guided clean image is clipped to [-1, 1]
    rescale: float = number(0.0, 0, 1)  # strength of the rescaling of the guided prediction
    rescale_of: str = choice("prediction", "clean")  # sds.rescale_guidance of a view; sds.rescale_clean
    clip_gradient: float | None = maybe(1e-30, 1e9)  # largest norm of a pixel's gradient (sds.clip_pixels)


@dataclass(frozen=True)
class NoiseConfig:
    """At which noise levels, and with which noise."""

    t_range: tuple[float, float] = interval(0.02, 0.98, 0, 1)  # of the schedule
    t_max_end: float = number(0.98, 0, 1)  # upper end at the end of the run (annealed linearly)
    t_window: float = number(1.0, 0, 1)  # width: t is at least the upper end less this
    t_min_start: float = number(0.0, 0, 1)  # lower end at the start if above t_range[0], to which it falls linearly
    t_anneal: float = number(1.0, 1e-6, 1)  # fraction of the run after which both ends are final
    t_shared: bool = False  # one t for all views of a step
    t_shifted: bool = False  # a flow model's t goes by the shifted noise levels of its scheduler
    noise: str = choice("fresh", "shared")  # shared: attached to the object (guidance/shared_noise.py)
    noise_refresh: int = number(1000, 1, 1 << 40)  # batches of views until shared noise is wholly replaced


@dataclass(frozen=True)
class GuidanceConfig(MachineConfig, WordsConfig, RuleConfig, NoiseConfig):
    """Which model, and everything about it."""

    kind: str = choice("diffusion", "clip")  # a diffusion model to distil, or the cosine of a CLIP (ClipConfig)
    model: str = "toybox"  # "toybox", "toybox-256", "toybox-mv", "toybox-clip", or a short name, hub id or folder
    scale: float | None = None  # uncond + scale (cond - uncond); None: the model's own default
    resolution: int | None = maybe(1, 4096)  # pixels a side of what a latent model sees; None: its own
    loras: tuple[str, ...] = ()  # each FILE_FOLDER_OR_ID[:WEIGHT[:SHA-256]], added to the model's weights
    embeddings: tuple[str, ...] = ()  # of textual inversion, each FILE_FOLDER_OR_ID[:WORD[:SHA-256]]
    vae: str = ""  # folder or hub id of another VAE for the encoder (TAESD)
    control: str = (
        ""  # folder or hub id of the model of depth that paints: a ControlNet for `model`, or a whole pipeline
    )

    @property
    def layers(self) -> bool:
        """Whether the guidance takes renderings as colours over black plus opacity, and composites them with
        backgrounds of its own."""
        return self.kind == "clip"


@dataclass(frozen=True)
class ClipConfig:
    """The crops, backgrounds and texts for a CLIP (guidance.kind "clip"). Defaults: Dream Fields'."""

    windows: int = number(8, 1, 64)  # crops of each rendering, each with a background of its own
    share: tuple[float, float] = interval(80 / 88, 80 / 88, 0.05, 1)  # side of a crop, as a share of a rendering's side
    backgrounds: tuple[str, ...] = ("noise", "checker", "fourier")  # drawn from; there is "flat", too
    blur: tuple[float, float] = interval(0.0, 10.0, 0, 100)  # deviation in pixels of a picture of 224 a side
    kernel: int = number(15, 1, 99)  # taps of the blur there
    cells: tuple[int, int] = interval(8, 8, 1, 64)  # of a checkerboard, a side
    negative: float = number(0.0, 0, 1e3)  # weight of the cosine with guidance.negative
