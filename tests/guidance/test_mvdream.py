"""MVDream's weights in the layouts of their ports, with random numbers: read strictly, without the ports' code, and
the same network whatever they are called; and several views as guidance."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.changed_folders import edited
from support.tiny_models import config
from support.tiny_multiview import FULL, PORTS, ldm_names, ldm_twin, tiny_mvdream_folder

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.base.rng import generator
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.rules import with_rule
from dreamfusion_ngp.config.schema import CameraConfig, LightConfig
from dreamfusion_ngp.guidance import memory
from dreamfusion_ngp.guidance.classifier_free import guided_noise
from dreamfusion_ngp.guidance.denoisers.multiview import MULTIVIEW
from dreamfusion_ngp.guidance.load import family, load_guidance
from dreamfusion_ngp.guidance.mvdream import as_stock, diffusers_names, load_unet, stock_class, stock_config
from dreamfusion_ngp.guidance.pipeline_folder import read_index
from dreamfusion_ngp.guidance.rules import OF_FLOWS, RULES
from dreamfusion_ngp.hub.guided import preset_of
from dreamfusion_ngp.hub.snapshots import needed_files
from dreamfusion_ngp.scene.views import sample_views


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    return {port: tiny_mvdream_folder(tmp_path_factory.mktemp(port), port) for port in PORTS}


@pytest.fixture
def port(ports, tmp_path):
    """copy(name): a folder of a port that a test may change."""

    def copy(name: str = "ldm"):
        shutil.copytree(ports[name], tmp_path / name)
        return tmp_path / name

    return copy


def run(folder, views: int = 4, **guidance):
    found = config(folder, precision="float32", view_words="none", t_shared=True, scale=5.0, **guidance)
    return replace(found, views=views, camera=CameraConfig(ring=4, position_jitter=0.0, look_at_std=0.0))


def seen(n: int = 4):
    camera = CameraConfig(ring=4, position_jitter=0.0, look_at_std=0.0)
    return sample_views(camera, LightConfig(), n, 1.0, generator(0, 0, 0))


def pictures(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 16, 16, 3, generator=torch.Generator().manual_seed(0))


def test_the_published_network_is_diffusers_own_in_690_tensors():
    """Counted on tensors without contents: 867,572,164 numbers; the camera's projection takes 16 to 1280."""
    with torch.device("meta"):
        twin = ldm_twin(FULL)
    state = twin.state_dict()
    assert len(state) == 690 and sum(p.numel() for p in twin.parameters()) == 867_572_164
    assert state["class_embedding.linear_1.weight"].shape == (1280, 16)
    layers = ldm_names()
    named = {}
    for key in state:
        layer = next(name for name in layers if key.startswith(name + "."))
        named[layers[layer] + key.removeprefix(layer)] = state[key]
    assert len(named) == 690
    back = diffusers_names(named, FULL)
    assert back.keys() == state.keys() and all(back[key] is state[key] for key in state)
    made = stock_config(FULL, back)
    own = {key: twin.config[key] for key in made}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()} == made | {
        "transformer_layers_per_block": 1
    }


def test_stable_diffusion_1_5s_heads_and_projections_are_read_from_config_and_weights():
    older = {k: v for k, v in FULL.items() if k != "num_head_channels"} | {"num_heads": 8, "context_dim": 768}
    state = {"down_blocks.0.attentions.0.proj_in.weight": torch.zeros(320, 320, 1, 1)}
    made = stock_config(older, state)
    assert made["attention_head_dim"] == [8] * 4 and made["use_linear_projection"] is False
    with torch.device("meta"):
        twin = stock_class()(**made)
    assert len(twin.state_dict()) == 690 and sum(p.numel() for p in twin.parameters()) == 861_182_404


@pytest.mark.parametrize("name", PORTS)
def test_every_port_is_read_to_the_same_network(name, ports):
    folder = ports[name]
    index = as_stock(folder, read_index(folder))
    assert family(folder) is MULTIVIEW and preset_of(str(folder)) == "mvdream"
    found, first = load_unet(folder, index, "unet").state_dict(), load_unet(ports["ours"], {}, "unet").state_dict()
    assert len(found) == 690 and all(torch.equal(found[key], first[key]) for key in first)


