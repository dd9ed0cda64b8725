"""Tables given to tiny-cuda-nn and Dr.Jit and taken from them: against tiny-cuda-nn's index rule, written anew in
float32, and against Dr.Jit itself."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.ops.exchange import tinycudann_config
from dreamfusion_ngp.ops.hashgrid import (
    GridLayout,
    from_drjit,
    from_tinycudann,
    hashgrid_encode,
    to_drjit,
    to_tinycudann,
)

PAPER = GridLayout(log2_table=14)
FAST = GridLayout(levels=8, log2_table=15, base_resolution=8, finest_resolution=40)
ODD = GridLayout(levels=4, features=4, log2_table=12, base_resolution=7, finest_resolution=61)
EVEN = GridLayout(levels=3, log2_table=15, base_resolution=4, finest_resolution=16)
WHOLE = GridLayout(levels=2, base_resolution=4, finest_resolution=24)  # tiny-cuda-nn's scale is above 23: 25 corners
SHORT = GridLayout(levels=3, log2_table=12, base_resolution=8, finest_resolution=19)  # a scale of 11.3: 13 corners
F = np.float32


def points(n=3000):
    """In [0, 1]^3, a third of them in the upper half cells, where dense levels wrap."""
    x = torch.rand(n, 3, generator=torch.manual_seed(0))
    x[::3] = 1 - 0.02 * x[::3]
    x[:2] = torch.tensor([[0.0] * 3, [1.0] * 3])
    return x


def tinycudann_levels(config):
    """(scale, resolution, rows) of every level: grid_scale, grid_resolution and the constructor of its grid.h."""
    for level in range(config["n_levels"]):
        log2 = F(np.log2(np.float64(F(config["per_level_scale"]))))
        scale = F(np.exp2(np.float64(F(level) * log2))) * F(config["base_resolution"]) - F(1)
        resolution = int(np.ceil(scale)) + 1
        rows = min(-(-(resolution**3) // 8) * 8, 1 << config["log2_hashmap_size"])
        yield scale, resolution, rows


def tinycudann_encode(x, params, config):
    """kernel_grid of its grid.h, in numpy."""
    found, first = [], 0
    table = params.numpy().reshape(-1, config["n_features_per_level"])
    for scale, resolution, rows in tinycudann_levels(config):
        position = (scale.astype(np.float64) * x.numpy() + 0.5).astype(F)  # fmaf rounds once
        cell = np.floor(position)
        f = position - cell
        if config["interpolation"] == "Smoothstep":
            f = f * f * (F(3) - F(2) * f)
        total = 0.0
        for corner in range(8):
            bits = np.array([corner >> axis & 1 for axis in range(3)])
            at = cell.astype(np.uint32) + bits.astype(np.uint32)
            stride, index = 1, np.zeros(len(x), np.uint32)
            for axis in range(3):
                if stride > rows:
                    break
                index = index + at[:, axis] * np.uint32(stride)
                stride *= resolution
            if rows < stride:
                index = at[:, 0] ^ at[:, 1] * np.uint32(2654435761) ^ at[:, 2] * np.uint32(805459861)
            weight = np.where(bits, f, F(1) - f).prod(1)
            total = total + weight[:, None] * table[first + index % np.uint32(rows)]
        found.append(total)
        first += rows
    assert first == len(table)
    return torch.from_numpy(np.concatenate(found, 1)).float()


def table_of(layout):
    return torch.randn(layout.entries, layout.features, generator=torch.manual_seed(1))


def size_of_error(got, want):
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("layout", [PAPER, FAST, ODD, EVEN, WHOLE])
def test_tables_of_tinycudanns_convention_are_its_own(layout, interpolation):
    """What differs is the last bit of a sum."""
    layout = replace(layout, convention="tinycudann", interpolation=interpolation)
    table, x = table_of(layout), points()
    params = to_tinycudann(table, layout)
    assert params.shape == (table.numel(),) and torch.equal(from_tinycudann(params, layout), table)
    theirs = tinycudann_encode(x, params, tinycudann_config(layout))
    assert size_of_error(hashgrid_encode(x, table, layout), theirs) < 1e-4


@pytest.mark.parametrize("layout, tolerance", [(PAPER, 5e-3), (FAST, 1e-4), (ODD, 1e-4), (EVEN, 1e-5), (WHOLE, 1e-4)])
def test_tables_of_this_package_mean_the_same_to_tinycudann(layout, tolerance):
    """But for its float32 scale. WHOLE has another number of rows there: its corners find theirs."""
    table, x = table_of(layout), points()
    params = to_tinycudann(table, layout)
    assert (
        size_of_error(tinycudann_encode(x, params, tinycudann_config(layout)), hashgrid_encode(x, table, layout))
        < tolerance
    )
    if layout is WHOLE:
        assert len(params) > table.numel()
        with pytest.raises(ValueError, match="from_tinycudann: level 1 has 24 corners .* 25 and 15632 in tiny-cuda-nn"):
            from_tinycudann(torch.randn(params.shape), layout)
    again = from_tinycudann(params, layout)
    assert torch.equal(hashgrid_encode(x, again, layout), hashgrid_encode(x, table, layout))


def test_every_layout_is_exchanged_or_refused():
    """Resolutions that float32 rounds up or down, at every base: the encoding is the same, or a line says why not."""
    refused, moved, x = 0, 0, points(300)
    for base in range(4, 33, 4):
        for levels in (2, 3, 5):
            for factor in (3, 6, 7, 12):
                layout = GridLayout(levels=levels, log2_table=16, base_resolution=base, finest_resolution=factor * base)
                table, config = table_of(layout), tinycudann_config(layout)
                try:
                    params = to_tinycudann(table, layout)
                except ValueError as error:
                    assert "in tiny-cuda-nn" in str(error)
                    refused += 1
                    continue
                moved += len(params) != table.numel()
                assert size_of_error(tinycudann_encode(x, params, config), hashgrid_encode(x, table, layout)) < 1e-3
    assert moved + refused > 0 and refused < 10


class DrjitGrid:
    """Dr.Jit's encoding of a layout."""

    def __init__(self, layout):
        dr = pytest.importorskip("drjit", reason="drjit is not installed")
        if not dr.has_backend(dr.JitBackend.LLVM):
            pytest.skip("drjit finds no libLLVM")
        from drjit.llvm.ad import ArrayXf, Float
        from drjit.nn import HashGridEncoding

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of an odd number of features
            self.grid = HashGridEncoding(
                Float,
                3,
                n_levels=layout.levels,
                n_features_per_level=layout.features,
                hashmap_size=2**layout.log2_table,
                base_resolution=layout.base_resolution,
                per_level_scale=layout.growth,
                align_corners=False,
            )
        self.offsets = tuple(self.grid.level_offset(level) for level in range(layout.levels + 1))
        self.float, self.array = Float, ArrayXf

    def encode(self, x, params):
        self.grid.set_params(self.float(params.numpy()))
        return torch.from_numpy(np.array(self.grid(self.array(x.T.contiguous().numpy())))).T


