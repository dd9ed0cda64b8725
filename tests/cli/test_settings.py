"""Flags of `generate` reach every stage of a run."""

import json
from dataclasses import replace

import pytest
from support.tiny_latent import tiny_latent_folder

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.cli.settings import refine_config, run_config
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.hub.names import preset_name


def stages(*words):
    """The configs of a run's stages, first to last."""
    config = run_config(cli.build_parser().parse_args(["generate", "a red mug", *words]))
    found = []
    while config is not None:
        found.append(config)
        config = config.then
    return found


@pytest.mark.parametrize("name, count", [("fast", 1), ("magic3d", 2), ("prolificdreamer", 3), ("textmesh", 2)])
def test_flags_of_guidance_are_for_all_stages(name, count):
    given = ["--guidance-scale", "7", "--negative", "blue", "--lora", "a.safetensors", "--low-memory"]
    found = stages("--preset", name, "--guidance", "toybox-256", *given)
    assert len(found) == count
    for each in (config.guidance for config in found):
        assert (each.model, each.scale, each.negative, each.slice) == ("toybox-256", 7.0, "blue", 1)
        assert each.loras == ("a.safetensors",) and not each.clip_clean
        assert each.offload == (each.rule != "vsd"), "what the rule trains stays where it is"


def test_one_stage_may_have_a_model_of_its_own():
    first, second = stages("--preset", "magic3d", "--set", "then.guidance.model=toybox-256")
    assert (first.guidance.model, second.guidance.model) == ("toybox", "toybox-256")


def test_the_rules_of_the_stages_are_those_of_the_paper_and_a_flag_is_for_all():
    assert [s.guidance.rule for s in stages("--preset", "prolificdreamer")] == ["vsd", "sds", "vsd"]
    assert [s.guidance.rule for s in stages("--preset", "prolificdreamer", "--rule", "asd")] == ["asd"] * 3


def test_with_a_public_model_magic3d_has_the_numbers_of_its_configurations(tmp_path):
    model = str(tiny_latent_folder(tmp_path, "sd"))
    volume, mesh = stages("--preset", "magic3d", "--guidance", model)
    assert [(c.guidance.model, c.steps, c.render.resolution) for c in (volume, mesh)] == [
        (model, 10_000, 64),
        (model, 5_000, 512),
    ]
    assert (volume.guidance.scale, mesh.guidance.scale, mesh.guidance.t_range) == (101.0, 101.0, (0.02, 0.501))
    assert mesh.mesh.consistency * 4 * 64 * 64 == 10_000 and mesh.mesh.resolution == 128
    assert volume.field == mesh.field and volume.field.coarse_to_fine[0] == 0


def test_with_a_public_model_the_recipe_has_the_numbers_of_the_paper(tmp_path):
    model = str(tiny_latent_folder(tmp_path, "sd"))
    volume, shape, color = stages("--preset", "prolificdreamer", "--guidance", model)
    assert [c.guidance.model for c in (volume, shape, color)] == [model] * 3
    assert [c.steps for c in (volume, shape, color)] == [25_000, 15_000, 30_000]
    assert [c.render.resolution for c in (volume, shape, color)] == [512] * 3
    assert [(c.guidance.rule, c.guidance.scale) for c in (volume, shape, color)] == [
        ("vsd", 7.5),
        ("sds", 101.0),
        ("vsd", 7.5),
    ]
    assert [(c.mesh.show, c.mesh.learn) for c in (shape, color)] == [("normal", "all"), ("color", "color")]
    for config in (volume, shape, color):
        guidance = config.guidance
        assert guidance.t_anneal * config.steps == 10_000 and guidance.t_max_end == 0.5
        assert not guidance.mode_words and guidance.view_words == "paper"


def test_with_a_public_model_textmesh_has_the_numbers_of_its_configuration(tmp_path):
    model = str(tiny_latent_folder(tmp_path, "sd"))
    volume, texture = stages("--preset", "textmesh", "--guidance", model)
    assert [(c.guidance.model, c.kind, c.steps) for c in (volume, texture)] == [
        (model, "volume", 10_000),
        (model, "texture", 2000),
    ]
    assert (volume.field.kind, volume.field.sphere, volume.field.finest_resolution) == ("sdf", 0.5, 2048)
    assert volume.camera.elevation == (-90.0, 90.0), "the paper's whole range"
    assert volume.loss.eikonal * 3 * 64 * 64 == pytest.approx(1000) and texture.loss.eikonal == 0
    assert (volume.guidance.scale, texture.guidance.t_range) == (21.0, (0.02, 0.501))


