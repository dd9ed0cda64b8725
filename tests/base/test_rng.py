"""Counter-based random numbers: the published vectors of both generators, frozen values, what runs rely on."""

import numpy as np
import pytest
import torch

from dreamfusion_ngp.base.native import native
from dreamfusion_ngp.base.rng import Stream, generator, integers, kernel_stream, normal, uniform
from dreamfusion_ngp.ops import reference

# Random123's known-answer tests for philox4x32-10: counter, key, result (32-bit words).
VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, want", VECTORS)
def test_kernel_generator_gives_the_published_numbers(counter, key, want):
    low, high = (counter[i] | counter[i + 1] << 32 for i in (0, 2))
    assert native().philox(key=key[0] | key[1] << 32, counter_low=low, counter_high=high) == want


@pytest.mark.parametrize("counter, key, want", VECTORS)
def test_reference_generator_gives_the_published_numbers(counter, key, want):
    low = torch.tensor([counter[0] | counter[1] << 32], dtype=torch.uint64).view(torch.int64)
    words = reference.philox(key[0] | key[1] << 32, low, counter[2] | counter[3] << 32)
    assert [int(w) for w in words] == want


def test_host_generator_gives_the_published_numbers():
    """Random123's vector for philox4x64-10 at counter 0 and key 0; numpy counts up before it draws."""
    bits = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    want = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert bits.random_raw(4).tolist() == want


def test_streams_are_frozen():
    """Changing an id changes every run made with a seed."""
    first = dict(VIEWS=0, BACKGROUND=1, GUIDANCE=2, MARCH=3, OCCUPANCY=4, INIT=5, PRIOR=6, EVALUATION=7)
    assert {s.name: s.value for s in Stream} == first | dict(
        RULE=8, RULE_NOISE=9, SHARED_NOISE=10, PAINT=11, EIKONAL=12, TEST=15
    )


def test_values_are_frozen():
    """A run must be the same run after an upgrade of numpy or of this package."""
    assert uniform(3, 1, 2, Stream.TEST).tolist() == [0.6264759302139282, 0.31379520893096924, 0.30223286151885986]
    double = normal(3, 1, 2, Stream.TEST, dtype=np.float64)
    np.testing.assert_allclose(double, [-0.5475936000483423, -0.8460349366949328, -1.0551118085127436], rtol=1e-12)
    assert integers(4, 1000, 1, 2, Stream.TEST).tolist() == [626, 313, 302, 511]


def test_every_part_of_the_key_matters():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (2**62, 0, 0), (0, 2**40, 0)]
    draws = [uniform(4, *key) for key in keys]
    assert len({tuple(d.tolist()) for d in draws}) == len(draws)


def test_no_state_and_prefixes_agree():
    assert np.array_equal(uniform((5, 2), 3, 4, Stream.VIEWS), uniform((5, 2), 3, 4, Stream.VIEWS))
    assert np.array_equal(uniform(10, 3, 4, Stream.VIEWS)[:4], uniform(4, 3, 4, Stream.VIEWS))
    assert np.array_equal(uniform((5, 2), 3, 4, 0).reshape(-1), uniform(10, 3, 4, 0))
    assert generator(3, 4, 0).random() == generator(3, 4, 0).random()


def test_float32_is_float64_rounded_down():
    single, double = (uniform(10000, 5, 6, 7, dtype=t) for t in (np.float32, np.float64))
    assert single.dtype == np.float32 and double.dtype == np.float64
    assert (single <= double).all() and (double - single < 2**-24).all()


def test_uniform_is_uniform():
    u = uniform((100, 1000), 8, 0, Stream.TEST)
    assert u.shape == (100, 1000) and u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi squared, 19 degrees of freedom
    assert abs(np.corrcoef(u.reshape(-1)[:-1], u.reshape(-1)[1:])[0, 1]) < 0.01


def test_normal_is_normal():
    z = normal(100000, 9, 0, Stream.TEST)
    assert z.dtype == np.float32 and np.isfinite(z).all()
    assert abs(z.mean()) < 0.015 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.15
    assert normal((2, 0, 3), 9, 0, 0).shape == (2, 0, 3)


def test_integers_cover_their_range():
    i = integers((1000, 7), 5, 10, 0, Stream.TEST)
    assert i.dtype == np.int64 and i.shape == (1000, 7) and set(i.reshape(-1).tolist()) == {0, 1, 2, 3, 4}
    assert (integers(50, 1, 10, 0, 0) == 0).all() and integers(1000, 1 << 53, 0, 0, 0).max() > 1 << 52


def test_kernel_streams_do_not_collide():
    assert len({kernel_stream(step, stream) for step in range(100) for stream in Stream}) == 100 * len(Stream)
    assert kernel_stream(2**48 - 1, Stream.TEST) < 2**63


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((-1, 0, 0), "seed"),
        ((2**63, 0, 0), "seed"),
        ((0, -1, 0), "step"),
        ((0, 2**48, 0), "step"),
        ((0, 0, 16), "stream"),
    ],
)
def test_errors_name_the_argument(arguments, name):
    for draw in (uniform, normal):
        with pytest.raises(ValueError, match=f"rng: {name} "):
            draw(3, *arguments)
    with pytest.raises(ValueError, match="rng: "):
        kernel_stream(-1, 0)
    with pytest.raises(ValueError, match="rng: high"):
        integers(3, 0, 0, 0, 0)
    with pytest.raises(TypeError, match="rng: dtype"):
        uniform(3, 0, 0, 0, dtype=np.float16)
