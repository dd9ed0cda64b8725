"""Networks, points and comparisons that the tests of the field share."""

import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.field import field
from dreamfusion_ngp.ops.hashgrid import GridLayout

SMALL = dict(levels=4, log2_table=9, base_resolution=4, finest_resolution=40)  # 1 dense level of 4^3, 3 hashed
TINY = GridLayout(levels=2, log2_table=4, base_resolution=2, finest_resolution=5)  # 24 rows, for gradcheck
NAMES = ("h", "rgb_raw", "grad_h", "table", "W1", "b1", "W2", "b2")


def relative_error(got, want):
    """Largest error, relative to the largest magnitude; 0 for empty tensors."""
    if want.numel() == 0:
        assert got.shape == want.shape
        return 0.0
    assert torch.isfinite(got).all()
    return ((got.cpu().double() - want).abs().max() / want.abs().max().clamp_min(1e-30)).item()


def network(layout, hidden, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(layout.entries, layout.features), (hidden, layout.width), (hidden,), (4, hidden), (4,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [(t * scale).float().double() for t, scale in zip(tensors, (0.5, 0.5, 0.2, 0.5, 0.5), strict=False)]


def points(layout, n, bound=1.0, seed=0, margin=0.02):
    """World points inside the cube that keep a distance from cell faces, where the linear grad_h jumps."""
    u = torch.rand(max(50 * n, 50), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for scale in layout.scale:
        f = (u * scale + 0.5) % 1
        u = u[((f > margin) & (f < 1 - margin)).all(1)]
    assert len(u) >= n
    return ((2 * u[:n] - 1) * bound).float().double()


def cotangents(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((n,), (n, 3), (n, 3))]


def run(op, x, tensors, layout, grads, device="cpu", dtype=torch.float64, **settings):
    """The three outputs, then the gradients of the table and of the four weights."""
    tensors = [t.detach().to(device, dtype).requires_grad_() for t in tensors]
    settings = {"bound": 1.0, "level_weight": [1.0] * layout.levels, **settings}
    outputs = op(x.to(device, dtype), *tensors, layout, **settings)
    gradients = torch.autograd.grad(outputs, tensors, [g.to(device, dtype) for g in grads])
    return [o.detach() for o in outputs] + list(gradients)


def check(device, layout, hidden, n, tolerance=2e-5, x=None, **settings):
    tensors, grads = network(layout, hidden), cotangents(n)
    x = points(layout, n, settings.get("bound", 1.0)) if x is None else x
    want = run(reference.field, x, tensors, layout, grads, **settings)
    for dtype, limit in ((torch.float32, tolerance), (torch.float64, 1e-12)):
        if device == "cuda" and dtype == torch.float64:
            continue
        for name, g, w in zip(
            NAMES, run(field, x, tensors, layout, grads, device, dtype, **settings), want, strict=True
        ):
            assert relative_error(g, w) < limit or not (w.any() or g.any()), (name, dtype)
