"""Layouts and shapes that nobody thought of: drawn by hypothesis, the same ones in every run."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.field_cases import relative_error

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode
from dreamfusion_ngp.ops.march import march

drawn = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def layouts(draw, largest=64, log2_table=14, most=5):
    base = draw(st.integers(2, largest))
    levels = draw(st.integers(1, most))
    return GridLayout(
        levels=levels,
        features=draw(st.integers(1, min(8, 64 // levels))),
        log2_table=draw(st.integers(3, log2_table)),
        base_resolution=base,
        finest_resolution=draw(st.integers(base, 40 * largest)),
        interpolation=draw(st.sampled_from(("linear", "smoothstep"))),
    )


@drawn
@given(layouts(largest=1 << 14, log2_table=26, most=16))
def test_every_corner_of_every_level_has_a_row(layout):
    rows = [b - a for a, b in zip(layout.offset, layout.offset[1:], strict=False)]
    assert layout.offset[0] == 0 and layout.entries == sum(rows) and len(rows) == layout.levels
    assert layout.resolution[0] == layout.base_resolution
    assert layout.resolution[-1] - (layout.finest_resolution if layout.levels > 1 else layout.base_resolution) in (0, 1)
    assert list(layout.resolution) == sorted(layout.resolution)
    for n, scale, resolution in zip(rows, layout.scale, layout.resolution, strict=True):
        assert n % 8 == 0 and n <= 1 << layout.log2_table and scale <= resolution - 1 + 1e-3 * resolution
        assert resolution**3 <= n < resolution**3 + 8 or n == 1 << layout.log2_table, "dense, or hashed by a power of 2"


@drawn
@given(layouts(), st.integers(0, 70), st.integers(0, 3))
def test_hashgrid_agrees_with_its_twin(layout, n, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(layout.entries, layout.features, generator=generator)
    x = torch.rand(n, 3, generator=generator) * 1.2 - 0.1  # some outside of the cube
    got, want = hashgrid_encode(x, table, layout), reference.hashgrid_encode(x, table, layout)
    assert got.shape == (n, layout.width) and (not n or relative_error(got, want) < 1e-4)


@drawn
@given(
    rays=st.integers(0, 40),
    resolution=st.sampled_from((4, 8, 12, 16)),
    step=st.floats(2**-7, 4.0, width=32),
    bound=st.floats(0.125, 8.0, width=32),
    budget=st.integers(1, 3000),
    share=st.floats(0.0, 1.0),
    seed=st.integers(-1, 5),
)
def test_march_is_its_twin(rays, resolution, step, bound, budget, share, seed):
    generator = torch.Generator().manual_seed(seed + 1)
    origins = torch.randn(rays, 3, generator=generator) * bound
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=1)
    bits = reference.pack_bits(torch.rand(resolution**3, generator=generator) < share)
    call = dict(resolution=resolution, bound=bound, near=0.05, step=step, budget=budget, seed=seed, stream=3)
    got, want = march(origins, directions, bits, **call), reference.march(origins, directions, bits, **call)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
