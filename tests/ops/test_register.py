"""How ops meet torch: fake tensors have the strides of real ones, and derivatives that are not there are refused."""

from importlib import import_module

import pytest
import torch
from support.triangles import soup
from torch.autograd import forward_ad

from dreamfusion_ngp.ops.composite import composite
from dreamfusion_ngp.ops.field import field
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.ops.rasterise import rasterise

OPS = torch.ops.dreamfusion_ngp
LAYOUT = GridLayout(levels=2, log2_table=6, base_resolution=2, finest_resolution=4)
N = 7


def turned(*shape):
    """Numbers whose last axis is not the one that lies side by side in memory."""
    values = torch.rand(shape[::-1], generator=torch.Generator().manual_seed(sum(shape)))
    return values.permute(*range(len(shape))[::-1])


def network():
    shapes = ((LAYOUT.entries, 2), (8, LAYOUT.width), (8,), (4, 8), (4,))
    return [torch.rand(shape, generator=torch.Generator().manual_seed(5)) for shape in shapes]


def fragments():
    position, faces = soup(0, triangles=5, dtype=torch.float32)
    return faces, rasterise(position, faces, (4, 6)).face


def arguments(op):
    samples = [turned(N), turned(N, 3), turned(N, 3)]
    if op.startswith("shade"):
        rest = (turned(N, 3), torch.zeros(N, dtype=torch.int32), torch.ones(1, 6), None, 4, True, 0.01)
        return (*samples[: 3 * op.endswith("backward")], *samples, *rest)
    if op == "composite_backward":
        rays = [turned(*shape) for shape in ((2, 3), (2,), (2,), (2, 3))]
        offsets = torch.tensor([0, 3, N], dtype=torch.int32)
        return (*rays, turned(2), *rays, *samples, turned(N), offsets, turned(2, 3), None, 0.1)
    if op == "hashgrid_grad_x":
        return (turned(N, LAYOUT.width), turned(N, 3), turned(LAYOUT.entries, 2), *LAYOUT.arguments, None)
    if op == "field":
        return (turned(N, 3), *network(), torch.ones(2), *LAYOUT.arguments, 1.0, 0, 0.0, 1.0, False, None, None)
    faces, face = fragments()
    if op == "rasterise_backward":
        return (turned(2, 4, 6), turned(2, 4, 6, 3), turned(2, 15, 4), faces, face)
    if op == "interpolate_backward":
        return (turned(2, 4, 6, 5), turned(2, 15, 5), turned(2, 4, 6, 3), faces, face, True)
    return (turned(2, 2, 3, 5), turned(2, 4, 6, 5), turned(2, 15, 4), faces, face, 2, True)


STRIDED = "shade shade_backward composite_backward hashgrid_grad_x field"
STRIDED += " rasterise_backward interpolate_backward antialias_backward"


@pytest.mark.parametrize("op", STRIDED.split())
def test_fake_outputs_have_the_strides_of_real_ones(op):
    """Compiled code takes the strides of fake tensors for those of real ones."""
    import_module(f"dreamfusion_ngp.ops.{op.partition('_')[0]}")  # which registers it
    torch.library.opcheck(getattr(OPS, op).default, arguments(op), test_utils="test_faketensor")


def test_forward_mode_is_refused():
    """torch drops tangents at an op that knows nothing of them: the derivative would be zero."""
    x, table, (position, faces) = torch.rand(5, 3), torch.rand(LAYOUT.entries, 2), soup(0, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="hashgrid_encode: no forward-mode derivative"):
        torch.func.jvp(lambda x: hashgrid_encode(x, table, LAYOUT), (x,), (torch.ones_like(x),))
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="rasterise: no forward-mode derivative"):
            rasterise(forward_ad.make_dual(position, position), faces, (4, 4))
        assert hashgrid_encode(x, table, LAYOUT).shape == (5, 4)  # nothing is dropped


def test_what_has_no_derivative_anyway_does_not_mind_forward_mode():
    rays, bits = torch.nn.functional.normalize(torch.rand(2, 3), dim=1), torch.full((8,), 255, dtype=torch.uint8)
    settings = dict(resolution=4, bound=1.0, near=0.0, step=0.1, budget=64, seed=-1, stream=0)
    with forward_ad.dual_level():
        s = march(forward_ad.make_dual(-rays, rays), rays, bits, **settings)
        assert s.info[0] > 0
        t, n = forward_ad.make_dual(s.t, s.t), torch.ones(64, 3)
        assert composite(s.t, n, n, t, s.offsets, rays, 0.1).rgb.any()


def test_points_of_a_field_alone_make_nothing_differentiable():
    """They get no gradient, and a backward pass that gives none is an error of torch's, not None."""
    x = torch.rand(5, 3, requires_grad=True)
    outputs = field(x, *network(), LAYOUT, bound=1.0, level_weight=[1.0, 1.0])
    assert not any(v.requires_grad for v in outputs)
