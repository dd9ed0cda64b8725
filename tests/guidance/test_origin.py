"""A run goes on with its model wherever that lies, and with no other."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tiny_runs import TINY

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance import origin
from dreamfusion_ngp.guidance.origin import check_weights, moved, weights_digest, weights_of
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs import generate
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint


def save_weights(path, seed=0, size=1000):
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.randn(size, generator=torch.Generator().manual_seed(seed))}, path)


@pytest.fixture
def model(tmp_path):
    for k, part in enumerate(("unet", "vae", "text_encoder")):
        save_weights(tmp_path / "model" / part / "model.safetensors", k)
    return tmp_path / "model"


def with_model(model, vae=""):
    return replace(TINY, guidance=replace(TINY.guidance, model=str(model), vae=str(vae)))


def test_a_digest_is_that_of_the_weights_not_of_their_place(model):
    before = weights_digest(model)
    elsewhere = model.rename(model.with_name("moved"))
    (elsewhere / "README.md").write_text("hello")
    (elsewhere / "unet" / "model.safetensors").rename(elsewhere / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights_digest(elsewhere) == before


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_digest_knows_every_part(model, part):
    before = weights_digest(model)
    path = model / part / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert weights_digest(model) != before


def test_of_large_files_blocks_are_read(model, monkeypatch):
    monkeypatch.setattr(origin, "BLOCK", 64)
    monkeypatch.setattr(origin, "BLOCKS", 4)
    digests = {weights_digest(model)}
    for seed, size in ((1, 1000), (0, 1001)):
        save_weights(model / "unet" / "model.safetensors", seed, size)
        digests.add(weights_digest(model))
    assert len(digests) == 3


def test_a_model_that_has_moved_is_asked_for(model, tmp_path):
    config = with_model(model)
    known = weights_of(config)
    assert moved(config, None, None) == config and set(known) == {"model"}
    there = model.rename(tmp_path / "there")
    with pytest.raises(PriorError, match="model, with which the run was started, is not there.*--guidance"):
        moved(config, None, None)
    found = moved(config, str(there), None)
    assert found.guidance.model == str(there) and check_weights(found, known) == known
    save_weights(there / "unet" / "model.safetensors", seed=7)
    with pytest.raises(PriorError, match="another model than the run was started with"):
        check_weights(found, known)


def test_a_vae_of_its_own_moves_alone(model, tmp_path):
    save_weights(tmp_path / "taesd" / "model.safetensors", 9)
    config = with_model(model, tmp_path / "taesd")
    known = weights_of(config)
    there = (tmp_path / "taesd").rename(tmp_path / "there")
    with pytest.raises(PriorError, match="taesd.*--vae"):
        moved(config, None, None)
    assert check_weights(moved(config, None, str(there)), known) == known
    with pytest.raises(PriorError, match="another model"):
        check_weights(moved(config, None, str(model)), known)


def test_the_embedded_prior_is_not_changed_for_another(model):
    for config, other, vae in (
        (TINY, str(model), None),
        (with_model(model), "toybox", None),
        (with_model(model), None, str(model)),
    ):
        with pytest.raises(PriorError, match="the run was started with.*cannot go on with"):
            moved(config, other, vae)
    assert weights_of(TINY) == {} and moved(TINY, "toybox", None) == TINY


def test_resume_finds_a_model_where_it_is_said_to_be(tmp_path, model, monkeypatch, capsys):
    """The whole verb but for the loading of the model and the loop."""
    from dreamfusion_ngp.guidance import load as guidance

    state, run = VolumeStage(with_model(model), "cpu"), tmp_path / "run"
    state.weights, state.step = weights_of(state.config), 3
    run.mkdir()
    save_checkpoint(run / "checkpoint.safetensors", state)
    run, there = run.rename(tmp_path / "moved run"), model.rename(tmp_path / "there")
    other = shutil.copytree(there, tmp_path / "other")
    save_weights(other / "vae" / "model.safetensors", seed=7)
    seen = []
    monkeypatch.setattr(guidance, "load_guidance", lambda config, device: None)
    monkeypatch.setattr(
        generate, "optimise", lambda state, *_, **__: seen.append(state) or SimpleNamespace(signal=None)
    )
    for flags, word in (([], "--guidance"), (["--guidance", str(other)], "another model")):
        assert cli.main(["resume", str(run), "--threads", "1", *flags]) == 2
        error = capsys.readouterr().err
        assert (
            word in error
            and error.count("\n") == 1
            and sorted(p.name for p in run.iterdir()) == ["checkpoint.safetensors"]
        )
    assert cli.main(["resume", str(run), "--threads", "1", "--guidance", str(there)]) == 0
    assert seen[0].config.guidance.model == str(there) and seen[0].weights == state.weights
    assert json.loads((run / "config.json").read_text())["guidance"]["model"] == str(there)


def test_a_checkpoint_remembers_the_weights(tmp_path):
    state = VolumeStage(TINY, "cpu")
    state.weights = {"model": "ab" * 32}
    save_checkpoint(tmp_path / "c", state)
    assert load_checkpoint(tmp_path / "c", "cpu").weights == state.weights


def test_a_later_stage_that_shares_a_model_finds_it_too(model, tmp_path):
    """Else the run would end where that stage begins, each time that it is resumed."""
    config = with_model(model)
    config = replace(config, then=replace(config, kind="mesh"))
    there = model.rename(tmp_path / "there")
    assert moved(config, str(there), None).then.guidance.model == str(there)
    with pytest.raises(PriorError, match="model, with which a later stage of the run is to go on, is not there"):
        moved(replace(config, guidance=TINY.guidance), None, None)


def test_a_digest_of_something_unknown_is_another_model(model):
    with pytest.raises(PriorError, match="is another model"):
        check_weights(with_model(model), {"a": 3})
