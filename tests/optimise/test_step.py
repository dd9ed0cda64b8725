"""The functions of a step: what they draw, and that on a CUDA device nothing goes through the host between them."""

import math
from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion_ngp.optimise.step import cast_rays, draw, fill_eye, fill_numbers, learn, look, refresh_is_due
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.scene.lights import ALBEDO


def test_a_draw_depends_on_its_number_alone():
    a, b = draw(TINY, 7), draw(TINY, 7)
    assert torch.equal(a.views.cameras.c2w, b.views.cameras.c2w) and torch.equal(a.colors, b.colors)
    assert not torch.equal(a.views.cameras.c2w, draw(TINY, 8).views.cameras.c2w)
    assert draw(TINY, 0).views.modes.tolist() == [ALBEDO] * 2
    assert {draw(TINY, n).network for n in range(20)} == {False, True}
    ring = draw(replace(TINY, views=8, camera=replace(TINY.camera, ring=4)), 7).colors.view(2, 4, 3)
    assert (ring == ring[:, :1]).all() and (ring[0, 0] != ring[1, 0]).any(), "one background a ring"
    assert not any(draw(replace(TINY, field=replace(TINY.field, background_hidden=0)), n).network for n in range(20))


def test_parts_of_a_step_share_its_progress():
    config = replace(TINY, accumulate=3)
    assert [draw(config, n).progress * config.steps for n in range(7)] == pytest.approx([0, 0, 0, 1, 1, 1, 2])
    assert [n for n in range(100) if refresh_is_due(config, n)] == [0, 48, 96]


def test_the_numbers_of_a_step():
    config = replace(
        TINY, optim=replace(TINY.optim, final=0.1, warmup=0.5), field=replace(TINY.field, coarse_to_fine=(2, 1.0))
    )
    state = VolumeStage(config, "cpu")
    drawn = draw(config, 10)
    fill_numbers(state, drawn), fill_eye(state, drawn)
    assert state.field.level_weight.tolist() == pytest.approx([1, 1, 0.5, 0])
    # Step 10 of 40 in the middle of the warm-up, a cosine that falls to a tenth, and Adam's bias corrections.
    falling = 11 / 20 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    beta1, beta2 = config.optim.betas
    for factors, rate in zip(state.numbers["factors"].tolist(), (pair[1] for pair in state.adam.pairs), strict=True):
        assert factors == pytest.approx([rate * falling / (1 - beta1**11), 1 / math.sqrt(1 - beta2**11)])
    assert len({tuple(pair) for pair in state.numbers["factors"].tolist()}) == 3  # grid, network, background
    assert torch.equal(state.eye["c2w"], drawn.views.cameras.c2w) and state.eye["stream"].item() == (10 << 4) | 3


class OnTheHost(TorchDispatchMode):
    """Notes the operators that take or return a tensor on the host."""

    def __init__(self):
        super().__init__()
        self.names, self.calls = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        tensors = [v for v in tree_leaves((args, kwargs, results)) if isinstance(v, torch.Tensor)]
        self.calls += 1
        if any(v.device.type == "cpu" for v in tensors):
            self.names.add(function._overloadpacket.__name__)
        return results


@pytest.mark.parametrize("network", [False, True])
def test_no_function_of_a_step_goes_through_the_host(network, monkeypatch):
    """On a device without memory, which stands for any but the CPU, no operator sees a tensor of the host: nothing is
    copied there or back, and no value can be read."""
    monkeypatch.setattr("dreamfusion_ngp.ops.checks.DEVICES", ("cpu", "cuda", "meta"))
    config = replace(TINY, field=replace(TINY.field, half_table=True), loss=replace(TINY.loss, smoothness=0.1))
    state = VolumeStage(config, "meta")
    with OnTheHost() as host:
        seen = look(state, cast_rays(state, 12).cut(1 << 10).clone(), network)
        learn(state, seen, torch.empty_like(seen.rgb), last=True)
    assert seen.rgb.shape == (2, 12, 12, 3) and seen.rgb.is_meta and host.calls > 100
    assert host.names == set()
    with OnTheHost() as host:
        state.eye.tensors["stream"] = 3
        cast_rays(state, 12)
    assert "_to_copy" in host.names, "a copy is seen"