@pytest.mark.parametrize("name", PORTS)
def test_every_port_guides_alike(name, ports):
    found = load_guidance(run(ports[name]), "cpu")(pictures(), seen(), 4, 0.0).gradient
    wanted = load_guidance(run(ports["ours"]), "cpu")(pictures(), seen(), 4, 0.0).gradient
    assert found.isfinite().all() and found.abs().max() > 0
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["ldm", "apart"])
def test_fetch_takes_weights_and_configs_of_a_port_and_no_code(name, ports):
    folder = ports[name]
    listed = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    more = {
        "pipeline_mvdream.py",
        "unet/mv_unet.py",
        "unet/diffusion_pytorch_model.bin",
        "README.md",
        "scripts/util.py",
    }
    assert set(needed_files(listed | more, read_index(folder))) == listed


def test_views_are_judged_together_and_told_their_cameras(ports):
    """Views that change places with their cameras change places in the answer; a picture that changes is heard by all
    views of its object and by no other; another camera is another answer."""
    denoiser = load_guidance(run(ports["ldm"], views=8), "cpu").denoiser
    views, t = seen(8), np.full(8, 500)
    z = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    order = np.array([1, 3, 0, 2, 4, 5, 6, 7])
    first = denoiser.predict(z, t, views)
    moved = denoiser.predict(z[order], t, views[order])
    torch.testing.assert_close(moved.cond, first.cond[order], atol=5e-6, rtol=1e-4)
    torch.testing.assert_close(moved.uncond, first.uncond[order], atol=5e-6, rtol=1e-4)
    z[6] += 1
    other = denoiser.predict(z, t, views).cond
    assert torch.equal(other[:4], first.cond[:4]) and all((other[i] - first.cond[i]).abs().max() > 1e-5 for i in (4, 7))
    turned = denoiser.predict(z, t, views[np.array([1, 2, 3, 0, 4, 5, 6, 7])]).cond
    assert (turned[:4] - other[:4]).abs().max() > 1e-5
    assert denoiser.views_together and denoiser.scale == 50.0


def test_two_objects_of_a_step_are_rescaled_apart(ports):
    """Beside an object of much more contrast, the guided noise of the other stays what it is alone."""
    guidance = load_guidance(run(ports["ldm"], views=8, rescale=0.5, rescale_of="clean"), "cpu")
    denoiser, views, t = guidance.denoiser, seen(8), np.full(8, 500)
    z = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    z[4:] *= 5

    def guided(part: slice) -> torch.Tensor:
        alpha, sigma = denoiser.schedule.coefficients(t[part], z)
        said = denoiser.predict(z[part], t[part], views[part])
        return guided_noise(said, z[part], alpha, sigma, denoiser.schedule, guidance.config)

    torch.testing.assert_close(guided(slice(0, 8))[:4], guided(slice(0, 4)), atol=1e-4, rtol=1e-4)


def test_objects_are_sliced_and_views_never(ports):
    """However little memory is asked for, the network is asked about whole objects: the answer stays the same."""
    whole, sliced = (load_guidance(run(ports["ldm"], views=8, slice=n), "cpu") for n in (0, 1))
    asked = []
    inner = sliced.denoiser.forward
    sliced.denoiser.forward = lambda batch, *given, **named: asked.append(len(batch)) or inner(batch, *given, **named)
    wanted, found = (g(pictures(8), seen(8), 4, 0.0).gradient for g in (whole, sliced))
    assert asked == [4] * 4
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-3)
    plans = [memory.plan(g.denoiser, 8, 16) for g in (whole, sliced)]
    assert plans[1]["UNet at work"] < 0.5 * plans[0]["UNet at work"]
    assert plans[1]["encoder at work"] < 0.5 * plans[0]["encoder at work"]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in (*OF_FLOWS, "vsd")])
def test_a_rule_asks_about_all_views_at_one_noise_level(rule, ports, monkeypatch):
    """As they were trained, whatever a rule draws for itself; the refusal of vsd is in test_vsd.py."""
    guidance, times = load_guidance(with_rule(run(ports["ours"]), rule, toys=False), "cpu"), []
    predict = guidance.denoiser._predict
    monkeypatch.setattr(guidance.denoiser, "_predict", lambda z, t, *more: times.append(t) or predict(z, t, *more))
    said = guidance(pictures(), seen(), 90, 0.9)
    assert said.gradient.isfinite().all() and said.gradient.abs().max() > 0
    assert times and all((t == t[0]).all() and len(t) == 4 for t in times)


