"""No step waits for the device. Without a GPU: who reads a tensor's values during a step on the CPU, and what updates
do on fake CUDA tensors. With one, steps run while torch forbids synchronisation."""

import sys
import time
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from support.tape import READS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.adam import Adam
from dreamfusion_ngp.optimise.stage import check_finite, check_update
from dreamfusion_ngp.optimise.volume import VolumeStage, train_step
from dreamfusion_ngp.render.volume import Rays
from dreamfusion_ngp.scene.fields import HashField
from dreamfusion_ngp.scene.occupancy import Occupancy

CONFIG = RunConfig(prompt="a red mug")
SMALL = replace(
    CONFIG,
    render=replace(CONFIG.render, resolution=16),
    field=replace(CONFIG.field, levels=4, log2_table=10, finest_resolution=64, hidden=16),
)


def guidance(image, views, part, progress):
    return GuidanceOutput(image, image.square().mean(), {})


class Reads(TorchDispatchMode):
    """Notes who of the package reads values of tensors, or makes tensors whose size depends on values."""

    def __init__(self):
        super().__init__()
        self.who = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(a, (list, tuple)) and any(getattr(i, "dtype", None) in (torch.bool, torch.uint8) for i in a)
            for a in args
        )
        if name in READS or masked:
            frame = sys._getframe(1)
            while frame and "dreamfusion_ngp" not in frame.f_globals.get("__name__", ""):
                frame = frame.f_back
            self.who.add(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}" if frame else name)
        return function(*args, **(kwargs or {}))


def test_only_three_places_read_values_and_not_on_cuda():
    """All of them look at the device first: on the CPU alone `Rays.rows` cuts the buffers, and `check_finite` and
    `check_update` look at every step."""
    state = VolumeStage(SMALL, "cpu")
    with Reads() as reads:
        for _ in range(3):
            train_step(state, guidance, SMALL, time.perf_counter)
    readers = (check_finite, check_update, Rays.rows)
    assert reads.who == {f"{reader.__module__}.{reader.__name__}" for reader in readers}


def test_a_read_is_seen():
    with Reads() as reads:
        torch.arange(3)[torch.tensor([True, False, True])].sum().item()
    assert reads.who == {"index", "_local_scalar_dense"}


class Numbers(TorchDispatchMode):
    """Notes the numbers among the arguments of every operator: a CUDA graph would repeat those of its capture."""

    def __init__(self):
        super().__init__()
        self.calls = defaultdict(list)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | (kwargs or {})
        self.calls[function._overloadpacket.__name__].append(
            {k: v for k, v in given.items() if isinstance(v, (int, float))}
        )
        return function(*args, **(kwargs or {}))


def test_the_numbers_that_change_from_step_to_step_are_known():
    """None: they are in the stage's `eye` and `numbers`, where kernels read them. `slice` cuts buffers to the count,
    on the CPU alone."""
    config = replace(SMALL, optim=replace(SMALL.optim, final=0.1), field=replace(SMALL.field, coarse_to_fine=(2, 0.9)))
    state, steps = VolumeStage(config, "cpu"), []
    for _ in range(5):
        with Numbers() as numbers:
            train_step(state, guidance, config, time.perf_counter)
        steps.append(numbers.calls)
    first, *others = steps[1:]  # the step before has the update of the occupancy grid as well
    assert all({k: len(v) for k, v in first.items()} == {k: len(v) for k, v in other.items()} for other in others)
    changing = {
        (name, key)
        for other in others
        for name, calls in first.items()
        for a, b in zip(calls, other[name], strict=True)
        for key in a
        if a[key] != b[key]
    }
    assert changing == {("slice", "end")}


class Copies(TorchDispatchMode):
    """Notes every copy between the host and the device that waits."""

    def __init__(self):
        super().__init__()
        self.waiting, self.seen = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if function is torch.ops.aten._to_copy.default else args[1]
            queued = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2])
            if {source.device.type, out.device.type} == {"cpu", "cuda"}:
                self.seen += 1
                if not queued or out.device.type == "cpu":
                    self.waiting.append((str(function), tuple(source.shape)))
        return out


@pytest.fixture
def copies():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Copies() as copies:
        yield copies


def on_cuda(module):
    """The module with fake CUDA tensors (Module.to cannot swap fakes)."""
    for name, value in list(module._parameters.items()):
        module._parameters[name] = torch.nn.Parameter(torch.empty(value.shape, device="cuda:0"))
    for name, value in list(module._buffers.items()):
        module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda:0")
    return module


def fake_state():
    field = HashField(replace(CONFIG.field, half_table=True, tensor_cores=True), 0)
    return on_cuda(field), on_cuda(Occupancy(CONFIG.render, CONFIG.field.bound))


def test_updates_wait_for_nothing(copies):
    field, occupancy = fake_state()
    adam = Adam([(p, 0.01) for p in field.parameters()], CONFIG.optim)
    copies.waiting, copies.seen = [], 0
    occupancy.update(field.density, 0, 0, full=True)
    occupancy.update(field.density, 0, 16)
    adam.step(torch.zeros(len(adam.pairs), 2, device="cuda:0").unbind())
    assert not copies.waiting and not copies.seen


def test_a_copy_that_waits_is_seen(copies):
    torch.zeros(3).to("cuda:0")
    assert len(copies.waiting) == 1


def test_a_step_under_torchs_own_check(device):
    if device == "cpu":
        pytest.skip("needs a CUDA device")
    config = replace(CONFIG, render=replace(CONFIG.render, resolution=16))
    state = VolumeStage(config, device)
    for _ in range(2):
        train_step(state, guidance, config, time.perf_counter)  # the check of the loss terms falls on step 0
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(13):
            train_step(state, guidance, config, time.perf_counter)
    finally:
        torch.cuda.set_sync_debug_mode("default")
