"""Peers that need a GPU, wired up on the CPU with small stand-ins for their packages that compute the same; the
verdicts on the targets; and counting of waits."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dreamfusion_ngp.bench import SMALL_FIELD, error_of, targets, timing
from dreamfusion_ngp.bench.cases import LeftOut, Problem, encode_cases
from dreamfusion_ngp.bench.field_cases import field_cases
from dreamfusion_ngp.bench.peers import CUDA, ENTRIES, peers_of
from dreamfusion_ngp.bench.peers.composed import torch_grid
from dreamfusion_ngp.bench.scene import Scene, scene_cases
from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.hashgrid import GridLayout

CPU = torch.device("cpu")


class Encoding(torch.nn.Module):
    """tinycudann.Encoding, as far as the bench uses it: a flat table, and the given type of output."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        c, self.dtype = dict(encoding_config), dtype
        assert n_input_dims == 3 and (c.pop("otype"), c.pop("type")) == ("Grid", "Hash")
        finest = c["base_resolution"] * c.pop("per_level_scale") ** (c["n_levels"] - 1)
        self.layout = GridLayout(
            levels=c.pop("n_levels"),
            features=c.pop("n_features_per_level"),
            log2_table=c.pop("log2_hashmap_size"),
            base_resolution=c.pop("base_resolution"),
            finest_resolution=round(finest),
            interpolation=c.pop("interpolation").lower(),
        )
        assert not c
        self.params = torch.nn.Parameter(torch.zeros(self.layout.entries * self.layout.features))
        self.jit_fusion = False

    def forward(self, x):
        table = self.params.to(self.dtype).float().view(self.layout.entries, self.layout.features)
        return reference.hashgrid_encode(x, table, self.layout).to(self.dtype)


class OccGridEstimator(torch.nn.Module):
    """nerfacc's grid, as far as the bench uses it; marches on our lattice from t_min."""

    def __init__(self, roi_aabb, resolution=128, levels=1):
        super().__init__()
        self.bound, self.resolution = roi_aabb[3], resolution
        self.register_buffer("binaries", torch.zeros(levels, resolution, resolution, resolution, dtype=torch.bool))

    def sampling(self, rays_o, rays_d, t_min=None, render_step_size=1e-3):
        assert self.binaries.shape == (1, *[self.resolution] * 3) and self.binaries.dtype == torch.bool
        middle = t_min[:, None] + (torch.arange(2000) + 0.5) * render_step_size
        x = rays_o[:, None] + middle[..., None] * rays_d[:, None]
        cell = ((x + self.bound) / (2 * self.bound) * self.resolution).floor().long()
        inside = (x.abs() < self.bound).all(-1)
        i, j, k = cell.clamp(0, self.resolution - 1).unbind(-1)
        ray, step = (inside & self.binaries[0, i, j, k]).nonzero(as_tuple=True)
        t = middle[ray, step]
        return ray, t - render_step_size / 2, t + render_step_size / 2


def render_weight_from_density(t_starts, t_ends, sigmas, ray_indices=None, n_rays=None):
    thick = sigmas * (t_ends - t_starts)
    before = thick.cumsum(0) - thick
    first = torch.searchsorted(ray_indices, torch.arange(n_rays)).clamp(max=len(thick) - 1)
    passing, alpha = torch.exp(before[first][ray_indices] - before), 1 - torch.exp(-thick)
    return passing * alpha, passing, alpha


def accumulate_along_rays(weights, values=None, ray_indices=None, n_rays=None):
    values = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, values.shape[1]).index_add(0, ray_indices, values)


@pytest.fixture
def stand_ins(monkeypatch):
    """Both packages as modules, and the CPU instead of a CUDA device."""
    for name, things in (
        ("tinycudann", [Encoding]),
        ("nerfacc", [OccGridEstimator, render_weight_from_density, accumulate_along_rays]),
    ):
        module = ModuleType(name)
        module.__dict__.update({thing.__name__: thing for thing in things})
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["tinycudann"].supports_jit_fusion = lambda: True
    monkeypatch.setattr(
        "dreamfusion_ngp.bench.peers.installed", lambda package: package in ("torch", "tinycudann", "nerfacc")
    )


def prepared(case, subject):
    """who -> (Peer, its error), of the peers that a CUDA device has."""
    gpu = SimpleNamespace(type=CUDA)
    found = {who: make() for who, make in peers_of(case.op, subject, gpu, case.precision).items()}
    truth = case.truth()
    for peer in found.values():
        peer.call()
    return {who: (peer, error_of(peer.sample, truth) if peer.sample else None) for who, peer in found.items()}


