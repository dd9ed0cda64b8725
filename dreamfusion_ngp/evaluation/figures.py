"""All figures of one field, compared with the toy of its prompt, and what they mean."""

from __future__ import annotations

import numpy as np
import torch

from ..config.schema import FieldConfig
from ..export.isosurface import Mesh, extract_mesh, is_closed
from ..toybox.world.captions import parse_prompt
from ..toybox.world.shapes import COLORS, DIRECTIONAL
from .metrics.closed_mesh import surface_error
from .metrics.colors import color_scores, surface_colors
from .metrics.faces import count_faces, templates
from .metrics.silhouettes import AZIMUTHS, ELEVATIONS, silhouette_iou
from .metrics.surface import Surface, best_chamfer, outer_surface, toy_surface
from .metrics.topology import GENUS, faces_needed, topology
from .metrics.volume import volumetric_iou
from .pictures import Pictures, true_pictures

# Version of the meaning of the figures below: figures of different versions are not comparable.
DEFINITIONS = 2
GRAY = 5.0  # chroma below which a picture counts as grey
# Keys of evaluation.json: (unit, meaning). World units: a toy is about 1 across.
FIGURES = {
    "run": ("", "folder of the run"),
    "seed": ("", "of the run"),
    "steps": ("", "that the run has made"),
    "prompt": ("", "as it was given"),
    "definitions": ("", "version of what these figures mean"),
    "failed": ("", "why there are no other figures: the run has no result, and IoU and R-Precision count as 0"),
    "class": ("", "the toy that it names"),
    "color": ("", "the colour that it names, or empty"),
    "volumetric_iou": (
        "0 to 1",
        "intersection over union of the solids, the field's closed cavities filled, best over "
        "yaw and uniform scale of the toy; standard error of the count below .001",
    ),
    "yaw": ("degrees", "turn of the toy about +Y at the best IoU"),
    "scale": ("", "size of the toy at the best IoU"),
    "volumetric_iou_unaligned": ("0 to 1", "the IoU at yaw 0 and scale 1"),
    "iso_level": ("per world unit", "density at the surface"),
    "chamfer": (
        "world units",
        "mean distance of a surface point to the other surface, both ways averaged, best over yaw and uniform scale",
    ),
    "chamfer_yaw": ("degrees", "turn of the toy at the least Chamfer distance"),
    "chamfer_scale": ("", "size of the toy at the least Chamfer distance"),
    "mesh_chamfer": (
        "world units",
        "the same for the surface as it is exported, against the exact surface of the toy, at the best IoU",
    ),
    "normal_angle": (
        "degrees",
        "mean angle between that surface's normals and those of the toy at the same places, at the best IoU",
    ),
    "psnr_256": (
        "dB",
        "mean over 8 lit views of 256 x 256 pixels, nothing aligned, of the peak signal-to-noise ratio to the true "
        "toy's; null without a named colour",
    ),
    "pieces": ("", "separate pieces of the solid; every toy is one"),
    "floaters": ("0 to 1", "share of the volume outside the largest piece"),
    "watertight": ("", "whether every edge of the exported mesh has two faces, oppositely oriented"),
    "genus": ("", "handles of the exported surface, all pieces together: 1 for a mug whose handle is open"),
    "genus_error": ("", "by how many the toy, which has 0 or 1, differs from that"),
    "holes": ("", "loops of open edges in the exported surface; 0 where it is watertight"),
    "faces_needed": (
        "triangles",
        "the fewest, of 16,000 halved again and again, that say the exported surface to .001 in the mean",
    ),
    "faces": ("", "how often the result has the toy's face, 0 to 4 (faces.py); null for a toy without a front"),
    "extra_faces": ("", "faces beyond the first: the multi-face (Janus) count; null as above"),
    "faces_like": ("", "the variant of the toy that the views show: true, one half twice, or several in one"),
    "faces_margin": (
        "-1 to 1",
        "how much better the true toy explains the views than any with another number of faces",
    ),
    "views_astray": ("", "of 8 views, those that look like the true toy from more than 60 degrees off"),
    "silhouette_iou": ("0 to 1", "mean over 24 fixed views, nothing aligned"),
    "silhouette_iou_worst": ("0 to 1", "the least of the 24"),
    "color_error": (
        "0 to 1",
        "root mean square distance, over the channels, of the mean surface colour to the named one; null without one",
    ),
    "color_share": ("0 to 1", "part of the surface whose nearest named colour it is; null without one"),
    "chroma": (
        "",
        "mean chroma (CIELAB) of the object in 8 unlit views, divided by the true toy's: above 1 is over-saturated; "
        "null without a named colour, and for gray and white",
    ),
    "mean_color": ("sRGB, 0 to 1", "mean colour of the surface"),
    "judge": ("", "the retrieval model; null where there was none, and so are the next six"),
    "r_precision_color": ("0 to 1", "part of 8 lit views that retrieve the prompt's caption among the distractors"),
    "r_precision_geo": ("0 to 1", "the same for textureless views; toys are told apart by class alone"),
    "retrieved_color": ("", "the caption that most lit views retrieve"),
    "retrieved_geo": ("", "the caption that most textureless views retrieve"),
    "r_precision_albedo": (
        "0 to 1",
        "the same as Colour for unlit views; high where a picture is painted on a wrong shape",
    ),
    "retrieved_albedo": ("", "the caption that most unlit views retrieve"),
    "views": ("", "azimuth and elevation (degrees) and silhouette IoU of each of the 24 views"),
}


def piece_figures(surface: Surface, mesh: Mesh) -> dict:
    """Loose pieces and watertightness: the figures that need no true shape."""
    return {"pieces": surface.pieces, "floaters": surface.share, "watertight": is_closed(mesh)}


