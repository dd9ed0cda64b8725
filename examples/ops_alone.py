"""The ops without the rest: a hash grid and a small network learn a shape's signed distance, on the CPU or a GPU.

    python examples/ops_alone.py [--steps 300] [--device cuda]

The encoding is differentiable in table and points: the slope of what was learned is one torch.autograd.grad away, and
should be 1, as a distance's is.
"""

import argparse

import torch

from dreamfusion_ngp import GridLayout, hashgrid_encode


def torus(x: torch.Tensor) -> torch.Tensor:
    """(N,) signed distance of points (N, 3) from a torus around the y axis, radii 0.3 and 0.12."""
    ring = torch.linalg.vector_norm(x[:, [0, 2]], dim=1) - 0.3
    return torch.hypot(ring, x[:, 1]) - 0.12


class SignedDistance(torch.nn.Module):
    """Points (N, 3) in [-0.5, 0.5]^3 -> distances (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = GridLayout(levels=8, log2_table=14, base_resolution=8, finest_resolution=128)
        self.table = torch.nn.Parameter(torch.empty(self.layout.entries, self.layout.features).uniform_(-1e-4, 1e-4))
        hidden, out = torch.nn.Linear(self.layout.width, 32), torch.nn.Linear(32, 1)
        self.network = torch.nn.Sequential(hidden, torch.nn.ReLU(), out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(hashgrid_encode(x + 0.5, self.table, self.layout)).squeeze(1)


def fit(steps: int, device: str, points: int = 4096) -> tuple[float, float]:
    """Train; -> (mean error of the distance, mean length of its gradient) at new points."""
    torch.manual_seed(0)
    model = SignedDistance().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        x = torch.rand(points, 3, device=device) - 0.5
        loss = torch.nn.functional.smooth_l1_loss(model(x), torus(x), beta=0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = (torch.rand(points, 3, device=device) - 0.5).requires_grad_()
    distance = model(x)
    (slope,) = torch.autograd.grad(distance.sum(), x)
    return (distance - torus(x)).abs().mean().item(), slope.norm(dim=1).mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    error, slope = fit(arguments.steps, arguments.device)
    print(f"mean error {error:.4f} of a cube of edge 1, mean slope {slope:.2f}")
