"""The folders of the embedded models in this installation."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import PriorError
from ..hub.names import CLIP_TOYBOX, LATENT_TOYBOX, MULTIVIEW_TOYBOX, TOYBOXES

KINDS = {LATENT_TOYBOX: "latent", MULTIVIEW_TOYBOX: "multiview", CLIP_TOYBOX: "clip"}  # of train-prior; else "pixel"
PRIORS = Path(__file__).parents[1] / "toybox" / "priors"


def embedded_folder(model: str) -> Path:
    """The folder of a model of TOYBOXES. Raises PriorError if it is not part of the installation."""
    folder = PRIORS / TOYBOXES[model]
    if not folder.is_dir():
        raise PriorError(
            f"{model} is not part of this installation; "
            f"to train one: dreamfusion-ngp train-prior --kind {KINDS.get(model, 'pixel')} -o FOLDER"
        )
    return folder
