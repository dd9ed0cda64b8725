"""Whether four pictures show four sides of one toy, and of the one that was asked for.

Of 36 rows of true pictures of six classes (mug, car, chair, house, airplane, cone) 33 pass; the others stand before
patterns, from which silhouettes cannot be told. Of 36 rows of which every picture shows another toy of the class, in
colours and before a background of its own, none does: parts and backgrounds differ in all of them, and the mean
resemblance of a row to one toy falls from .93 to .85 (medians)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..config.presets import FRAMED_CAMERAS
from ..config.prompts import MODE_WORDS, view_prompt
from ..scene.cameras import orbit
from ..toybox.prior.multiview_sampling import sample
from ..toybox.world.captions import subject
from ..toybox.world.shapes import CLASSES, COLORS, PARAMETERS
from ..toybox.world.tracer import GBuffer, silhouette, trace
from .judge import SIZE, Judge, load_judge
from .prior import Asked, is_right, judged

VIEWS = 4
ELEVATIONS = (15, 45)  # degrees, in turn
BANK = 32  # toys of a class, in random proportions, among which a row is sought
BORDER = 3  # pixels at the edges of a picture, where no toy is
CONTRAST = 0.12  # of a pixel with the background, in one channel
SHAPE = 0.7  # least intersection over union with a toy of the bank, in the mean over the views
PAINT = 0.2  # largest difference of a part's mean colour between views, in one channel
PART = 25  # pixels from which on a part's colour is compared


@dataclass(frozen=True)
class Bank:
    """Toys of one class from four sides. buffer: of (BANK VIEWS) views, those of a toy side by side."""

    buffer: GBuffer

    def silhouettes(self) -> Tensor:
        """(BANK, VIEWS, H, W) bool."""
        return silhouette(self.buffer).unflatten(0, (-1, VIEWS))

    def slots(self, toy: int) -> Tensor:
        """(VIEWS, H, W): the part at each pixel, -1 at the background and at the toy's edge."""
        part = slice(toy * VIEWS, (toy + 1) * VIEWS)
        return torch.where(self.buffer.alpha[part] == 255, self.buffer.slot[part].int(), -1)


@cache
def bank(name: str, elevation: int, size: int = BANK, seed: int = 17) -> Bank:
    random = np.random.default_rng([seed, CLASSES.index(name), elevation])
    focal = random.uniform(*FRAMED_CAMERAS.focal, size).repeat(VIEWS)
    distance = focal * random.uniform(*FRAMED_CAMERAS.distance, size).repeat(VIEWS)
    cameras = orbit(np.tile(np.arange(VIEWS) * 90, size), elevation, distance, focal)
    u = torch.tensor(random.uniform(-1, 1, (size, PARAMETERS)).repeat(VIEWS, 0), dtype=torch.float32)
    return Bank(trace(name, u, cameras, SIZE))


