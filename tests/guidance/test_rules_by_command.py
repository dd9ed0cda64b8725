"""Every rule by the command line: a run that was stopped and resumed ends with the bits of the whole one."""

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_runs import stopping_at

from dreamfusion_ngp import cli
from dreamfusion_ngp.guidance.rules import OF_FLOWS, RULES
from dreamfusion_ngp.runs import generate

SMALL = (
    "views=2",
    "render.resolution=8",
    "render.resolution_doubles=[1,1]",
    "render.step=0.1",
    "render.occupancy_resolution=16",
    "render.budget=32768",
    "field.levels=2",
    "field.finest_resolution=16",
    "field.log2_table=10",
    "guidance.precision=float32",
)
STEPS = 4


def tensors(root):
    return load_file(next(root.glob("*/*/checkpoint.safetensors")))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_runs_and_resumes_bit_for_bit(rule, folders, latent_folders, tmp_path, monkeypatch):
    """Stopped half-way, where bridge is still sds; meshes and pictures are left out."""
    if rule == "vsd":
        pytest.importorskip("peft")
    for name in ("export_run", "render_run"):
        monkeypatch.setattr(generate, name, lambda *_, **__: {})
    model = str(latent_folders["sd3"] if rule in OF_FLOWS else folders["packed"])
    words = ["generate", "a red mug", "--guidance", model, "--rule", rule, "--steps", str(STEPS), "--threads", "1"]
    words += [part for text in SMALL for part in ("--set", text)]
    assert cli.main([*words, "-o", str(tmp_path / "whole")]) == 0
    with stopping_at(2):
        assert cli.main([*words, "-o", str(tmp_path / "half")]) == 0
    begun = tensors(tmp_path / "half")
    assert cli.main(["resume", str(next((tmp_path / "half").glob("*/*"))), "--threads", "1"]) == 0
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "half")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(begun[name], whole[name]) for name in whole if name.startswith("field"))
    assert any(name.startswith("guidance.vsd.") for name in whole) == (rule == "vsd")
