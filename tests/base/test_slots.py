"""Slots: what is filled, where it lies, and what is refused."""

import numpy as np
import pytest
import torch

from dreamfusion_ngp.base.slots import ALIGNMENT, Slots

EXAMPLES = dict(a=np.zeros((2, 3), np.float32), b=np.zeros(1, np.int64), c=np.zeros((), np.float32))


def test_filled_in_place(device):
    slots = Slots(device, **EXAMPLES)
    before = {name: slots[name].data_ptr() for name in EXAMPLES}
    assert all(not slots[name].any() and slots[name].device.type == device for name in EXAMPLES)
    slots.fill(a=torch.arange(6.0).view(2, 3), b=(1 << 52) + 1, c=0.1)
    assert slots["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and slots["b"].tolist() == [(1 << 52) + 1]
    assert slots["c"].item() == np.float32(0.1)
    slots.fill(a=7, b=[2], c=np.float64(3))
    assert slots["a"].eq(7).all() and slots["b"].item() == 2 and slots["c"].item() == 3
    assert before == {name: slots[name].data_ptr() for name in EXAMPLES}
    assert all(pointer % ALIGNMENT == before["a"] % ALIGNMENT for pointer in before.values())
    assert {name: (v.dtype, v.shape) for name, v in slots.tensors.items()} == {
        name: (torch.from_numpy(v).dtype, v.shape) for name, v in EXAMPLES.items()
    }


def test_autograd_sees_that_they_change():
    slots = Slots("cpu", **EXAMPLES)
    x = torch.ones(2, 3, requires_grad=True)
    y = (x * slots["a"]).sum()
    slots.fill(a=1, b=0, c=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("values", [dict(a=1, b=2), dict(a=1, b=2, c=3, d=4)])
def test_every_slot_and_no_other(values):
    with pytest.raises(ValueError, match="Slots: expected"):
        Slots("cpu", **EXAMPLES).fill(**values)


def test_shapes_must_fit():
    with pytest.raises(ValueError):
        Slots("cpu", **EXAMPLES).fill(a=np.zeros((3, 2)), b=0, c=0)