def geometry(
    name: str, density, bound: float, *, mesh: Mesh | None = None, surface: Mesh | None = None, device="cpu"
) -> dict:
    """Volume, Chamfer distance, loose pieces and watertightness of a density field against the toy `name`.

    density: callable, points (N, 3) -> (N,) per world unit, on [-bound, bound]^3. mesh: the exported one. surface: that
    of a scene which is a surface. None: as an export with its default settings would make them. Raises ExportError for
    an empty or not finite field.
    """
    volume = volumetric_iou(density, name, bound, device=device)
    outer = outer_surface(density, bound, volume.level, device)
    distance, yaw, scale = best_chamfer(outer.points, toy_surface(name).points)
    surface = surface or extract_mesh(density, bound, device=device)[0]
    error, angle = surface_error(surface, name, volume.yaw, volume.scale)
    return {
        "volumetric_iou": volume.iou,
        "yaw": volume.yaw,
        "scale": volume.scale,
        "volumetric_iou_unaligned": volume.unaligned,
        "iso_level": volume.level,
        "chamfer": distance,
        "chamfer_yaw": yaw,
        "chamfer_scale": scale,
        "mesh_chamfer": error,
        "normal_angle": angle,
        **piece_figures(outer, mesh or surface),
        **surface_figures(surface, GENUS.get(name, 0)),
    }


def surface_figures(surface: Mesh, genus: int) -> dict:
    """Handles and holes of a surface, and the triangles that it needs. genus: of the toy."""
    counts = topology(surface)
    return {
        "genus": counts.genus,
        "genus_error": abs(counts.genus - genus),
        "holes": counts.holes,
        "faces_needed": faces_needed(surface),
    }


def open_figures(prompt: str, density, bound: float, *, mesh: Mesh | None = None, device="cpu") -> dict:
    """The figures of a field whose prompt names no toy; arguments and errors as for `geometry`."""
    surface = outer_surface(density, bound, device=device)
    mesh = mesh or extract_mesh(density, bound, device=device)[0]
    return {"prompt": prompt, **piece_figures(surface, mesh)}


def psnr(lit: torch.Tensor, name: str, color: str) -> float:
    """Mean over views of the PSNR in dB of pictures (B, H, H, 3) from the `judging_cameras` to the toy's."""
    truth = true_pictures(name, color, lit.shape[1]).lit
    error = (lit - truth).square().flatten(1).mean(1).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def chroma(pictures: Pictures, name: str, color: str) -> float | None:
    """Mean chroma of unlit views from the `judging_cameras`, relative to the toy's; None for a toy that has none."""
    truth = mean_chroma(true_pictures(name, color))
    return mean_chroma(pictures) / truth if truth > GRAY else None


def mean_chroma(pictures: Pictures) -> float:
    """Mean over the opaque pixels of (a*^2 + b*^2)^1/2 in CIELAB; 0 where nothing is opaque."""
    from skimage.color import rgb2lab

    lab = rgb2lab(pictures.albedo.numpy())[(pictures.opacity > 0.5).numpy()]
    return float(np.linalg.norm(lab[:, 1:], axis=-1).mean()) if len(lab) else 0.0


def multi_face(name: str, pictures: Pictures, color, scale: float) -> dict:
    """The figures of `faces.count_faces`; all null for a class without a front."""
    if name not in DIRECTIONAL:
        return dict.fromkeys(("faces", "extra_faces", "faces_like", "faces_margin", "views_astray"))
    result = count_faces(name, pictures, templates(name, color, scale))
    return {
        "faces": result.count,
        "extra_faces": result.extra,
        "faces_like": result.variant,
        "faces_margin": result.margin,
        "views_astray": result.astray,
    }


def toy_figures(
    prompt: str,
    density,
    render_opacity,
    albedo,
    bound: float,
    pictures: Pictures,
    *,
    mesh: Mesh | None = None,
    surface: Mesh | None = None,
    lit: torch.Tensor | None = None,
    device="cpu",
) -> dict:
    """The scores of a field for the toy that `prompt` names, as a flat JSON-ready dictionary; FIGURES says what each
    is. density, mesh, surface: as for `geometry`; render_opacity: as for `silhouette_iou`; albedo: points (N, 3) ->
    (N, 3); pictures: of the field, as `pictures.field_pictures` makes them; lit: lit ones of 256 x 256 pixels.

    Raises PromptError for a prompt that names no toy, ExportError for an empty or not finite field.
    """
    name, color = parse_prompt(prompt)
    solid = geometry(name, density, bound, mesh=mesh, surface=surface, device=device)
    views = silhouette_iou(render_opacity, name)
    colors = surface_colors(density, albedo, bound, solid["iso_level"], device=device)
    error, share = color_scores(colors, color) if color else (None, None)
    seen = solid["scale"] * FieldConfig.bound / bound  # `field_pictures` are from further off where the cube is wider
    faces = multi_face(name, pictures, COLORS[color] if color else colors.mean(0), seen)
    angles = [(azimuth, elevation) for elevation in ELEVATIONS for azimuth in AZIMUTHS]
    return {
        "prompt": prompt,
        "class": name,
        "color": color,
        **solid,
        **faces,
        "silhouette_iou": float(np.mean(views)),
        "silhouette_iou_worst": min(views),
        "psnr_256": psnr(lit, name, color) if color and lit is not None else None,
        "chroma": chroma(pictures, name, color) if color else None,
        "color_error": error,
        "color_share": share,
        "mean_color": colors.mean(0).tolist(),
        "views": [{"azimuth": a, "elevation": e, "iou": v} for (a, e), v in zip(angles, views, strict=True)],
    }
