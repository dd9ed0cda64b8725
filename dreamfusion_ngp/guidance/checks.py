"""Checks of a pipeline folder's configs, before anything large is loaded or run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.errors import PriorError

LONGEST_SCHEDULE = 100_000  # timesteps; the models that exist have a thousand
LARGEST_SIDE = 4096  # pixels
TERMINAL = 2.0**-24  # abar where a schedule ends in pure noise, as in diffusers' Euler: it is divided by


def present(index: dict, name: str) -> bool:
    """Whether a model_index.json has a component (not null)."""
    entry = index.get(name)
    return isinstance(entry, list) and bool(entry) and bool(entry[0])


def what_it_is(index: dict) -> str:
    """What kind of pipeline a model_index.json describes that belongs to none of the families; "" if unknown."""

    def has(*names: str) -> bool:
        return any(present(index, name) for name in names)

    if has("image_noising_scheduler", "low_res_scheduler"):
        return "it enlarges pictures: a super-resolution stage"
    if has("movq"):
        return "Kandinsky: it draws from image embeddings, which a prior of its own makes from a text"
    if has("bert"):
        return "the first latent diffusion: it has no text_encoder, but a bert of its own"
    if has("text_encoder"):
        return "" if has("unet", "transformer") else "it has no unet"
    if has("text_encoder_2"):
        return "an SDXL refiner: it has no text_encoder of a base model"
    if has("image_encoder"):
        return "it makes variations of a picture and reads no text: it has no text_encoder"
    if has("unet", "transformer", "prior", "decoder"):
        return "it draws without a text: it has no text_encoder"
    return "it has neither a unet nor a text_encoder"


def check_steps(config: dict, path: Path) -> None:
    """Raise PriorError unless a scheduler's config, from `path`, has a usable number of timesteps, and as many trained
    betas, if any."""
    steps, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if type(steps) is not int or not 1 <= steps <= LONGEST_SCHEDULE:
        raise PriorError(
            f"{path}: num_train_timesteps must be a whole number from 1 to {LONGEST_SCHEDULE}, got {repr(steps)[:60]}"
        )
    if betas is not None and (not isinstance(betas, list) or len(betas) != steps):
        count = f"{len(betas)} of them" if isinstance(betas, list) else repr(betas)[:60]
        raise PriorError(f"{path}: trained_betas must be a list of num_train_timesteps ({steps}) numbers, got {count}")


def checked_abar(abar, path: Path) -> np.ndarray:
    """Cumulative products of a noise schedule, (T,) float64, clamped above 0. Raises PriorError for an invalid
    schedule."""
    abar = np.asarray(abar, np.float64)
    table = abar.ndim == 1 and len(abar) > 0 and np.isfinite(abar).all()
    if not table or abar.min() < 0 or abar.max() > 1 or (np.diff(abar) > 1e-6).any() or abar[-1] >= 1:
        raise PriorError(
            f"{path}: its numbers make no noise schedule: the share of noise must be from 0 to 1 and grow "
            "from step to step"
        )
    return np.maximum(abar, TERMINAL)


def square_side(size, place: str) -> int | None:
    """The side in a `sample_size`, which may be a number or a pair; None for null. Raises PriorError for anything
    else."""
    pair = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if size is None:
        return None
    if len(pair) != 2 or any(type(n) is not int or n < 1 for n in pair):
        raise PriorError(f"{place}: sample_size must be a number or a pair of them, got {repr(size)[:60]}")
    if pair[0] != pair[1]:
        raise PriorError(
            f"{place}: its sample_size is {pair[0]} x {pair[1]}, not square; say with "
            "guidance.resolution how many pixels a side it is to see"
        )
    return pair[0]


def check_side(pixels: int, place: str) -> None:
    if pixels > LARGEST_SIDE:
        raise PriorError(
            f"{place}: its sample_size asks for pictures of {pixels} pixels a side; at most "
            f"{LARGEST_SIDE} are possible, which guidance.resolution can say"
        )


def text_widths(unet) -> list[int]:
    """The widths of text embeddings that the layers of a UNet2DConditionModel expect: a single one, in a sound
    model."""
    cross = unet.encoder_hid_dim or unet.cross_attention_dim
    if not isinstance(cross, (list, tuple)):
        return [cross]
    blocks = [
        *zip(unet.down_block_types, cross, strict=False),
        *zip(unet.up_block_types, reversed(cross), strict=False),
    ]
    used = {width for block, width in blocks if "CrossAttn" in block}
    return sorted(used | {cross[-1]} if "CrossAttn" in str(unet.mid_block_type) else used or set(cross))


def width_problem(expected: list, actual: int) -> str:
    """A mismatch between the widths that a UNet expects and that of the text embeddings, or ""."""
    if set(expected) == {actual}:
        return ""
    return f"it wants text embeddings of width {' and '.join(map(str, expected))}, the text encoder gives {actual}"


def foreign_conditions(unet, addition: tuple, provided: tuple[str, ...] = ()) -> str:
    """Conditions other than a text that a UNet2DConditionModel expects, or "". addition: the supported values of
    addition_embed_type. provided: names of further conditions that it gets."""
    if unet.time_cond_proj_dim:
        return "it is distilled with a guidance scale built in; such a model is no teacher here"
    conditions = [
        f"{name} {value!r}"
        for name, value in (
            ("class_embed_type", unet.class_embed_type),
            ("num_class_embeds", unet.num_class_embeds),
            ("addition_embed_type", None if unet.addition_embed_type in addition else unet.addition_embed_type),
            ("encoder_hid_dim_type", None if unet.encoder_hid_dim_type == "text_proj" else unet.encoder_hid_dim_type),
        )
        if value and name not in provided
    ]
    return f"it wants conditions other than text ({', '.join(conditions)})" if conditions else ""


def vae_factor(vae, place: str) -> int:
    """Pixels a side for one latent. Raises PriorError unless it is a VAE for RGB pictures whose config has the scaling
    of its latents, one factor and one shift."""
    c, kind = vae.config, type(vae).__name__
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise PriorError(f"{place} is a {kind}, not an AutoencoderKL or AutoencoderTiny")
    if c.in_channels != 3:
        raise PriorError(f"{place}: it takes pictures of {c.in_channels} channels, not of 3")
    for name, value in (("scaling_factor", c.get("scaling_factor")), ("shift_factor", c.get("shift_factor") or 0)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9
        if not number or (name == "scaling_factor" and value == 0):
            raise PriorError(f"{place}: its {name} is {repr(value)[:60]}, not a number that latents can be scaled by")
    if c.get("latents_mean") is not None or c.get("latents_std") is not None:
        raise PriorError(
            f"{place}: its latents have a mean and a spread for each channel (latents_mean, latents_std), "
            "which is not supported"
        )
    blocks = c.block_out_channels if kind == "AutoencoderKL" else c.encoder_block_out_channels
    return 2 ** (len(blocks) - 1)