def test_tinycudann_encodes_our_table(stand_ins):
    problem = Problem(4, SMALL_FIELD, CPU)
    for case in encode_cases(problem):
        found = prepared(case, problem)
        assert set(found) == {"torch", "tinycudann", "tinycudann, jit"}
        assert all(error < 1e-5 for _, error in found.values())


def test_run_time_compilation_is_asked_for(stand_ins, monkeypatch):
    problem, asked = Problem(2, SMALL_FIELD, CPU), []
    monkeypatch.setattr(
        Encoding,
        "__setattr__",
        lambda self, name, value: (
            asked.append(value) if name == "jit_fusion" else None,
            torch.nn.Module.__setattr__(self, name, value),
        )[1],
    )
    makers = peers_of("encode forward", problem, SimpleNamespace(type=CUDA), torch.float32)
    makers["tinycudann"](), makers["tinycudann, jit"]()
    assert asked == [False, False, False, True]  # by the stand-in, then by us
    monkeypatch.setattr(sys.modules["tinycudann"], "supports_jit_fusion", lambda: False)
    with pytest.raises(LeftOut, match="no run-time compilation"):
        makers["tinycudann, jit"]()


def test_steps_on_tinycudann_have_our_gradient(stand_ins):
    problem = Problem(4, SMALL_FIELD, CPU)
    steps = {
        case.precision: prepared(case, problem) for case in field_cases(problem, half=True) if case.op == "field step"
    }
    whole, half = steps[torch.float32], steps[torch.float16]
    assert set(whole) == {
        "torch, composed",
        "tinycudann + torch",
        "tinycudann + torch, jit",
        "tinycudann + torch, 6 taps",
    }
    assert whole["tinycudann + torch"][1] < 1e-4 and whole["torch, composed"][1] < 1e-4
    taps, error = whole["tinycudann + torch, 6 taps"]
    assert error is None and "degrees from ours" in taps.note  # another estimator
    assert 0 < float(taps.note.split()[1]) < 60
    assert set(half) == {"tinycudann + torch"} and half["tinycudann + torch"][1] < 2e-2


def test_a_table_of_another_size_is_left_out(stand_ins, monkeypatch):
    monkeypatch.setattr(
        Encoding,
        "__init__",
        lambda self, *args, **kwargs: (
            torch.nn.Module.__init__(self),
            setattr(self, "params", torch.nn.Parameter(torch.zeros(5))),
        )[0],
    )
    problem = Problem(2, SMALL_FIELD, CPU)
    case = encode_cases(problem)[0]
    make = peers_of(case.op, problem, SimpleNamespace(type=CUDA), case.precision)["tinycudann"]
    with pytest.raises(LeftOut, match="its table has 5 numbers"):
        make()


def test_nerfacc_marches_and_composites_our_rays(stand_ins):
    scene = Scene(6, SMALL_FIELD, CPU)
    cases = {case.op: case for case in scene_cases(scene)}
    (march,) = prepared(cases["march"], scene).values()
    ray, near, far, x = march[0].call()
    assert march[1] < 1e-5 and len(ray) == scene.n and torch.equal(ray, scene.ray.long())
    torch.testing.assert_close(x, scene.x, atol=1e-5, rtol=1e-4)
    (composited,) = prepared(cases["composite forward + backward"], scene).values()
    assert composited[1] < 1e-3  # it does not end rays at a transmittance of 1e-4
    assert all(tensor.grad is None for tensor in scene.shaded)


