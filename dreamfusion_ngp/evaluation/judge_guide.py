"""The judge as a guide, only for the grey row of the table: a method guided by the model that scores it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..config.schema import RunConfig
from ..guidance.clip import ClipGuidance
from .judge import EMBEDDED, SIZE, Judge, load_judge


class JudgeEncoder:
    """A judge as `guidance.clip.Encoder`."""

    size = SIZE

    def __init__(self, judge: Judge):
        self.judge = judge

    def encode_images(self, pictures: Tensor) -> Tensor:
        return self.judge.encode_images(pictures.permute(0, 2, 3, 1))

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        return self.judge.encode_texts(list(captions))


def guided_by_the_judge(config: RunConfig, judge: Path | None = None) -> ClipGuidance:
    """The guidance of a run of kind "clip" by the judge at `judge`, by default the embedded one, on the CPU."""
    return ClipGuidance(config, JudgeEncoder(load_judge(judge or EMBEDDED)))