def backdrop(pictures: Tensor) -> Tensor:
    """(n, H, W, 3): the plane in x and y that fits the borders of pictures (n, H, W, 3) best, in every channel."""
    side = pictures.shape[1]
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y], -1).view(-1, 3)
    inner = torch.zeros(side, side, dtype=torch.bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    edge = ~inner.flatten()
    fit = torch.linalg.pinv(basis[edge]) @ pictures.flatten(1, 2)[:, edge]
    return (basis @ fit).view_as(pictures)


def resemblance(row: Tensor, toys: Bank) -> tuple[float, int]:
    """How like a row of pictures (VIEWS, H, W, 3) is to the most similar toy of a bank, as the intersection over union
    of their silhouettes in the mean over the views, and which one that is."""
    found = (row - backdrop(row)).abs().amax(-1) > CONTRAST
    known = toys.silhouettes()
    both, either = ((f(found, known)).sum((-1, -2)) for f in (torch.logical_and, torch.logical_or))
    mean = (both / either.clamp(min=1)).mean(1)
    return float(mean.max()), int(mean.argmax())


def painted_alike(row: Tensor, slots: Tensor) -> bool:
    """Whether every part, and the background, has one colour in all views that show enough of it. slots: of the most
    similar toy."""
    behind = backdrop(row)[:, row.shape[1] // 2, row.shape[2] // 2]
    groups = [behind]
    for slot in slots.unique():
        masks = slots == slot
        enough = [row[v][masks[v]].mean(0) for v in range(len(row)) if slot >= 0 and int(masks[v].sum()) >= PART]
        groups += [torch.stack(enough)] if len(enough) > 1 else []
    return all(float((colors.amax(0) - colors.amin(0)).max()) <= PAINT for colors in groups)


def is_one_toy(row: Tensor, name: str, elevation: int) -> bool:
    """Whether a row of unlit pictures (VIEWS, H, W, 3) in [0, 1], from azimuths 0, 90, 180 and 270, shows one toy of
    the class: some proportions fit all sides, and so do the colours."""
    toys = bank(name, elevation)
    like, which = resemblance(row, toys)
    return like >= SHAPE and painted_alike(row, toys.slots(which))


def asked_rows(n: int) -> list[list[Asked]]:
    """n requests of VIEWS sides: all classes in turn, in changing colours."""
    names, found = list(COLORS), []
    for i in range(n):
        lap, c = divmod(i, len(CLASSES))
        color, elevation = names[(lap + c * 5) % len(names)], ELEVATIONS[(lap + c) % len(ELEVATIONS)]
        found.append([Asked(CLASSES[c], color, 360 // VIEWS * k, elevation) for k in range(VIEWS)])
    return found


def judge_rows(judge: Judge, rows: Tensor, asked: list[list[Asked]]) -> dict:
    """Shares in [0, 1] of rows (n, VIEWS, H, W, 3). class, color, view: of the pictures, as in `prior.summary`. one: of
    the rows that are `is_one_toy`. right: of the rows all of whose pictures are right, and which are one toy; by class,
    too."""
    records = judged(judge, rows.flatten(0, 1), [request for row in asked for request in row])
    ones = [is_one_toy(row, wanted[0].name, wanted[0].elevation) for row, wanted in zip(rows, asked, strict=True)]
    whole = [one and all(map(is_right, records[i * VIEWS : (i + 1) * VIEWS])) for i, one in enumerate(ones)]

    def share(values) -> float | None:
        known = [value for value in values if value is not None]
        return round(float(np.mean(known)), 4) if known else None

    names = [wanted[0].name for wanted in asked]
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
    asked = asked_rows(samples)
    texts = [view_prompt(subject(row[0].name, row[0].color), "", MODE_WORDS[0]) for row in asked]
    rows = sample(prior, texts, [0] * samples, [row[0].elevation for row in asked], scale=scale, steps=steps, seed=seed)
    return judge_rows(judge or load_judge(), rows, asked) | {"scale": scale, "steps": steps, "seed": seed}


def true_rows(asked: list[list[Asked]], seed: int = 0, one: bool = True) -> Tensor:
    """(n, VIEWS, 64, 64, 3) true pictures for requests, in proportions, colours and backgrounds as random as in the
    prior's training; one: of one toy a row, else of another in every picture."""
    from ..toybox.prior.loss import backgrounds, random_colors
    from ..toybox.world.tracer import shade
    from .pictures import FLAT

    random, rows, names = np.random.default_rng([seed, 13]), [], list(COLORS)
    times = VIEWS if one else 1
    for wanted in asked:
        n = VIEWS // times
        focal = random.uniform(*FRAMED_CAMERAS.focal, n).repeat(times)
        distance = focal * random.uniform(*FRAMED_CAMERAS.distance, n).repeat(times)
        cameras = orbit([w.azimuth for w in wanted], wanted[0].elevation, distance, focal)
        u = torch.tensor(random.uniform(-1, 1, (n, PARAMETERS)).repeat(times, 0), dtype=torch.float32)
        colors = random_colors(np.full(n, names.index(wanted[0].color)), random).repeat_interleave(times, 0)
        behind = backgrounds(n, SIZE, random).repeat_interleave(times, 0)
        buffer = trace(wanted[0].name, u, cameras, SIZE)
        rows.append(shade(buffer, colors, torch.tensor([FLAT]).expand(VIEWS, -1), behind))
    return torch.stack(rows).clamp(0, 1)