def test_peers_of_another_device_are_not_asked_for():
    assert not {"tinycudann", "nerfacc"} & {who for e in ENTRIES for who in peers_of(e.op, None, CPU, e.precision)}


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_the_torch_grid_is_the_reference(interpolation):
    layout = GridLayout(levels=5, log2_table=9, base_resolution=4, finest_resolution=64, interpolation=interpolation)
    random = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, generator=random, dtype=torch.float64)
    x[0], x[1], x[2, 0] = 1.0, 0.0, 1.0
    table = torch.randn(layout.entries, 2, generator=random, dtype=torch.float64)
    incoming = torch.randn(200, layout.width, generator=random, dtype=torch.float64)

    def derivatives(encode):
        """Value, first and second order."""
        u, t = x.clone().requires_grad_(), table.clone().requires_grad_()
        y = encode(u, t)
        (du,) = torch.autograd.grad((y * incoming).sum(), u, create_graph=True)
        return [y, du, *torch.autograd.grad(du.square().sum() + y.square().sum(), (u, t))]

    for got, want in zip(
        derivatives(torch_grid(layout, CPU)),
        derivatives(lambda u, t: reference.hashgrid_encode(u, t, layout)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_waits_are_counted(monkeypatch):
    assert timing.host_syncs(lambda: None, CPU) is None
    state = {"mode": 0}
    fake = SimpleNamespace(
        synchronize=lambda device=None: None,
        get_sync_debug_mode=lambda: state["mode"],
        set_sync_debug_mode=lambda mode: state.update(mode=mode),
    )
    monkeypatch.setattr(torch, "cuda", fake)

    def call():
        assert state["mode"] == "warn"
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation")
        warnings.warn("something else")

    assert timing.host_syncs(call, SimpleNamespace(type="cuda")) == 3 and state["mode"] == 0


def test_waits_are_counted_on_a_gpu(device):
    if device == "cpu":
        pytest.skip("needs a CUDA device")
    x = torch.ones(3, device=device)
    assert timing.host_syncs(lambda: (x.sum().item(), x.nonzero()), torch.device(device)) >= 2
    assert timing.host_syncs(lambda: x + 1, torch.device(device)) == 0


def row(op, who, ms, **more):
    return {
        "op": op,
        "who": who,
        "field": "paper",
        "resolution": 64,
        "precision": "float32",
        "size": 131072,
        "median_ms": ms,
        "min_ms": ms,
        "peak_bytes": 1e8,
        **more,
    }


def result(*rows, device="cpu"):
    return {"device": device, "ceilings": {"copy": 1e9, "gather": 1e9}, "rows": list(rows)}


def test_verdicts_come_from_the_rows():
    counts = {"bytes": 4e6, "flops": 0, "gathers": 20e6, "reductions": 0}  # 4 ms and 20 ms
    ours = row("encode forward", targets.OURS, 30.0, counts=counts)
    lines = targets.section(result(ours, row("encode forward", "torch", 300.0), row("encode forward", "drjit", 33.0)))
    assert "- met: encode forward, at least 10 x as fast as torch: 10 x (fastest calls 10 x)." in lines
    (missed,) = [line for line in lines if line.startswith("- missed")]
    assert "at least 1.5 x as fast as drjit: 1.1 x" in missed and "copy 13 %, gather 67 %" in missed
    assert "20 ms if all overlap without loss and 24 ms one after the other" in missed
    assert "the target, 22 ms, lies between them" in missed
    assert any(line.startswith("- not measured: encode backward") for line in lines)
    for theirs, words in ((45.0, None), (39.0, "is above both"), (27.0, "is below both")):
        line = targets.verdict(targets.TARGETS[1], result(ours, row("encode forward", "drjit", theirs)))
        assert words in line if words else line.startswith("- met")
    assert targets.section(result(row("adam", targets.OURS, 1.0))) == []


def test_verdicts_on_a_gpu_add_ops():
    rows = [row(op, targets.OURS, 0.1) for op in (*targets.KERNELS, *targets.RAYS, "field step")]
    rows += [row(op, "nerfacc", 0.15) for op in targets.RAYS] + [row("field step", "tinycudann + torch", 0.6)]
    text = "\n".join(targets.section(result(*rows, device="cuda")))
    assert "- met: field and shading, forward and backward, at most 0.4 ms: 0.3 ms" in text
    assert "- missed: march and composite, at least 2 x as fast as nerfacc: 1.5 x" in text
    assert "- met: field step, normals by autograd, at least 5 x as fast as tinycudann + torch: 6 x" in text
    assert "- not measured: step without guidance" in text


def test_memory_is_compared_a_sample():
    ours = row("field step", targets.OURS, 1.0, peak_bytes=8e8) | {"size": 1 << 23, "resolution": 512}
    composed = row("field step", "torch, composed", 1.0, peak_bytes=131072 * 9500.0, chunk=131072)
    line = targets.memory_line(result(ours, composed), "paper")
    assert line.startswith("- met") and line.endswith("100 x.")
    line = targets.memory_line(result(ours, composed | {"chunk": 1 << 17, "peak_bytes": 131072 * 900.0}), "paper")
    assert line.startswith("- missed") and line.endswith("9 x.")
    smaller = targets.memory_line(result(ours | {"resolution": 64}, composed), "paper")
    assert smaller.startswith("- not measured at 512 x 512")
    assert targets.memory_line(result(ours), "paper") is None
