"""The embedded judge: a small image-text dual encoder for toys, the retrieval model without a CLIP."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from ..base.errors import CheckpointError, writing
from ..base.files import write_atomically
from ..toybox.world.captions import WORDS, words_of

FORMAT = "dreamfusion_ngp.judge.1"
EMBEDDED = Path(__file__).parent / "judge.safetensors"
SIZE = 64  # pixels a side of its input
DIMENSION = 64  # of the shared space
WIDTHS = (32, 64, 96, 128)
MAX_SCALE = 50.0  # of the inner products in training
BATCH = 64


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x):
        return x + self.body(x)


def image_encoder() -> nn.Sequential:
    """(N, 3, 64, 64) -> (N, DIMENSION). The last map, 4 x 4, is flattened, since positions distinguish toys."""
    layers: list[nn.Module] = []
    for before, width in pairwise((3, *WIDTHS)):
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1)]
        layers += [Residual(width)] if before != 3 else []  # the first map is large: one convolution is enough
    return nn.Sequential(
        *layers,
        nn.GroupNorm(8, WIDTHS[-1]),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(WIDTHS[-1] * (SIZE // 2 ** len(WIDTHS)) ** 2, DIMENSION),
    )


class Judge(nn.Module):
    """Text: the sum of its words' embeddings, then two layers; unknown words are ignored. log: measurements of the
    training (`judge_training`)."""

    name = "toybox judge"

    def __init__(self):
        super().__init__()
        self.image = image_encoder()
        self.words = nn.Embedding(len(WORDS), DIMENSION)
        self.text = nn.Sequential(nn.Linear(DIMENSION, 128), nn.SiLU(), nn.Linear(128, DIMENSION))
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.log: dict = {}

    def encode_images(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) in [0, 1] -> (N, DIMENSION) of length 1."""
        x = pictures.permute(0, 3, 1, 2)
        if x.shape[-1] != SIZE:
            x = nn.functional.interpolate(x, size=(SIZE, SIZE), mode="area" if x.shape[-1] > SIZE else "bilinear")
        return nn.functional.normalize(self.image(2 * x - 1).float(), dim=-1)

    def encode_texts(self, captions: list[str]) -> torch.Tensor:
        """M captions -> (M, DIMENSION) of length 1."""
        return self.encode_counts(word_counts(captions).to(self.words.weight))

    def encode_counts(self, counts: torch.Tensor) -> torch.Tensor:
        """(M, words) as `word_counts` gives them -> (M, DIMENSION) of length 1."""
        return nn.functional.normalize(self.text(counts @ self.words.weight), dim=-1)

    def scale(self) -> torch.Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def images(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.encode_images(part.float()) for part in pictures.split(BATCH)])

    @torch.no_grad()
    def texts(self, captions: list[str]) -> torch.Tensor:
        return self.encode_texts(captions)


def word_counts(captions: list[str]) -> torch.Tensor:
    """(M, words): how often each of WORDS occurs in each of M captions."""
    counts = torch.zeros(len(captions), len(WORDS))
    for row, caption in zip(counts, captions, strict=True):
        for word in words_of(caption):
            if word in WORDS:
                row[WORDS.index(word)] += 1
    return counts


def save_judge(path: Path, judge: Judge) -> None:
    """One safetensors file, half precision, the training log in its header. Raises OutputError."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in judge.state_dict().items()}
    data = save(tensors, metadata={"format": FORMAT, "words": " ".join(WORDS), "log": json.dumps(judge.log)})
    with writing(path):
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), data)


def load_judge(path: Path = EMBEDDED) -> Judge:
    """Raises CheckpointError where there is none, for another kind of file, and for another vocabulary."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise CheckpointError(f"there is no judge at {path}; train one: dreamfusion-ngp train-judge -o FILE")
    judge = Judge()
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no dictionary)
        if header.get("format") != FORMAT:
            raise ValueError("it is no judge")
        if header["words"].split() != list(WORDS):
            raise ValueError("it knows other words than this version; train it again")
        judge.log = json.loads(header["log"])
        judge.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be used: {str(error).strip().splitlines()[0]}") from None
    return judge.eval().requires_grad_(False)