def test_mvdream_is_of_toys_or_has_the_published_numbers_and_a_negative_prompt(tmp_path):
    (toys,) = stages("--preset", "mvdream")
    assert (toys.guidance.model, toys.camera.ring, toys.steps) == ("toybox-mv", 4, preset("fast").steps)
    assert stages("--guidance", "toybox-mv") == [toys]
    given = ("--preset", "mvdream", "--guidance", str(tiny_latent_folder(tmp_path, "sd")))
    (public,) = stages(*given)
    assert public.steps == 10_000 and public.guidance.negative.startswith("ugly, bad anatomy")
    assert stages(*given, "--negative", "")[0].guidance.negative == ""


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [("IFPipeline", "fast"), ("StableDiffusionPipeline", "toybox-256"), ("MVDreamPipeline", "mvdream")],
)
def test_a_folder_of_toys_is_guided_as_the_embedded_prior_of_its_class(tmp_path, pipeline, name):
    """As train-prior leaves it: the preset, its view words and its words of shading."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (tmp_path / "dreamfusion_ngp.json").write_text('{"toys": true}')
    (config,), own = stages("--guidance", str(tmp_path)), preset(name).guidance
    assert config.preset == name and config.guidance == replace(own, model=str(tmp_path))


@pytest.mark.parametrize("name", ["dreamfields", "clipmesh"])
def test_a_negative_prompt_that_no_clip_weighs_is_refused(name):
    with pytest.raises(UsageError, match="--negative has no effect .*--set clip.negative=WEIGHT") as caught:
        stages("--preset", name, "--negative", "blue")
    assert "\n" not in str(caught.value)
    (weighed,) = stages("--preset", name, "--negative", "blue", "--set", "clip.negative=0.5")
    assert (weighed.guidance.negative, weighed.clip.negative) == ("blue", 0.5)
    assert stages("--preset", name, "--negative", "")[0].guidance.negative == ""


def test_a_scale_that_no_stage_reads_is_refused():
    with pytest.raises(UsageError, match="--guidance-scale has no effect on a guidance by CLIP"):
        stages("--preset", "clipmesh", "--guidance-scale", "7")
    _, second = stages("--preset", "magic3d", "--guidance-scale", "7", "--set", "guidance.kind=clip")
    assert second.guidance.scale == 7


def test_a_negative_prompt_that_a_later_stage_reads_is_taken():
    first, second = stages("--preset", "magic3d", "--negative", "blue", "--set", "guidance.kind=clip")
    assert (first.guidance.kind, second.guidance.kind) == ("clip", "diffusion")


def test_a_model_of_depth_paints_in_the_stage_of_a_texture_or_nowhere(tmp_path):
    volume, texture = stages("--preset", "textmesh", "--depth-control", "owner/name@main")
    assert (volume.paint.views, texture.paint.views) == (0, 4)
    assert [c.guidance.control for c in (volume, texture)] == ["owner/name@main"] * 2
    assert all(c.paint.views == 0 for c in stages("--preset", "textmesh"))
    with pytest.raises(UsageError, match="preset textmesh"):
        stages("--depth-control", str(tmp_path))


def repainting(*words):
    """The configs of the stages of a `refine`."""
    config = refine_config(cli.build_parser().parse_args(["refine", "mug.glb", "a red mug", *words]))
    return [config] if config.then is None else [config, config.then]


@pytest.mark.parametrize("model", ["sd15", "sd21", "sdxl", "sd35", "if"])
def test_a_public_model_repaints_with_its_own_numbers(model):
    """Those of its preset, and none that were found with the embedded prior, such as clipped clean images."""
    own = preset(preset_name(model, ""), False)
    texture, shape = repainting("--geometry", "--guidance", model)
    (alone,) = repainting("--guidance", model, "--steps", "7")
    assert alone.guidance == texture.guidance and alone.steps == 7 and texture.steps == 2000
    assert texture.guidance == replace(own.guidance, model=model, t_max_end=0.5, t_anneal=1.0)
    assert shape.guidance.t_range[1] == shape.guidance.t_max_end == 0.5
    for config in (texture, shape):
        assert not config.guidance.clip_clean and config.guidance.t_window == 1 and not config.guidance.mode_words
        assert (config.render.resolution, config.views, config.accumulate) == (512, own.views, own.accumulate)
    assert texture.optim == own.optim and shape.optim == preset("refine-geometry").then.optim
    assert texture.camera == preset("refine").camera


def test_embedded_models_repaint_with_the_numbers_for_toys():
    assert repainting() == [preset("refine")] == repainting("--guidance", "toybox")
    (latent,) = repainting("--guidance", "toybox-256")
    assert latent.steps == 400 and latent.guidance.t_window == 0.24 and not latent.guidance.clip_clean
    assert preset("refine", toys=False).guidance.scale == 101


@pytest.mark.parametrize("verb", ["generate", "sample"])
def test_help_names_the_presets_that_a_prompt_alone_can_have(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    assert "textmesh" in (text := capsys.readouterr().out) and "refine" not in text
