"""Configs as data: presets, freezing, and the way through JSON and back."""

import copy
import dataclasses
import inspect
import json
import math
import typing

import pytest

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.checks import check_config, setting
from dreamfusion_ngp.config.io import from_dict, to_dict
from dreamfusion_ngp.config.overrides import override
from dreamfusion_ngp.config.presets import PRESETS, dreamfusion, fast, preset
from dreamfusion_ngp.config.schema import CameraConfig, RunConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_carry_their_name_and_survive_json(name):
    config = preset(name)
    assert config.preset == name
    again = from_dict(RunConfig, json.loads(json.dumps(to_dict(config), allow_nan=False)))
    assert again == config and hash(again) == hash(config)


def test_a_changed_config_survives_json():
    config = dataclasses.replace(fast(), prompt='a "red" mug \\ \U0001f600', seed=2**62, steps=7)
    config = dataclasses.replace(
        config,
        guidance=dataclasses.replace(config.guidance, scale=12.5),
        field=dataclasses.replace(config.field, blob=("none", 0.0, 1.0)),
    )
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_the_paper_preset_has_the_papers_numbers():
    """DreamFusion appendix A.2, where the numbers say something about a hash-grid field too."""
    config = dreamfusion()
    camera, light, guidance, loss = config.camera, config.light, config.guidance, config.loss
    assert (config.steps, config.views, config.render.resolution) == (15000, 4, 64)
    assert (camera.elevation, camera.distance, camera.focal) == ((-10.0, 90.0), (1.0, 1.5), (0.7, 1.35))
    assert (camera.position_jitter, camera.look_at_std, camera.up_std, camera.uniform_angle_probability) == (
        0.1,
        0.2,
        0.02,
        0.5,
    )
    assert not camera.distance_per_focal and not camera.stratified_azimuth
    assert (light.albedo_only_until * config.steps, light.lit_probability, light.textureless_probability) == (
        1000,
        0.75,
        0.5,
    )
    assert (light.ambient, light.diffuse, light.distance, light.direction_std) == (0.1, 0.9, (0.8, 1.5), 1.0)
    assert (guidance.t_range, guidance.t_max_end, guidance.weighting, guidance.view_words) == (
        (0.02, 0.98),
        0.98,
        "sigma2",
        "paper",
    )
    assert guidance.scale == 1 + 100  # omega
    assert config.render.random_background == 0.5  # none in the paper; see config.py
    assert (loss.orientation, loss.orientation_ramp) == ((1e-4, 1e-2), 1 / 3) and 1e-3 <= loss.opacity <= 5e-3
    assert config.field.blob == ("gaussian", 5.0, 0.2)


def test_unknown_presets_list_the_known():
    with pytest.raises(UsageError, match="'slow'.*fast.*dreamfusion"):
        preset("slow")


@pytest.mark.parametrize(
    "part",
    [
        RunConfig(),
        *(
            getattr(RunConfig(), f.name)
            for f in dataclasses.fields(RunConfig)
            if dataclasses.is_dataclass(getattr(RunConfig(), f.name))
        ),
    ],
    ids=lambda part: type(part).__name__,
)
def test_configs_are_frozen_and_hashable(part):
    hash(part)
    name = dataclasses.fields(part)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, name, None)


def changed(path: str, value) -> dict:
    data = copy.deepcopy(to_dict(fast()))
    *outer, last = path.split(".")
    place = data
    for key in outer:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    "path, value",
    [
        ("colour", 1),
        ("camera.zoom", 2.0),
        ("steps", "1000"),
        ("steps", 10.0),
        ("steps", True),
        ("steps", None),
        ("prompt", None),
        ("prompt", 3),
        ("seed", [1]),
        ("camera", None),
        ("camera", [1.0]),
        ("camera.position_jitter", "0.1"),
        ("camera.position_jitter", True),
        ("camera.stratified_azimuth", 1),
        ("camera.focal", 1.0),
        ("camera.focal", [1.0]),
        ("camera.focal", (1.0, 1.2, 1.3)),
        ("camera.focal", [1.0, "1.35"]),
        ("field.blob", ["gaussian", 5.0]),
        ("field.blob", [5.0, 0.2, "gaussian"]),
        ("field.coarse_to_fine", [4.5, 0.5]),
        ("guidance.scale", "high"),
        ("guidance.scale", [7.0]),
        ("guidance.scale", math.nan),
        ("loss.opacity", math.inf),
        ("optim.lr_grid", 10**400),
    ],
)
def test_errors_name_the_key(path, value):
    with pytest.raises(UsageError, match=path.split(".")[-1]) as caught:
        from_dict(RunConfig, changed(path, value))
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["steps", "accumulate", "camera", "camera.focal", "field.half_table", "field.tensor_cores"]
)
def test_a_missing_key_takes_its_default(path):
    config = from_dict(RunConfig, changed(path, KeyError))
    assert setting(config, path) == setting(RunConfig(), path)
    assert from_dict(RunConfig, to_dict(config) | {"camera": {}}).camera == CameraConfig()


def test_unknown_keys_are_one_short_line():
    with pytest.raises(UsageError, match="'a.nb'") as caught:
        from_dict(RunConfig, {"a\nb": 1, "x" * 5000: 2, **{f"y{i}": 3 for i in range(1000)}})
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_whole_numbers_stand_for_floats():
    config = from_dict(RunConfig, changed("camera.focal", [1, 2]) | {"steps": 5})
    assert config.camera.focal == (1.0, 2.0) and isinstance(config.camera.focal[0], float) and config.steps == 5
    assert from_dict(RunConfig, changed("guidance.scale", 7)).guidance.scale == 7.0
    assert from_dict(RunConfig, changed("guidance.scale", None)).guidance.scale is None