def test_the_schedule_is_stable_diffusions(ports):
    abar = load_guidance(run(ports["ldm"]), "cpu").denoiser.schedule.abar
    np.testing.assert_allclose(abar[[0, 500, 999]], [0.999150, 0.276332, 0.004660], atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"views": 6}, "views must be a multiple of 4, got 6"),
        ({"camera": CameraConfig()}, "camera.ring must be 4, got None"),
        ({"t_shared": False}, "guidance.t_shared must be true"),
    ],
)
def test_steps_that_are_no_whole_objects_are_refused(changes, message, ports):
    made = run(ports["ldm"])
    if "t_shared" in changes:
        made = replace(made, guidance=replace(made.guidance, **changes))
    else:
        made = replace(made, **changes)
    with pytest.raises(UsageError, match=message):
        load_guidance(made, "cpu")


def test_imagedream_is_told_apart(port):
    from safetensors.torch import load_file, save_file

    folder = port()
    path = folder / "unet" / "config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"ip_dim": 16}))
    with pytest.raises(PriorError, match="is ImageDream, which draws from a picture"):
        family(folder).check(folder)
    path.write_text(json.dumps(plain))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {"image_embed.latents": torch.zeros(1)}, weights)
    with pytest.raises(PriorError, match="is ImageDream"):
        load_guidance(run(folder), "cpu")


def test_weights_that_are_missing_left_over_or_of_another_shape_are_named(port):
    from safetensors.torch import load_file, save_file

    folder = port()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["more.weight"] = torch.zeros(1)
    state["out.2.bias"] = torch.zeros(5)
    del state["camera_embed.0.bias"], state["middle_block.1.norm.weight"]
    save_file(state, path)
    with pytest.raises(PriorError) as caught:
        load_guidance(run(folder), "cpu")
    text = str(caught.value)
    assert "of 690 weights" in text and "2 missing (the first is class_embedding.linear_1.bias)" in text
    assert (
        "1 unknown (the first is more.weight)" in text and "1 of the wrong shape (the first is conv_out.bias)" in text
    )


@pytest.mark.parametrize("given", [[2, 2, 2, 2], None, [2, 1, 2, 2], -1, "2"], ids=str)
def test_residual_blocks_may_be_a_list_of_one_number(given, port, ports):
    folder = port()
    edited(folder / "unet" / "config.json", num_res_blocks=given)
    if given == [2, 2, 2, 2]:
        found = load_unet(folder, {}, "unet").state_dict()
        assert found.keys() == load_unet(ports["ldm"], {}, "unet").state_dict().keys()
        return
    with pytest.raises(PriorError, match="unet cannot be loaded as .*: num_res_blocks must be one number") as caught:
        load_unet(folder, {}, "unet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "camera_proj"])
def test_pickles_are_refused_with_the_command_that_converts_them(part, port, tmp_path):
    """The command that the message names does what it says."""
    import re
    import subprocess

    from safetensors.torch import load_file

    folder = port("apart").rename(tmp_path / "a folder")
    path = folder / part / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    path.unlink()
    torch.save(state, path.with_suffix(".bin"))
    with pytest.raises(PriorError, match="is a pickle, which may run code and is never read") as caught:
        load_guidance(run(folder), "cpu")
    command = re.search(r"convert it once: (.+)$", str(caught.value))[1]
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert load_guidance(run(folder), "cpu").denoiser.ends.views == 4


def test_a_unet_that_takes_no_camera_is_refused(port):
    folder = port("ours")
    path = folder / "dreamfusion_ngp.json"
    path.write_text(json.dumps({"views": 1}))
    with pytest.raises(PriorError, match="views cannot be 1"):
        family(folder).check(folder)
    path.write_text(json.dumps({"views": 2}))
    with pytest.raises(UsageError, match="sees 2 views of an object at once: camera.ring must be 2"):
        load_guidance(run(folder), "cpu")


def test_the_preset_is_for_such_a_model(ports):
    made = preset("mvdream", toys=False)
    guidance = made.guidance
    assert (made.views, made.camera.ring, guidance.t_shared, guidance.view_words) == (4, 4, True, "none")
    small = replace(made, prompt="a red mug", guidance=replace(guidance, model=str(ports["ldm"]), resolution=None))
    assert load_guidance(small, "cpu").config.scale == 50.0
