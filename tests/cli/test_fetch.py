"""The last line of `fetch`: the command for what was fetched."""

import json

import pytest

from dreamfusion_ngp.cli import main
from dreamfusion_ngp.cli.fetch import use_of
from dreamfusion_ngp.hub.snapshots import Snapshot

NAME = "owner/name"
MADE_FOR = "now, with the MODEL that it was made for: dreamfusion-ngp"
KINDS = {
    "a pipeline": (
        "model_index.json",
        {"_class_name": "StableDiffusionPipeline"},
        f'now: dreamfusion-ngp generate "a DSLR photo of a peacock on a surfboard" --guidance {NAME}',
    ),
    "a clip": (
        "config.json",
        {"model_type": "clip"},
        f'now: dreamfusion-ngp generate "a DSLR photo of a peacock on a surfboard" --guidance {NAME}',
    ),
    "a pipeline of depth": (
        "model_index.json",
        {"_class_name": "StableDiffusionDepth2ImgPipeline"},
        f'now: dreamfusion-ngp refine mug.glb "a red mug" --depth-control {NAME}',
    ),
    "a controlnet": (
        "config.json",
        {"_class_name": "ControlNetModel"},
        f'{MADE_FOR} refine mug.glb "a red mug" --guidance MODEL --depth-control {NAME}',
    ),
    "a vae": (
        "config.json",
        {"_class_name": "AutoencoderTiny"},
        f'{MADE_FOR} generate "a red mug" --guidance MODEL --set guidance.vae={NAME}',
    ),
    "a unet alone": ("config.json", {"_class_name": "UNet2DConditionModel"}, ""),
    "a style": (
        "README.md",
        {},
        f'{MADE_FOR} generate "a red mug" --guidance MODEL --lora {NAME} (a textual inversion: --embedding {NAME})',
    ),
    "a language model": ("config.json", {"model_type": "t5"}, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_is_that_of_the_kind_of_model(kind, tmp_path, monkeypatch, capsys):
    file, config, command = KINDS[kind]
    (tmp_path / file).write_text(json.dumps(config))
    assert use_of(NAME, tmp_path) == command
    monkeypatch.setattr("dreamfusion_ngp.hub.fetch.fetch", lambda *_: Snapshot(NAME, "0" * 40, tmp_path, {}))
    assert main(["fetch", NAME]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ([command] if command else [])
