"""Tiny random models of depth in diffusers format: ControlNets, and Stable Diffusion 2 depth."""

import json
import shutil

import pytest
import torch
from support.tiny_latent import tiny_latent_folder, tiny_unet


def tiny_control(folder, kind: str, **changes):
    """A ControlNet of `tiny_unet(kind)` with random weights, also where those of a new one are zero."""
    from diffusers import ControlNetModel

    torch.manual_seed(2)
    control = ControlNetModel.from_unet(tiny_unet(kind), conditioning_embedding_out_channels=(4, 8))
    for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.3)
    torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.3)
    control.save_pretrained(folder)
    if changes:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def tiny_depth_to_image(folder):
    """Stable Diffusion 2 depth: five channels in, a depth estimator that is named and not there."""
    from diffusers import UNet2DConditionModel

    tiny_latent_folder(folder, "sd")
    torch.manual_seed(5)
    config = dict(tiny_unet("sd").config) | {"in_channels": 5}
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionDepth2ImgPipeline",
        "depth_estimator": ["transformers", "DPTForDepthEstimation"],
        "feature_extractor": ["transformers", "DPTFeatureExtractor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def depth_folders(tmp_path_factory):
    """ControlNets by the kind of their base model, and "channel", a pipeline of its own."""
    made = {kind: tiny_control(tmp_path_factory.mktemp(f"control-{kind}"), kind) for kind in ("sd", "sdxl")}
    return {**made, "channel": tiny_depth_to_image(tmp_path_factory.mktemp("depth"))}
