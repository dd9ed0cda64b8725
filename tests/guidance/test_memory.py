"""The memory plan: counted on tensors without contents, against what is known and against real tensors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import config, judged, views

from dreamfusion_ngp.guidance import memory
from dreamfusion_ngp.guidance.load import load_guidance

SCRIPT = Path(__file__).resolve().parents[2] / "benches" / "guidance.py"


def test_the_most_that_lives_at_once_is_counted():
    def run(device="meta"):
        a = torch.empty(1000, device=device)  # 4000 bytes
        b = a + 1  # 8000
        del a  # 4000
        c = b * 2  # 8000
        d = c.view(10, 100).t().exp_()  # views and work in place are no new memory
        del b
        return torch.cat([d.reshape(-1), c])  # 4000 + 4000 (reshape copies the transposed) + 8000

    assert memory.peak(run) == 16000


def test_a_backward_counts_what_is_kept_for_it():
    def run(grad):
        x = torch.empty(250, device="meta", requires_grad=grad)  # 1000 bytes
        for _ in range(9):
            x = torch.sin(x)
        return x

    with torch.no_grad():
        assert memory.peak(lambda: run(False)) == 2000
    assert memory.peak(lambda: run(True)) == 10000


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_plan_on_nothing_is_the_count_on_real_tensors(kind, latent_folders):
    guidance = load_guidance(config(latent_folders[kind], precision="float32"), "cpu")
    plan = memory.plan(guidance.denoiser, 4, 64)
    assert plan["UNet"] == sum(p.numel() * 4 for p in guidance.denoiser.network.parameters())
    counter = memory.Peak()
    with torch.enable_grad(), memory.fused_attention(), counter:
        image = torch.rand(4, 64, 64, 3, requires_grad=True)
        x = guidance.denoiser.encode(image)
        torch.autograd.backward(x, torch.ones_like(x), inputs=[image])
    assert plan["encoder at work"] == pytest.approx(counter.most, rel=0.15)
    assert guidance.denoiser.ends.vae.encoder.conv_in.weight.device.type == "cpu", "the guidance itself is as before"
    own = torch.nn.functional.scaled_dot_product_attention
    assert own.__module__ != memory.__name__


def test_slices_checkpoints_and_branches_are_seen(latent_folders):
    def plan(**options):
        options = {"precision": "float32", **options}
        return memory.plan(load_guidance(config(latent_folders["sd"], **options), "cpu").denoiser, 4, 16)

    whole, one, four = plan(), plan(slice=1), plan(view_blend="perp-neg")
    assert one["encoder at work"] * 3.5 < whole["encoder at work"] and one["UNet at work"] * 3.5 < whole["UNet at work"]
    assert plan(checkpoint=True)["encoder at work"] < 0.8 * whole["encoder at work"]
    assert four["UNet at work"] == pytest.approx(2 * whole["UNet at work"], rel=0.05)
    assert plan(precision="bfloat16")["UNet"] * 2 == whole["UNet"]


def test_a_pixel_model_has_no_encoder(folders):
    plan = memory.plan(load_guidance(config(folders["if"]), "cpu").denoiser, 4, 64)
    assert plan.keys() == {"UNet", "UNet at work"} and min(plan.values()) > 0


def test_the_line_says_when_it_may_not_fit():
    parts = {"UNet": 2 * 10**9, "encoder": 10**9}
    assert memory.plan_text(parts, None) == "memory plan 3.00 GB: UNet 2.00, encoder 1.00"
    assert "\n" not in memory.plan_text(parts, 4 * 10**9)
    assert memory.plan_text(parts, 2 * 10**9).endswith("try --low-memory, or another model")


def test_the_bench_of_full_size_models_runs_at_a_tiny_size(tmp_path):
    path = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            SCRIPT,
            "--family",
            "quick",
            "--steps",
            "2",
            "--device",
            "cpu",
            "--resolution",
            "8",
            "--json",
            path,
        ],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [row["options"].get("slice", 0) for row in rows] == [0, 1] and all(row["median_ms"] > 0 for row in rows)


def test_a_lesson_of_vsd_is_in_the_plan(latent_folders):
    pytest.importorskip("peft")
    run = replace(config(latent_folders["sd"], precision="float32", rule="vsd"), cuda_graphs=False)
    guidance = load_guidance(run, "cpu")
    plan, student = memory.plan(guidance.denoiser, 3, 64), guidance.rule.student
    learnt = [p for name, p in student.parameters.items() if "lora" in name]
    assert plan["LoRA"] == 4 * 4 * sum(p.numel() for p in learnt), "itself, its gradient and two moments"
    z, t = torch.randn(3, *guidance.denoiser.shape), np.array([100, 500, 900])
    counter = memory.Peak()
    with torch.enable_grad(), student.awake(), memory.fused_attention(), counter:
        torch.autograd.grad(student.ask(z, t, views(), np.ones(3)).sum(), learnt)
    assert plan["LoRA at work"] == pytest.approx(counter.most, rel=0.15)
    few = load_guidance(replace(run, guidance=replace(run.guidance, slice=1)), "cpu")
    assert memory.plan(few.denoiser, 3, 64)["LoRA at work"] < 0.7 * plan["LoRA at work"]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (dict(rule="sds"), 2),
        (dict(rule="csd"), 2),
        (dict(rule="csd", negative="clay"), 3),
        (dict(rule="nfsd", negative="clay"), 3),
        (dict(rule="linear", weights=(1.0, 0.0, 0.0, -1.0)), 1),
        (dict(rule="linear", weights=(2.0, -1.0, -0.5, -1.0)), 2),
        (dict(rule="linear", weights=(2.0, -1.0, -0.5, -1.0), negative="clay"), 3),
        (dict(rule="sds", view_blend="perp-neg"), 4),
    ],
)
def test_the_plan_counts_as_many_texts_as_the_rule_asks_about_at_once(settings, count, latent_folders, monkeypatch):
    guidance = load_guidance(config(latent_folders["sd"], precision="float32", **settings), "cpu")
    network, rows = guidance.denoiser.ask, []
    monkeypatch.setattr(guidance.denoiser, "ask", lambda net, batch: rows.append(len(batch.z)) or network(net, batch))
    judged(guidance, torch.rand(3, 12, 12, 3), part=30)
    assert memory.most_texts(guidance.config) == count == max(rows) // 3