@pytest.mark.parametrize(
    "layout",
    [
        PAPER,
        FAST,
        ODD,
        EVEN,
        SHORT,
        replace(ODD, features=1),
        replace(EVEN, base_resolution=2),
        replace(FAST, levels=7),
    ],
)
def test_tables_of_drjits_convention_are_its_own(layout):
    layout = replace(layout, convention="drjit")
    peer, table, x = DrjitGrid(layout), table_of(layout), points()
    assert peer.offsets == layout.offset
    params = to_drjit(table, layout)
    assert torch.equal(from_drjit(params, layout), table)
    assert size_of_error(hashgrid_encode(x, table, layout), peer.encode(x, params)) < 1e-5


def test_tables_of_even_resolutions_mean_the_same_to_drjit():
    """So do those of odd ones that end before they wrap, though they have fewer rows there: SHORT's second level."""
    for layout in (EVEN, SHORT):
        peer, table, x = DrjitGrid(layout), table_of(layout), points()
        assert (peer.offsets == layout.offset) == (layout is EVEN)
        params = to_drjit(table, layout)
        assert size_of_error(peer.encode(x, params), hashgrid_encode(x, table, layout)) < 1e-5
        again = from_drjit(params.numpy(), layout)
        assert torch.equal(hashgrid_encode(x, again, layout), hashgrid_encode(x, table, layout))


def test_what_drjit_cannot_keep_apart_is_refused():
    with pytest.raises(ValueError, match=r"to_drjit: level 2 has 13 corners .* 2200 rows here, 13 and 2198 in Dr.Jit"):
        to_drjit(table_of(FAST), FAST)
    with pytest.raises(ValueError, match="from_drjit: level 2 has 13 corners"):
        other = replace(FAST, convention="drjit")
        from_drjit(table_of(other).flatten(), FAST)
    assert not to_drjit(torch.zeros(FAST.entries, 2), FAST).any(), "nothing to keep apart"
    with pytest.raises(ValueError, match="to_drjit: Dr.Jit interpolates linearly"):
        to_drjit(table_of(FAST), replace(FAST, interpolation="smoothstep"))
    with pytest.raises(ValueError, match="level 1 is dense, and the last bit of Dr.Jit's exp2 decides .* 24 corners"):
        to_drjit(table_of(WHOLE), WHOLE)


@pytest.mark.parametrize("peer", ["tinycudann", "drjit"])
def test_errors_name_what_differs(peer):
    give, take = {"tinycudann": (to_tinycudann, from_tinycudann), "drjit": (to_drjit, from_drjit)}[peer]
    with pytest.raises(ValueError, match=rf"to_{peer}: table must be .* = \(4672, 2\), got \(5, 2\)"):
        give(torch.zeros(5, 2), EVEN)
    with pytest.raises(ValueError, match=rf"from_{peer}: params must hold 4672 rows of 2 .* 9344 numbers, got 7"):
        take(torch.zeros(7), EVEN)
    with pytest.raises(TypeError, match=rf"to_{peer}: layout must be a GridLayout, got int"):
        give(torch.zeros(5, 2), 16)
    half = give(table_of(EVEN).half(), EVEN)
    assert half.dtype == torch.float16 and torch.equal(take(half, EVEN), table_of(EVEN).half())
    with pytest.raises(ValueError, match="convention must be one of"):
        GridLayout(convention="torch-ngp")
