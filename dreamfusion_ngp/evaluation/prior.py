"""How many of the prior's samples fit their captions, according to the embedded judge."""

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
class Request:
    """What one sample should show, unlit, since lit colours may be dark and clay has none. Angles in degrees."""

    name: str
    color: str
    azimuth: int
    elevation: int

    @property
    def text(self) -> str:
        return view_prompt(subject(self.name, self.color), f"az{self.azimuth} el{self.elevation}", MODE_WORDS[0])


def sample_requests(n: int) -> list[Request]:
    """n requests: all classes in turn; the first 220 have every class in every colour, the first 1760 from each of
    eight sides."""
    names, requests = list(COLORS), []
    for i in range(n):
        c, lap = i % len(CLASSES), i // len(CLASSES)
        requests.append(
            Request(
                CLASSES[c],
                names[(lap + c) % len(COLORS)],
                AZIMUTHS[(lap + 3 * c) % len(AZIMUTHS)],
                ELEVATIONS[(lap // len(AZIMUTHS) + c) % len(ELEVATIONS)],
            )
        )
    return requests


def true_pictures(requests: list[Request], seed: int = 0) -> torch.Tensor:
    """(n, 64, 64, 3) in [0, 1]: true pictures of the requests, with random proportions, colours and backgrounds as in
    the training of the prior."""
    random, pictures, names = np.random.default_rng([seed, 11]), [], list(COLORS)
    for request in requests:
        focal = random.uniform(*FRAMED_CAMERAS.focal)
        camera = orbit([request.azimuth], [request.elevation], focal * random.uniform(*FRAMED_CAMERAS.distance), focal)
        u = torch.tensor(random.uniform(-1, 1, (1, PARAMETERS)), dtype=torch.float32)
        colors = random_colors(np.array([names.index(request.color)]), random)
        behind = backgrounds(1, SIZE, random)
        pictures.append(shade(trace(request.name, u, camera, SIZE), colors, torch.tensor([FLAT]), behind))
    return torch.cat(pictures).clamp(0, 1)


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: torch.Tensor, requests: list[Request]) -> list[dict]:
    """For each of the pictures (n, H, W, 3) in [0, 1]: whether the judge retrieves its class, its colour, and, where
    the class has a front, its azimuth (`azimuths`; None elsewhere)."""
    colored, _ = toy_captions()
    records = []
    for request, picture, best in zip(requests, pictures, retrieved(judge, pictures, colored), strict=True):
        name, color = CLASSES[int(best) // len(COLORS)], list(COLORS)[int(best) % len(COLORS)]
        view = None
        if request.name in DIRECTIONAL:
            view = bool(right_sides(judge, picture[None], request.name, [request.azimuth]))
        records.append({"class": name == request.name, "color": color == request.color, "view": view})
    return records


def is_right(record: dict) -> bool:
    """Whether a record is right in everything that applies."""
    return all(value is not False for value in record.values())


def summary(records: list[dict], requests: list[Request]) -> dict:
    """Shares in [0, 1]: right in class, colour, view (of toys with a front; None without any), and in everything that
    applies; the latter also for each class."""

    def share(values) -> float | None:
        numbers = [value for value in values if value is not None]
        return round(float(np.mean(numbers)), 4) if numbers else None

    whole = [is_right(record) for record in records]
    classes = {
        name: share(ok for ok, request in zip(whole, requests, strict=True) if request.name == name)
        for name in CLASSES
        if any(request.name == name for request in requests)
    }
    return {
        "samples": len(records),
        "right": share(whole),
        **{key: share(r[key] for r in records) for key in ("class", "color", "view")},
        "classes": classes,
    }


@dataclass(frozen=True)
class JudgedSamples:
    """Samples of a prior and their judgement. pictures: (n, 64, 64, 3) in [0, 1]. records: from `judge_pictures`, one
    for each of `requests`."""

    pictures: torch.Tensor
    requests: list[Request]
    records: list[dict]

    def wrong(self) -> list[tuple[torch.Tensor, Request, dict]]:
        """(picture, request, record) of the samples that are not right."""
        every = zip(self.pictures, self.requests, self.records, strict=True)
        return [one for one in every if not is_right(one[2])]


def judge_samples(
    prior, judge: Judge, *, samples: int = ALL, scale: float = 4.0, steps: int = 30, seed: int = 0, draw=sample
) -> JudgedSamples:
    """`samples` pictures drawn by DDIM in `steps` steps with guidance `scale`, judged. draw: the sampler of the prior's
    kind."""
    requests = sample_requests(samples)
    pictures = draw(prior, [request.text for request in requests], scale=scale, steps=steps, seed=seed)
    return JudgedSamples(pictures, requests, judge_pictures(judge, pictures, requests))


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
    """The `summary` of `judge_samples`. judge: the embedded one by default. Raises CheckpointError where there is
    none."""
    settings = {"scale": scale, "steps": steps, "seed": seed}
    result = judge_samples(prior, judge or load_judge(), samples=samples, draw=draw, **settings)
    return summary(result.records, result.requests) | settings


def judge_latent_prior(prior, judge: Judge | None = None, **settings) -> dict:
    """`judge_prior` of a latent prior, whose pictures are scaled to the judge's size."""
    return judge_prior(prior, judge, draw=latent_sample, **settings)


def judge_truth(judge: Judge, *, samples: int = ALL, seed: int = 0) -> dict:
    """The `summary` of true pictures instead of the prior's: the accuracy of the judge itself."""
    requests = sample_requests(samples)
    return summary(judge_pictures(judge, true_pictures(requests, seed), requests), requests)
