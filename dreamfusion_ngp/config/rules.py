"""Settings that come with a distillation rule, each with its reason: its paper's for public models, and others for the
embedded priors. `with_rule` sets them over a preset, whose own are for `sds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..base.errors import UsageError
from .published import RFDS_SD3, t_range_of
from .schema import RunConfig


@dataclass(frozen=True)
class Rule:
    """source: where it was published.  cost: UNet evaluations per view. models: setting of GuidanceConfig -> (value,
    why), for public models.  toys: the same for the embedded priors, whose noise levels, scale and weighting are
    otherwise those of the preset."""

    source: str
    cost: str
    models: dict[str, tuple[object, str]] = field(default_factory=dict)
    toys: dict[str, tuple[object, str]] = field(default_factory=dict)


_LOW = (
    "the paper's scale, a thirteenth of that of SDS: what the rule subtracts is no raw noise, which a high scale hides"
)
_SIGMA2 = "the paper's w(t)"
_UNLIKE = "the words of NFSD (Katzir et al., ICLR 2024), for what is out of the distribution of pictures"
_UNREAL = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
_FLAWED = "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
_LOW_SCALE = {"scale": (7.5, _LOW), "rescale": (0.0, "a low scale does not over-saturate")}


def _levels(
    t_range: tuple[float, float], t_max_end: float, why: str, *, starts: float = 0.0, over: float = 1.0, **more: float
) -> dict[str, tuple[object, str]]:
    """All settings of the noise levels, so that none of a preset's is mixed in. starts: the lower end at the start.
    over: the fraction of the run in which both ends arrive."""
    settings = {"t_range": t_range, "t_max_end": t_max_end, "t_min_start": starts, "t_anneal": over, "t_window": 1.0}
    return {key: (value, why) for key, value in (settings | more).items()}


def _to_half(why: str, **more: float) -> dict[str, tuple[object, str]]:
    """t falls from (.02, .98), or from a higher lower end, to (.02, .50)."""
    return _levels((0.02, 0.98), 0.5, why, **more)


_RFDS_PAPER = "Yang et al., Text-to-Image Rectified Flow as Plug-and-Play Priors, ICLR 2025"
_RFDS = t_range_of(RFDS_SD3.t_ends, RFDS_SD3.descending)
_VELOCITIES = {
    "clip_clean": (False, "velocities are weighed, not clean images"),
    "rescale": (0.0, "velocities are weighed, not clean images"),
}
_OF_FLOWS = {
    **_VELOCITIES,
    "scale": (100.0, "the paper's"),
    "weighting": ("velocity", "the form's own"),
    "t_shifted": (True, "the noise levels of the model's own scheduler"),
    **_levels(_RFDS, _RFDS[1], "the paper's code: from .3 to .98 of the scheduler's table, which begins with noise"),
}

RULES = {
    "sds": Rule("Poole et al., DreamFusion, ICLR 2023", "2"),
    "linear": Rule("this package: the family of csd, nfsd and sds", "1 for each text whose weight is not 0"),
    "csd": Rule(
        "Yu et al., Classifier Score Distillation, arXiv 2310.19415",
        "2, with a negative prompt 3",
        {
            "scale": (1.0, "a factor of the whole gradient here, 1 in the paper"),
            "rescale": (0.0, "nothing is guided that could be rescaled"),
            "weighting": ("uniform", "the paper's first stage"),
            "negative": (_UNREAL, _UNLIKE),
            **_to_half("the paper's first stage: t falls to .5 in half of its steps", over=0.5),
        },
    ),
    "nfsd": Rule(
        "Katzir et al., Noise-Free Score Distillation, ICLR 2024",
        "2, with a negative prompt 3",
        {**_LOW_SCALE, "negative": (_UNREAL, _UNLIKE)},
    ),
    "bridge": Rule(
        "McAllister et al., Rethinking Score Distillation as a Bridge Between Image Distributions, arXiv 2406.09417",
        "2",
        {"scale": (100.0, "the paper's in 3D, in both of its stages"), "flaws": (_FLAWED, "the paper's words")},
    ),
    "x0": Rule(
        "Shi et al., MVDream, ICLR 2024",
        "2",
        {
            "scale": (50.0, "MVDream's"),
            "weighting": ("clean", "the form's own: the distance to the clean image, whatever t is"),
            "rescale": (0.5, "MVDream's share"),
            "rescale_of": ("clean", "MVDream's: clean images, all views together"),
            "t_shared": (True, "one factor for all views fits them only at one noise level"),
            **_to_half("MVDream's: both ends fall from .98, in 8000 of 10000 steps", starts=0.98, over=0.8),
        },
        {
            "rescale": (0.5, "MVDream's share"),
            "rescale_of": ("clean", "MVDream's: clean images, all views together"),
            "t_shared": (True, "one factor for all views fits them only at one noise level"),
        },
    ),
    "asd": Rule(
        "Ma et al., ScaleDreamer, ECCV 2024",
        "3",
        {
            **_LOW_SCALE,
            "weighting": ("sigma2", _SIGMA2),
            **_to_half("the paper's code: the lower end falls from .5, the upper one from .98 to .5", starts=0.5),
        },
    ),
    "ism": Rule(
        "Liang et al., LucidDreamer, CVPR 2024",
        "3 to 8",
        {
            **_LOW_SCALE,
            "weighting": ("clean", "the paper's w(t) = sigma / alpha"),
            "t_shared": (True, "as many steps of inversion for every view"),
            **_to_half("the paper's code: t falls to .5 in 1500 of 5000 steps", over=0.3),
        },
    ),
    "sdi": Rule(
        "Lukoianov et al., Score Distillation via Reparametrized DDIM, NeurIPS 2024",
        "2 (1 + 10 t), 16 at t = .7",
        {
            **_LOW_SCALE,
            "weighting": ("clean", "the distance to the clean image, whatever t is"),
            **_levels((0.25, 0.98), 0.25, "the paper's: t falls steadily, nothing of it is random", t_window=0.0),
            "t_shared": (True, "as many steps of inversion for every view"),
        },
    ),
    "vsd": Rule(
        "Wang et al., ProlificDreamer, NeurIPS 2023",
        "3, and one of the LoRA with its backward for a view a step",
        {
            **_LOW_SCALE,
            "weighting": ("sigma2", _SIGMA2),
            "t_shared": (True, "the paper's"),
            "lr_lora": (1e-4, "the paper's"),
            **_to_half("the paper's falls at once after 5000 of 25000 steps; here steadily in twice as many", over=0.4),
        },
        {"lr_lora": (1e-3, "a run has a twentieth of the paper's steps")},
    ),
    "rfds": Rule(_RFDS_PAPER, "2", _OF_FLOWS, _VELOCITIES),
    "rfds_rev": Rule(_RFDS_PAPER, "3", _OF_FLOWS, _VELOCITIES),
}


def with_rule(config: RunConfig, name: str, toys: bool) -> RunConfig:
    """The config, and those of the stages after it, with the rule called `name` and its settings. toys: an embedded
    prior guides. Raises UsageError that lists the known ones."""
    if name not in RULES:
        raise UsageError(f"unknown rule {name!r}; known rules: {', '.join(RULES)}")
    settings = RULES[name].toys if toys else RULES[name].models
    guidance = replace(config.guidance, rule=name, **{key: value for key, (value, _) in settings.items()})
    return replace(config, guidance=guidance, then=config.then and with_rule(config.then, name, toys))
