"""Whether four pictures show four sides of one toy, and of the requested one.

Of 60 rows of true pictures, three of every class, all pass. Of 60 rows in which every picture shows another toy of the
class, with its own colours and background, none does: the background differs in 59 of them, a part in 27, and the
resemblance of a row to one toy falls from .94 to .88 (medians)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..config.presets import FRAMED_CAMERAS
from ..config.prompts import MODE_WORDS, view_prompt
from ..guidance.multiview import VIEWS
from ..scene.cameras import orbit
from ..toybox.prior.multiview_sampling import sample
from ..toybox.world.captions import subject
from ..toybox.world.shapes import CLASSES, COLORS, PARAMETERS
from ..toybox.world.tracer import GBuffer, silhouette, trace
from .backdrop import backdrop, border, foreground
from .judge import SIZE, Judge, load_judge
from .prior import Request, is_right, judge_pictures

ELEVATIONS = (15, 45)  # degrees, in turn
BANK = 32  # toys of a class, in random proportions, with which a row is compared
SHAPE = 0.7  # least intersection over union with a toy of the bank, in the mean over the views
PAINT = 0.2  # largest difference of a part's mean colour between views, in one channel
PART = 25  # pixels: the colour of a smaller part is not compared


@dataclass(frozen=True)
class Bank:
    """Toys of one class from four sides. buffer: of (BANK VIEWS) views, those of a toy adjacent."""

    buffer: GBuffer

    def silhouettes(self) -> Tensor:
        """(BANK, VIEWS, H, W) bool."""
        return silhouette(self.buffer).unflatten(0, (-1, VIEWS))

    def slots(self, toy: int) -> Tensor:
        """(VIEWS, H, W): the part at each pixel, -1 at the background and at the toy's edge."""
        part = slice(toy * VIEWS, (toy + 1) * VIEWS)
        return torch.where(self.buffer.alpha[part] == 255, self.buffer.slot[part].int(), -1)


@cache
def bank(name: str, elevation: int, size: int = BANK) -> Bank:
    random = np.random.default_rng([17, CLASSES.index(name), elevation])
    focal = random.uniform(*FRAMED_CAMERAS.focal, size).repeat(VIEWS)
    distance = focal * random.uniform(*FRAMED_CAMERAS.distance, size).repeat(VIEWS)
    cameras = orbit(np.tile(np.arange(VIEWS) * 90, size), elevation, distance, focal)
    u = torch.tensor(random.uniform(-1, 1, (size, PARAMETERS)).repeat(VIEWS, 0), dtype=torch.float32)
    return Bank(trace(name, u, cameras, SIZE))


def resemblance(masks: Tensor, toys: Bank) -> tuple[float, int]:
    """The resemblance of the silhouettes (VIEWS, H, W) of a row to the most similar toy of a bank, as their
    intersection over union, averaged over the views; and the index of that toy."""
    toy_masks = toys.silhouettes()
    both, either = ((f(masks, toy_masks)).sum((-1, -2)) for f in (torch.logical_and, torch.logical_or))
    mean = (both / either.clamp(min=1)).mean(1)
    return float(mean.max()), int(mean.argmax())


def painted_alike(row: Tensor, behind: Tensor, slots: Tensor) -> bool:
    """Whether every part, and the background at the edges, has one mean colour in all views that show enough of it.
    behind: the backgrounds of the row. slots: of the most similar toy."""
    groups = [behind[:, border(row.shape[1])].mean(1)]
    for slot in slots.unique():
        masks = slots == slot
        enough = [row[v][masks[v]].mean(0) for v in range(len(row)) if slot >= 0 and int(masks[v].sum()) >= PART]
        groups += [torch.stack(enough)] if len(enough) > 1 else []
    return all(float((colors.amax(0) - colors.amin(0)).max()) <= PAINT for colors in groups)


def is_one_toy(row: Tensor, name: str, elevation: int) -> bool:
    """Whether a row of unlit pictures (VIEWS, H, W, 3) in [0, 1], from azimuths 0, 90, 180 and 270, shows one toy of
    the class: some proportions fit all sides, and the colours agree."""
    toys, behind = bank(name, elevation), backdrop(row)
    like, which = resemblance(foreground(row, behind), toys)
    return like >= SHAPE and painted_alike(row, behind, toys.slots(which))


def row_requests(n: int) -> list[list[Request]]:
    """n requests of VIEWS sides: all classes in turn, in changing colours."""
    names, rows = list(COLORS), []
    for i in range(n):
        lap, c = divmod(i, len(CLASSES))
        color, elevation = names[(lap + c * 5) % len(names)], ELEVATIONS[(lap + c) % len(ELEVATIONS)]
        rows.append([Request(CLASSES[c], color, 360 // VIEWS * k, elevation) for k in range(VIEWS)])
    return rows


def judge_rows(judge: Judge, rows: Tensor, requests: list[list[Request]]) -> dict:
    """Shares in [0, 1] of rows (n, VIEWS, H, W, 3). class, color, view: of the pictures, as in `prior.summary`. one:
    rows that are `is_one_toy`. right: rows that are one toy and whose pictures are all right; also by class."""
    records = judge_pictures(judge, rows.flatten(0, 1), [request for row in requests for request in row])
    ones = [is_one_toy(row, sides[0].name, sides[0].elevation) for row, sides in zip(rows, requests, strict=True)]
    whole = [one and all(map(is_right, records[i * VIEWS : (i + 1) * VIEWS])) for i, one in enumerate(ones)]

    def share(values) -> float | None:
        numbers = [value for value in values if value is not None]
        return round(float(np.mean(numbers)), 4) if numbers else None

    names = [sides[0].name for sides in requests]
    return {
        "samples": len(rows),
        "right": share(whole),
        **{key: share(r[key] for r in records) for key in ("class", "color", "view")},
        "one": share(ones),
        "classes": {n: share(ok for ok, name in zip(whole, names, strict=True) if name == n) for n in set(names)},
    }


def judge_multiview_prior(
    prior, judge: Judge | None = None, *, samples: int = 2 * len(CLASSES), scale: float = 4.0, steps: int = 30, seed=0
) -> dict:
    """`judge_rows` of `samples` rows drawn by DDIM in `steps` steps with guidance `scale`. judge: the embedded one by
    default. Raises CheckpointError where there is none."""
    requests = row_requests(samples)
    texts = [view_prompt(subject(row[0].name, row[0].color), "", MODE_WORDS[0]) for row in requests]
    rows = sample(
        prior, texts, [0] * samples, [row[0].elevation for row in requests], scale=scale, steps=steps, seed=seed
    )
    return judge_rows(judge or load_judge(), rows, requests) | {"scale": scale, "steps": steps, "seed": seed}
