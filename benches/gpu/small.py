"""Every kernel once at small, odd sizes, compared with the same ops in float64 on the CPU: short enough for
compute-sanitizer. python benches/gpu/small.py [--device cuda]; exit status 1 if something differs."""

from __future__ import annotations

import argparse
import sys

import torch

from dreamfusion_ngp.ops.adam import adam_step
from dreamfusion_ngp.ops.composite import composite
from dreamfusion_ngp.ops.field import field, field_density
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.ops.occupancy import cell_points, occupancy_update
from dreamfusion_ngp.ops.shade import shade

LAYOUTS = {  # the first two take the kernels for the usual shapes, the others the general ones
    "16 x 2": GridLayout(log2_table=10, finest_resolution=256),
    "8 x 2 smooth": GridLayout(levels=8, log2_table=10, finest_resolution=128, interpolation="smoothstep"),
    "5 x 4": GridLayout(levels=5, features=4, log2_table=9, base_resolution=4, finest_resolution=64),
    "3 x 1 smooth": GridLayout(
        levels=3, features=1, log2_table=8, base_resolution=4, finest_resolution=20, interpolation="smoothstep"
    ),
}
MARCH = dict(resolution=16, bound=1.0, near=0.1, step=0.03, seed=3, stream=5)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).double()


def differentiate(outputs, inputs) -> list[torch.Tensor]:
    """outputs, and the gradients of a fixed random sum of them."""
    incoming = [randn(*o.shape, seed=70 + i).to(o) for i, o in enumerate(outputs)]
    return [*outputs, *torch.autograd.grad(outputs, inputs, incoming, create_graph=False)]


def hashgrid_case(to, layout, n):
    x, table = (
        to(torch.rand(n, 3, generator=torch.Generator().manual_seed(1)).double()),
        to(randn(layout.entries, layout.features, seed=2)),
    )
    x.requires_grad_(), table.requires_grad_()
    y = hashgrid_encode(x, table, layout)
    (dx,) = torch.autograd.grad(y, x, randn(*y.shape, seed=3).to(y), create_graph=True)
    return [
        y,
        dx,
        *torch.autograd.grad(dx, (x, table), randn(*dx.shape, seed=4).to(dx)),
        *torch.autograd.grad(y.sum(), table),
    ]


def field_case(to, layout, n):
    hidden = 33
    weights = [
        randn(layout.entries, layout.features, seed=5),
        randn(hidden, layout.width, seed=6) / 4,
        randn(hidden, seed=7),
        randn(4, hidden, seed=8) / 4,
        randn(4, seed=9),
    ]
    weights = [to(w).requires_grad_() for w in weights]
    settings = dict(bound=1.0, level_weight=[1.0] * layout.levels, blob=("gaussian", 2.0, 0.3))
    x, count = to(randn(n, 3, seed=10) / 3), to(torch.tensor([max(0, n - 3)]))
    outputs = field(x, *weights, layout, **settings, count=count)
    half = field(x, *weights, layout, **settings, shadow=weights[0].detach().half())
    # Not the first points: with 8 levels one of 300 has a hidden unit at 5e-6, within rounding of its kink.
    cores = field(x[n // 3 :], *weights, layout, **settings, tensor_cores=True)
    return [
        *differentiate(outputs, weights),
        *differentiate(half, weights),
        *differentiate(cores, weights),
        field_density(x, *weights, layout, **settings),
    ]


def ray_case(to, rays, budget):
    """March, shade and composite, as a step has them."""
    origins = randn(rays, 3, seed=11)
    origins = to((origins / origins.norm(dim=-1, keepdim=True) * 2.5).float())
    directions = -origins / origins.norm(dim=-1, keepdim=True)
    bits = to(torch.randint(0, 256, (16**3 // 8,), dtype=torch.uint8, generator=torch.Generator().manual_seed(12)))
    s = march(origins, directions, bits, budget=budget, **MARCH)
    inputs = [to(randn(*shape, seed=13 + i)) for i, shape in enumerate(((budget,), (budget, 3), (budget, 3)))]
    inputs = [v.requires_grad_() for v in inputs]
    view = to(torch.tensor([[1.0, 2.0, 1.5, 0.3, 0.7, 0.0]]))
    like = inputs[0].dtype
    shaded = shade(*inputs, s.x.to(like), s.ray_id, view, max(1, rays), density="softplus", count=s.count)
    pixels = composite(*shaded, s.t.to(like), s.offsets, directions.to(like), MARCH["step"], count=s.count)
    return [s.t, s.ray_id, s.x, s.offsets, s.info, *differentiate(pixels, inputs)]


def update_case(to, n):
    grid, bits = to(randn(16**3, seed=20).abs().float()), to(torch.zeros(16**3 // 8, dtype=torch.uint8))
    cells = to(torch.randint(-2, 16**3 + 2, (n,), generator=torch.Generator().manual_seed(21)))
    sigma = to(randn(n, seed=22).abs().float())
    occupancy_update(grid, bits, cells, sigma, decay=0.9, threshold=0.5)
    param, grad, first, second = (to(randn(n, seed=23 + i)) for i in range(4))
    second.abs_()
    adam_step(
        param,
        grad,
        first,
        second,
        to(torch.zeros(1, dtype=torch.int64)),
        lr=0.1,
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        step=3,
    )
    inside = cells.clamp(0, 16**3 - 1)
    return [grid, bits, cell_points(inside, 16, 1.0, 1, 2), param, grad, first, second]


def cases() -> dict:
    found = {}
    for name, layout in LAYOUTS.items():
        for n in (1, 67, 300):
            found[f"hashgrid {name}, {n} points"] = lambda to, layout=layout, n=n: hashgrid_case(to, layout, n)
            found[f"field {name}, {n} points"] = lambda to, layout=layout, n=n: field_case(to, layout, n)
    for rays, budget in ((0, 5), (1, 40), (130, 900), (130, 9000)):
        found[f"{rays} rays, budget {budget}"] = lambda to, r=rays, b=budget: ray_case(to, r, b)
    for n in (0, 1, 999):
        found[f"updates of {n}"] = lambda to, n=n: update_case(to, n)
    return found


def worst(got, want) -> float:
    """Largest difference over the largest value, over all tensors of a case."""
    pairs = ((g.detach().cpu().double(), w.detach().double()) for g, w in zip(got, want, strict=True))
    errors = (float((g - w).abs().max() / w.abs().max().clamp(min=1e-12)) for g, w in pairs if w.numel())
    return max(errors, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    failed = 0
    for name, case in cases().items():
        # float64 where an op has it on the CPU; march, occupancy and their kin take what they are given
        want = case(lambda t: t)
        got = case(lambda t: t.float().to(device) if t.dtype == torch.float64 else t.to(device))
        error = worst(got, want)
        bad = not error < 2e-3
        failed += bad
        print(f"{'DIFFERS' if bad else 'ok':8s}{name:30s}{error:.1e}", flush=True)
    print(f"{failed} cases differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
