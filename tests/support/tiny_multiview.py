"""MVDream in small, with random weights, in the layouts of its ports; a model of several views on pixels."""

import json

import torch
from support.tiny_latent import INDEX, clip_config, clip_tokenizer, tiny_latent_folder, tiny_vae

LDM = {
    "_class_name": "MultiViewUNetModel",
    "attention_resolutions": [4, 2, 1],
    "camera_dim": 16,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 16,
    "image_size": 8,
    "in_channels": 4,
    "model_channels": 32,
    "num_head_channels": 8,
    "num_res_blocks": 2,
    "out_channels": 4,
    "transformer_depth": 1,
}
FULL = LDM | {"context_dim": 1024, "image_size": 32, "model_channels": 320, "num_head_channels": 64}
PORTS = ("ldm", "prefixed", "apart", "renamed", "ours")
RESNET = dict(
    norm1="in_layers.0",
    conv1="in_layers.2",
    time_emb_proj="emb_layers.1",
    norm2="out_layers.0",
    conv2="out_layers.3",
    conv_shortcut="skip_connection",
)


def ldm_names() -> dict[str, str]:
    """Layers of the published network: diffusers' name -> that of latent diffusion, written down by hand."""
    found = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for ours, theirs in (("time_embedding", "time_embed"), ("class_embedding", "camera_embed")):
        found |= {f"{ours}.linear_1": f"{theirs}.0", f"{ours}.linear_2": f"{theirs}.2"}
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    attentions = {"mid_block.attentions.0": "middle_block.1"}
    for i, (level, layer) in {
        1: (0, 0),
        2: (0, 1),
        4: (1, 0),
        5: (1, 1),
        7: (2, 0),
        8: (2, 1),
        10: (3, 0),
        11: (3, 1),
    }.items():
        resnets[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{i}.0"
        if level < 3:
            attentions[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{i}.1"
    for i, level in {3: 0, 6: 1, 9: 2}.items():
        found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{i}.0.op"
    for i in range(12):
        level, layer = i // 3, i % 3
        resnets[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{i}.0"
        if level:
            attentions[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{i}.1"
    for i, (level, j) in {2: (0, 1), 5: (1, 2), 8: (2, 2)}.items():
        found[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{i}.{j}.conv"
    for ours, theirs in resnets.items():
        found |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in RESNET.items()}
    return found | attentions


def in_ldm_names(state: dict) -> dict:
    layers, renamed = ldm_names(), {}
    for key, value in state.items():
        layer = next(name for name in layers if key.startswith(name + "."))
        renamed[layers[layer] + key.removeprefix(layer)] = value
    return renamed


def ldm_twin(config: dict = LDM, attention: dict | None = None):
    """The network of an ldm config, as diffusers has it, with 3 levels of attention."""
    from diffusers import UNet2DConditionModel

    width = config["model_channels"]
    channels = [width * factor for factor in config["channel_mult"]]
    # The last of four levels has none: 8 is not among the attention_resolutions.
    return UNet2DConditionModel(
        sample_size=config["image_size"],
        block_out_channels=channels,
        cross_attention_dim=config["context_dim"],
        attention_head_dim=[c // config["num_head_channels"] for c in channels],
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
        **(attention or {}),
    )


def tiny_mvdream_folder(folder, port: str = "ldm"):
    """A folder with the weights of one seed in the layout of a port."""
    from diffusers import DDIMScheduler
    from safetensors.torch import save_file
    from transformers import CLIPTextModel

    torch.manual_seed(4)
    unet, tokenizer = ldm_twin(), clip_tokenizer()
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")
    tiny_vae().save_pretrained(folder / "vae")
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(clip_config(len(tokenizer), 16)).save_pretrained(folder / "text_encoder")
    index, state, config = dict(INDEX, _class_name="MVDreamPipeline"), unet.state_dict(), dict(unet.config)
    if port in ("ldm", "prefixed"):
        state, config = in_ldm_names(state), LDM
        index["unet"] = ["mv_unet", "MultiViewUNetModel"]
    if port == "prefixed":
        state = {f"unet.{key}": value for key, value in state.items()}
        index |= {"_class_name": "KokeCacaoPipeline", "unet": ["mv_unet", "MultiViewUNetWrapperModel"]}
    if port == "apart":
        apart = {key.removeprefix("class_embedding."): v for key, v in state.items() if key.startswith("class_")}
        state = {key: value for key, value in state.items() if not key.startswith("class_")}
        (folder / "camera_proj").mkdir()
        save_file(apart, folder / "camera_proj" / "diffusion_pytorch_model.safetensors")
        index |= {"_class_name": "StableDiffusionPipeline", "unet": ["unet", "UNet2DConditionModel"]}
        index["camera_proj"] = ["diffusers", "TimestepEmbedding"]
        config = {k: v for k, v in config.items() if "class_embed" not in k}
    if port == "renamed":
        state = {key.replace("class_embedding", "camera_embedding"): value for key, value in state.items()}
        index["unet"] = ["unet_mv_model", "MultiViewUNet2DConditionModel"]
        config = {k: v for k, v in config.items() if "class_embed" not in k} | {"camera_embedding_dim": 16}
    (folder / "unet").mkdir()
    save_file(state, folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k[0] != "_"}))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


__all__ = ["FULL", "LDM", "PORTS", "in_ldm_names", "ldm_names", "ldm_twin", "tiny_latent_folder", "tiny_mvdream_folder"]
