"""The field on tiny-cuda-nn's encoding: a stand-in for its package, its index rule written anew in torch, against the
kernels of this package; and what is said where it cannot be used."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from support.tiny_runs import TINY, all_finite, run

from dreamfusion_ngp.base.errors import NativeError, UsageError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.presets import fast
from dreamfusion_ngp.config.schema import FieldConfig
from dreamfusion_ngp.ops.field import field as kernels
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.scene.fields import HashField

SMALL = FieldConfig(
    levels=5,
    base_resolution=5,
    finest_resolution=70,
    log2_table=12,
    hidden=16,
    backend="tinycudann",
    background_hidden=0,
)
F = np.float32


class Encoding(torch.nn.Module):
    """tinycudann.Encoding: `params` flat, levels rounded in float32 (grid.h), twice differentiable."""

    made = []

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32 and encoding_config["otype"] == "Grid"
        self.config, self.levels, self.calls, first = encoding_config, [], 0, 0
        for level in range(encoding_config["n_levels"]):
            log2 = np.log2(F(encoding_config["per_level_scale"]))
            scale = np.exp2(F(level) * log2) * F(encoding_config["base_resolution"]) - F(1)
            resolution = int(np.ceil(scale)) + 1
            rows = min(-(-(resolution**3) // 8) * 8, 1 << encoding_config["log2_hashmap_size"])
            self.levels.append((float(scale), resolution, first, rows))
            first += rows
        self.params = torch.nn.Parameter(1e-4 * torch.rand(first * encoding_config["n_features_per_level"]))
        Encoding.made.append(self)

    def forward(self, x):
        self.calls += 1
        table, found = self.params.view(-1, self.config["n_features_per_level"]), []
        for scale, resolution, first, rows in self.levels:
            position = x * scale + 0.5
            cell = position.detach().floor()
            f = position - cell
            f = f * f * (3 - 2 * f) if self.config["interpolation"] == "Smoothstep" else f
            total = 0.0
            for corner in range(8):
                bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2])
                i, j, k = (cell.long() + bit).unbind(1)
                dense = i + resolution * (j + resolution * k)
                row = dense if resolution**3 <= rows else i ^ (j * 2654435761) ^ (k * 805459861)
                total = total + torch.where(bit.bool(), f, 1 - f).prod(1)[:, None] * table[first + row % rows]
            found.append(total)
        return torch.cat(found, 1)


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("tinycudann")
    module.Encoding = Encoding
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.setattr(Encoding, "made", [])
    return module


def field_of(config):
    made, random = HashField(config, 0), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random))
    return made


def outputs_and_gradients(call, field, x):
    """h, rgb_raw, grad_h; and the gradients of all parameters of a sum in which grad_h has a share."""
    found, random = call(x), torch.Generator().manual_seed(3)
    loss = sum((torch.randn(out.shape, generator=random).to(out) * out).sum() for out in found)
    return [*(out.detach() for out in found), *torch.autograd.grad(loss, list(field.parameters()))]


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_normals_and_second_order_gradients_are_those_of_the_kernels(stand_in, interpolation):
    """The gradient of the table through grad_h is a second derivative of tiny-cuda-nn's encoding."""
    field = field_of(replace(SMALL, interpolation=interpolation))
    x = 1.4 * torch.rand(400, 3, generator=torch.manual_seed(0)) - 0.7
    count = torch.tensor([350])
    positional, named = field._arguments()
    got = outputs_and_gradients(lambda x: field(x, count), field, x)
    want = outputs_and_gradients(lambda x: kernels(x, *positional, **named, count=count), field, x)
    exact = [v.double() for v in want]
    assert Encoding.made[0].calls > 0 and not got[2][350:].any()
    for a, b in zip(got, exact, strict=True):
        assert b.abs().max() > 0 and (a - b).abs().max() < 1e-4 * b.abs().max()
    assert torch.equal(field.density(x), field.activate(field(x)[0].detach()))
    assert field(x[:0])[0].shape == (0,)


def test_a_run_follows_its_guidance_and_resumes(stand_in, tmp_path):
    config = replace(TINY, steps=6, field=replace(TINY.field, backend="tinycudann"))
    whole, records = run(config)
    assert Encoding.made[0].calls > 6 and all_finite(whole)
    near = run(replace(config, field=TINY.field))[1]
    assert [r["sds"] for r in records] == pytest.approx([r["sds"] for r in near], rel=1e-3)
    part, _ = run(config, stop_after=3)
    save_checkpoint(tmp_path / "c", part)
    again, _ = run(None, state=load_checkpoint(tmp_path / "c", "cpu"))
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


def test_without_the_package_a_run_ends_with_one_line_and_no_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    settings = ["--steps", "1", "--set", "field.backend=tinycudann", "-o", str(tmp_path / "r")]
    code = main(["generate", "a red mug", *settings])
    error = capsys.readouterr().err.strip()
    assert code == 2 and "the package tinycudann is not installed" in error and "\n" not in error
    assert not list(tmp_path.rglob("*"))


def test_what_cannot_be_used_is_said(stand_in, monkeypatch):
    def fails(*_, **__):
        raise OSError("Unknown compute capability. Ensure PyTorch with CUDA support is installed.\nmore")

    def state():
        return VolumeStage(replace(TINY, field=SMALL), "cpu")

    monkeypatch.setattr(stand_in, "Encoding", fails)
    with pytest.raises(NativeError, match=r"Unknown compute capability[^\n]*$"):
        state()

    class Elsewhere(Encoding):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.params = torch.nn.Parameter(self.params.to("meta"))

    monkeypatch.setattr(stand_in, "Encoding", Elsewhere)
    with pytest.raises(NativeError, match="works on meta, and this is on cpu"):
        state()

    class Other(Encoding):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.levels[1] = (self.levels[1][0], self.levels[1][1] + 1, *self.levels[1][2:])

    monkeypatch.setattr(stand_in, "Encoding", Other)
    with pytest.raises(NativeError, match="looked up otherwise"):
        state()


@pytest.mark.parametrize("change", [dict(half_table=True), dict(tensor_cores=True), dict(backend="jax")])
def test_settings_that_do_not_go_together(change):
    with pytest.raises(UsageError, match="field.backend"):
        check_config(replace(fast(), field=replace(SMALL, **change)))
