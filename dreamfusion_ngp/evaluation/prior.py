"""How many of the prior's samples show what their captions say, by the embedded judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..config.presets import FRAMED_CAMERAS
from ..config.prompts import MODE_WORDS, view_prompt
from ..scene.cameras import orbit
from ..toybox.prior.latent_sampling import sample as latent_sample
from ..toybox.prior.loss import backgrounds, random_colors
from ..toybox.prior.sampling import sample
from ..toybox.world.captions import subject
from ..toybox.world.shapes import CLASSES, COLORS, DIRECTIONAL, PARAMETERS
from ..toybox.world.tracer import shade, trace
from .azimuths import right_sides
from .judge import SIZE, Judge, load_judge
from .pictures import AZIMUTHS, FLAT
from .retrieval import retrieved, toy_captions

ELEVATIONS = (15, 45)  # degrees
ALL = len(CLASSES) * len(COLORS)


@dataclass(frozen=True)
class Asked:
    """What one sample is asked to show: colours as they are, since lit ones may be dark, and clay has none. Angles in
    degrees."""

    name: str
    color: str
    azimuth: int
    elevation: int

    @property
    def text(self) -> str:
        return view_prompt(subject(self.name, self.color), f"az{self.azimuth} el{self.elevation}", MODE_WORDS[0])


def asked_samples(n: int) -> list[Asked]:
    """n requests: all classes in turn; the first 220 have every class in every colour, the first 1760 from each of
    eight sides."""
    names, found = list(COLORS), []
    for i in range(n):
        c, lap = i % len(CLASSES), i // len(CLASSES)
        found.append(
            Asked(
                CLASSES[c],
                names[(lap + c) % len(COLORS)],
                AZIMUTHS[(lap + 3 * c) % len(AZIMUTHS)],
                ELEVATIONS[(lap // len(AZIMUTHS) + c) % len(ELEVATIONS)],
            )
        )
    return found


def true_pictures(asked: list[Asked], seed: int = 0) -> torch.Tensor:
    """(n, 64, 64, 3) in [0, 1]: what the captions stand for in the training of the prior, in proportions, colours and
    backgrounds as random as there."""
    random, found, names = np.random.default_rng([seed, 11]), [], list(COLORS)
    for request in asked:
        focal = random.uniform(*FRAMED_CAMERAS.focal)
        camera = orbit([request.azimuth], [request.elevation], focal * random.uniform(*FRAMED_CAMERAS.distance), focal)
        u = torch.tensor(random.uniform(-1, 1, (1, PARAMETERS)), dtype=torch.float32)
        colors = random_colors(np.array([names.index(request.color)]), random)
        behind = backgrounds(1, SIZE, random)
        found.append(shade(trace(request.name, u, camera, SIZE), colors, torch.tensor([FLAT]), behind))
    return torch.cat(found).clamp(0, 1)


@torch.no_grad()
def judged(judge: Judge, pictures: torch.Tensor, asked: list[Asked]) -> list[dict]:
    """For each of the pictures (n, H, W, 3) in [0, 1]: whether the judge retrieves its class, its colour, and, where
    the class has a front, its azimuth (`azimuths`; None elsewhere)."""
    colored, _ = toy_captions()
    records = []
    for request, picture, best in zip(asked, pictures, retrieved(judge, pictures, colored), strict=True):
        name, color = CLASSES[int(best) // len(COLORS)], list(COLORS)[int(best) % len(COLORS)]
        view = None
        if request.name in DIRECTIONAL:
            view = bool(right_sides(judge, picture[None], request.name, [request.azimuth]))
        records.append({"class": name == request.name, "color": color == request.color, "view": view})
    return records


def is_right(record: dict) -> bool:
    """In all that applies."""
    return all(value is not False for value in record.values())


def summary(records: list[dict], asked: list[Asked]) -> dict:
    """Shares in [0, 1]: right in class, colour, view (of those with a front; None without any), and in all that
    applies; the latter for each class, too."""

    def share(values) -> float | None:
        known = [value for value in values if value is not None]
        return round(float(np.mean(known)), 4) if known else None

    whole = [is_right(record) for record in records]
    classes = {
        name: share(ok for ok, request in zip(whole, asked, strict=True) if request.name == name)
        for name in CLASSES
        if any(request.name == name for request in asked)
    }
    return {
        "samples": len(records),
        "right": share(whole),
        **{key: share(r[key] for r in records) for key in ("class", "color", "view")},
        "classes": classes,
    }


@dataclass(frozen=True)
class Judged:
    """Samples of a prior before the judge. pictures: (n, 64, 64, 3) in [0, 1]. records: as of `judged`, one for each of
    `asked`."""

    pictures: torch.Tensor
    asked: list[Asked]
    records: list[dict]

    def wrong(self) -> list[tuple[torch.Tensor, Asked, dict]]:
        """(picture, what was asked, record) of those that are not right."""
        every = zip(self.pictures, self.asked, self.records, strict=True)
        return [one for one in every if not is_right(one[2])]


def judged_samples(
    prior, judge: Judge, *, samples: int = ALL, scale: float = 4.0, steps: int = 30, seed: int = 0, draw=sample
) -> Judged:
    """`samples` pictures drawn by DDIM in `steps` steps with guidance `scale`, judged. draw: the sampler of the prior's
    kind."""
    asked = asked_samples(samples)
    pictures = draw(prior, [request.text for request in asked], scale=scale, steps=steps, seed=seed)
    return Judged(pictures, asked, judged(judge, pictures, asked))


def judge_prior(
    prior,
    judge: Judge | None = None,
    *,
    samples: int = ALL,
    scale: float = 4.0,
    steps: int = 30,
    seed: int = 0,
    draw=sample,
) -> dict:
    """The `summary` of `judged_samples`. judge: the embedded one by default. Raises CheckpointError where there is
    none."""
    found = judged_samples(
        prior, judge or load_judge(), samples=samples, scale=scale, steps=steps, seed=seed, draw=draw
    )
    return summary(found.records, found.asked) | {"scale": scale, "steps": steps, "seed": seed}


def judge_latent_prior(prior, judge: Judge | None = None, **settings) -> dict:
    """`judge_prior` of a latent prior, whose pictures the judge sees at its own size."""
    return judge_prior(prior, judge, draw=latent_sample, **settings)


def judge_truth(judge: Judge, *, samples: int = ALL, seed: int = 0) -> dict:
    """The `summary` of true pictures instead of the prior's: what the judge itself gets right."""
    asked = asked_samples(samples)
    return summary(judged(judge, true_pictures(asked, seed), asked), asked)
