"""The presets of the paper's two baselines: every number that is not their code's is listed with a reason."""

import math
from pathlib import Path

import pytest

from dreamfusion_ngp.config.baselines import BASELINES, CLIP_MESH, DREAM_FIELDS
from dreamfusion_ngp.config.checks import check_config, setting
from dreamfusion_ngp.config.presets import preset

DOCS = Path(__file__).parents[2] / "docs" / "baselines.md"


@pytest.mark.parametrize("name", BASELINES)
def test_offline_only_what_is_listed_differs(name):
    found, public, offline = BASELINES[name], preset(name, toys=False), preset(name)
    for config in (public, offline):
        check_config(config)
        assert config.guidance.kind == "clip" and config.guidance.view_words == "none"
    assert offline.guidance.model == "toybox-clip" and public.guidance.model.startswith("clip-b")
    text = DOCS.read_text(encoding="utf-8")
    assert found.source in text and all(line in " ".join(text.split()) for line in found.unlike)
    for path, (value, reason) in found.offline.items():
        assert setting(offline, path) == value != setting(public, path) and len(reason) > 10
        assert f"`{path}`" in text, f"docs/baselines.md does not say that {name} changes {path}"


def test_numbers_of_the_code_in_its_own_units():
    """dreamfields/config_base.py: 10,000 steps, a view of radius 4 and elevation 30; CLIP-Mesh's single.yml."""
    fields, mesh = DREAM_FIELDS, CLIP_MESH
    assert (fields.steps, fields.clip.windows, fields.render.resolution) == (10_000, 8, 168)
    assert fields.camera.elevation == (30.0, 30.0) and fields.camera.distance == (4.0, 4.0)
    assert 2 * math.degrees(math.atan(0.5 / fields.camera.focal[0])) == pytest.approx(33.4)
    assert fields.loss.opacity_ramp * fields.steps == pytest.approx(500) and fields.loss.transmittance == 0.5
    assert (mesh.steps, mesh.views, mesh.render.resolution) == (2000, 25, 356)
    assert 10 * 4**mesh.mesh.sphere_level + 2 == 642 and mesh.mesh.subdivisions == 0, "the limit of the sphere itself"
    assert [d / mesh.mesh.sphere_radius for d in mesh.camera.distance] == pytest.approx([5, 8])
    assert mesh.light.textureless_probability * 25 == pytest.approx(13) and mesh.light.textureless_until == 0.5
    assert mesh.optim.final == pytest.approx(10**-0.4)
