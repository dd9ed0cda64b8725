"""Models that see several views of an object at once: MVDream (Shi et al., ICLR 2024) on latents, and the embedded
prior toybox-mv on pixels. Their additions to the model that each comes from are in `multiview`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...base.errors import PriorError, UsageError
from ...base.slots import sent
from ...config.schema import RunConfig
from ...hub.guided import is_multiview
from ..checks import foreign_conditions, present
from ..multiview import CAMERA, VIEWS, attend_jointly, camera_numbers
from ..mvdream import as_stock, load_unet
from ..settings import read_settings
from ..text_encoders import LowerCase
from . import latent, pixel
from .diffusion import Ends, Family, Pipeline, Rows


def conditions_problem(pipeline: Pipeline) -> str:
    """Conditions other than a text and a camera that the UNet expects, or ""."""
    c = pipeline.network.config
    if (c.class_embed_type, c.projection_class_embeddings_input_dim) != ("projection", CAMERA):
        return f"it takes no camera of {CAMERA} numbers"
    return foreign_conditions(c, (None, "text"), provided=("class_embed_type",))


def check_run(config: RunConfig, views: int) -> None:
    """Raise UsageError unless the views of a step are rings of `views` around an object, at one noise level."""
    model, wrong = config.guidance.model or "the model", ""
    if config.views % views:
        wrong = f"views must be a multiple of {views}, got {config.views}"
    elif config.camera.ring != views:
        wrong = f"camera.ring must be {views}, got {config.camera.ring}"
    elif not config.guidance.t_shared:
        wrong = "guidance.t_shared must be true"
    if wrong:
        raise UsageError(f"{model} sees {views} views of an object at once: {wrong} (preset mvdream)")


def with_views(surround: Callable[[Pipeline, str], Ends]) -> Callable[[Pipeline], Ends]:
    """The `surround` of a single-view family for several views: with cameras as input, and attention over all views."""

    def surrounded(pipeline: Pipeline) -> Ends:
        from diffusers.models.attention_processor import AttnProcessor2_0

        views = read_settings(pipeline.folder).get("views", VIEWS)
        check_run(pipeline.config, views)
        ends = surround(pipeline, conditions_problem(pipeline))
        attend_jointly(pipeline.network, AttnProcessor2_0(), views)

        def call(network, rows: Rows):
            hidden = rows.pick("hidden")
            if hidden is None:
                raise PriorError(f"{pipeline.folder}: its texts are not embedded")
            cameras = sent(camera_numbers(rows.cameras)[rows.view], rows.z.device, hidden.dtype)
            return ends.call(partial(network, class_labels=cameras), rows)

        return replace(ends, call=call, views=views)

    return surrounded


def has_vae(index: dict) -> bool:
    return is_multiview(index) and present(index, "vae")


# Scale 50 is that of MVDream-threestudio's configurations.
MULTIVIEW = Family(
    has_vae,
    with_views(latent.surround_with),
    scale=50.0,
    parts=("vae",),
    views_together=True,
    normal=as_stock,
    load=load_unet,
)
MULTIVIEW_PIXELS = Family(
    is_multiview,
    with_views(pixel.surround_with),
    scale=21.0,
    encoder=LowerCase,
    views_together=True,
    normal=as_stock,
    load=load_unet,
)