@pytest.mark.parametrize("data", [None, [], "{}", 3, {1: 2, "zoom": 3}])
def test_what_is_no_config_at_all_is_a_usage_error(data):
    with pytest.raises(UsageError, match="CameraConfig"):
        from_dict(CameraConfig, data)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_their_own_check(name):
    check_config(preset(name))


@pytest.mark.parametrize(
    "group, key, value",
    [
        ("", "seed", -1),
        ("", "seed", 1 << 63),
        ("", "steps", 0),
        ("", "views", 0),
        ("camera", "distance", (2.0, 1.0)),
        ("camera", "focal", (0.0, 1.0)),
        ("field", "interpolation", "cubic"),
        ("field", "hidden", 129),
        ("field", "finest_resolution", 4),
        ("field", "features", 9),
        ("field", "levels", 33),
        ("field", "blob", ("ball", 5.0, 0.2)),
        ("field", "blob", ("cone", 5.0, 0.0)),
        ("render", "step", 0.0),
        ("render", "occupancy_interval", 0),
        ("render", "occupancy_resolution", 30),
        ("guidance", "t_range", (0.5, 0.1)),
        ("field", "density_bias", 1e300),
        ("field", "blob", ("cone", -1e31, 0.2)),
        ("light", "ambient", -1e31),
        ("paint", "scale", 1e300),
        ("guidance", "t_max_end", 0.0),
        ("guidance", "scale", math.nan),
        ("guidance", "view_words", "many"),
        ("guidance", "precision", "half"),
        ("guidance", "compile", "fast"),
        ("guidance", "rescale", 1.5),
        ("guidance", "slice", -1),
        ("", "accumulate", 0),
        ("guidance", "view_blend", "linear"),
        ("render", "resolution_doubles", (0.5, 0.2)),
        ("render", "resolution", 4097),
        ("optim", "betas", (0.9, 1.0)),
    ],
)
def test_a_value_out_of_range_is_named(group, key, value):
    config = fast()
    part = getattr(config, group) if group else config
    part = dataclasses.replace(part, **{key: value})
    with pytest.raises(UsageError, match=f"{group}.*{key}" if group != "guidance" else key):
        check_config(dataclasses.replace(config, **{group: part}) if group else part)


@pytest.mark.parametrize("kind, show", [("volume", "color"), ("mesh", "color"), ("sphere", "normal")])
def test_a_relief_is_refused_where_it_would_not_show(kind, show):
    config = PRESETS["clipmesh"]()
    check_config(config)
    assert config.mesh.bump > 0
    with pytest.raises(UsageError, match="mesh.bump is for a stage of kind"):
        check_config(dataclasses.replace(config, kind=kind, mesh=dataclasses.replace(config.mesh, show=show)))


def test_a_compiled_unet_stays_where_it_is():
    guidance = dataclasses.replace(fast().guidance, compile="default", offload=True)
    with pytest.raises(UsageError, match="compile.*offload"):
        check_config(dataclasses.replace(fast(), guidance=guidance))


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "if"])
def test_presets_of_models_see_opposite_sides_and_know_their_scale(name):
    from dreamfusion_ngp.base.rng import generator
    from dreamfusion_ngp.scene.cameras import sample_azimuth

    config = preset(name)
    assert config.guidance.scale is not None
    assert config.guidance.view_words == "paper" and not config.guidance.mode_words
    views = config.views * config.accumulate
    assert views % 2 == 0
    if config.views > 1:
        azimuth = sample_azimuth(config.camera, config.views, generator(0, 0, 0))
        opposite = (azimuth + math.pi) % (2 * math.pi)
        assert all(min(abs(azimuth - a)) < 1e-9 for a in opposite), "antipodal pairs"


def test_no_class_of_settings_says_more_than_ten_of_its_own():
    """Groups in groups, and what a class takes from others, do not count."""
    seen, wanted = [RunConfig], []
    while seen:
        cls = seen.pop()
        kinds = typing.get_type_hints(cls)
        own = [name for name in inspect.get_annotations(cls) if not dataclasses.is_dataclass(kinds[name])]
        wanted.append(cls)
        assert len(own) <= 10, f"{cls.__name__}: {', '.join(own)}"
        inside = [kind for kind in kinds.values() if dataclasses.is_dataclass(kind)]
        seen += [c for c in (*inside, *cls.__bases__) if c is not object and c not in wanted and c not in seen]
    assert len(wanted) > 15


@pytest.mark.parametrize(
    "group, name, was",
    [
        ("guidance", "resolution", 0),
        ("guidance", "slice", 0),
        ("guidance", "compile", "none"),
        ("guidance", "clip_gradient", 0.0),
        ("camera", "ring", 0),
    ],
)
def test_what_older_versions_wrote_for_nothing_is_none(group, name, was):
    """In a stored config and on the command line."""
    data = to_dict(RunConfig())
    assert data[group][name] is None
    data[group][name] = was
    assert from_dict(RunConfig, data) == RunConfig()
    for text in (was, "null"):
        assert override(RunConfig(), f"{group}.{name}={text}") == RunConfig()
