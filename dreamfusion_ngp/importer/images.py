"""Images of a mesh's textures: decoded within limits, encoded as PNG."""

from __future__ import annotations

import io
import warnings

import numpy as np

from ..base.errors import MeshError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA")
MAX_SIDE = 8192  # pixels
MAX_PIXELS = 1 << 28  # of all images of a mesh together


class Decoder:
    """Decodes the images of one mesh; checks their size before decoding."""

    def __init__(self) -> None:
        self.pixels = 0

    def __call__(self, data: bytes, what: str) -> np.ndarray:
        """(H, W, 3 or 4) uint8, row 0 at the top. Raises MeshError that names `what`."""
        from PIL import Image

        try:
            with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self._check(image.size, what)
                if image.mode.startswith("I;16") or image.mode == "I":  # grey of 16 bits
                    grey = (np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)
                    return np.repeat(grey[..., None], 3, -1)
                return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
        except (MeshError, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise MeshError(f"{what} has far more than {MAX_SIDE} x {MAX_SIDE} pixels") from None
        except Exception:  # the decoders raise errors of a dozen kinds on bytes from anywhere
            kinds = ", ".join(FORMATS)
            raise MeshError(f"{what} is damaged or is no image of a kind that is read ({kinds})") from None

    def _check(self, size: tuple[int, int], what: str) -> None:
        self.pixels += size[0] * size[1]
        if min(size) < 1 or max(size) > MAX_SIDE:
            raise MeshError(f"{what} has {size[0]} x {size[1]} pixels; at most {MAX_SIDE} a side are read")
        if self.pixels > MAX_PIXELS:
            raise MeshError(f"its images have more than {MAX_PIXELS:,} pixels together")


def checked_image(image) -> np.ndarray:
    """`image`, which must be (H, W, 3 or 4) uint8. Raises ValueError for another array."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise ValueError(f"an image must be (H, W, 3 or 4) uint8, got {image.dtype} {image.shape}")
    if max(image.shape) > MAX_SIDE:
        raise ValueError(f"an image may have {MAX_SIDE} pixels a side, got {image.shape[1]} x {image.shape[0]}")
    return image


def with_alpha(image: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """`image` (H, W, 3) with an alpha of any size, if there is one; one that has its own stays."""
    from PIL import Image

    if alpha is None or image.shape[2] == 4:
        return image
    if alpha.shape != image.shape[:2]:
        smaller = Image.fromarray(np.ascontiguousarray(alpha))
        alpha = np.asarray(smaller.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    return np.concatenate([image, alpha[..., None]], -1)


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG file of (H, W, 3 or 4) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
