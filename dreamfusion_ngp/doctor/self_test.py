"""Verdicts on the kernels of the field: on the CPU against the torch reference, on a GPU against the CPU."""

from __future__ import annotations

from ..base.native import REBUILD, native
from .installation import probe_torch
from .verdict import FAIL, OK, SKIP, Verdict

TOLERANCE = 1e-4  # relative error that the self-tests allow float32 kernels against the torch reference


def cpu_self_test(gpus: list[dict]) -> Verdict:
    if "error" in probe_torch():
        return Verdict(SKIP, "needs a working torch")
    native()
    from ..ops import field, reference

    errors = compare(kernel_results(field.field, "cpu"), kernel_results(reference.field, "cpu"))
    return self_test_verdict("the torch reference", errors)


def gpu_self_test(gpus: list[dict]) -> Verdict:
    if "error" in probe_torch():
        return Verdict(SKIP, "needs a working torch")
    if not native().build_info()["cuda"]:
        return Verdict(SKIP, "no CUDA code")
    if not probe_torch()["sees_gpu"]:
        return Verdict(SKIP, "torch sees no GPU")
    from ..ops import field

    errors = {}
    for levels in (6, 8):  # 8 levels have special kernels
        relative = compare(*(kernel_results(field.field, device, levels) for device in ("cuda", "cpu")))
        errors |= {f"{name}, {levels} levels": error for name, error in relative.items()}
    return self_test_verdict("the CPU", errors)


def kernel_results(field, device: str, levels: int = 6) -> dict:
    """The field (hash grid, network, normals) forward and backward on fixed inputs -> name -> CPU tensor."""
    import torch

    from ..ops.hashgrid import GridLayout

    layout = GridLayout(levels=levels, features=2, log2_table=10, base_resolution=4, finest_resolution=64)
    draw = torch.Generator().manual_seed(0)
    shapes = {"table": (layout.entries, 2), "W1": (16, 2 * levels), "b1": (16,), "W2": (4, 16), "b2": (4,)}
    weights = {name: (0.5 * torch.randn(shape, generator=draw)).to(device) for name, shape in shapes.items()}
    x = (2 * torch.rand(509, 3, generator=draw) - 1).to(device)
    outputs = [torch.randn(shape, generator=draw).to(device) for shape in ((509,), (509, 3), (509, 3))]
    for weight in weights.values():
        weight.requires_grad_()
    h, rgb, grad_h = field(
        x, *weights.values(), layout, bound=1.0, level_weight=[1.0] * layout.levels, blob=("gaussian", 5.0, 0.2)
    )
    torch.autograd.backward([h, rgb, grad_h], outputs)
    gradients = {f"d{name}": weight.grad for name, weight in weights.items()}
    return {name: t.detach().cpu() for name, t in {"h": h, "rgb": rgb, "grad_h": grad_h, **gradients}.items()}


def compare(ours: dict, theirs: dict) -> dict:
    """Name -> relative L2 error."""
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours}


def self_test_verdict(peer: str, errors: dict) -> Verdict:
    worst = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else float("inf"))
    detail = f"field, forward and backward, against {peer}: largest relative error {errors[worst]:.1e} ({worst})"
    if errors[worst] <= TOLERANCE:
        return Verdict(OK, detail)
    return Verdict(FAIL, detail, f"rebuild: {REBUILD}; if it stays, report it with the output of doctor --json")
