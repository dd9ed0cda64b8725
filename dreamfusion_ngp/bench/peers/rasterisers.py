"""Others' differentiable rasterisers on the mesh of bench.mesh_cases."""

from __future__ import annotations

import numpy as np

from ..cases import Peer
from ..mesh_cases import GRAY, Ball


def silhouette_edges(faces: np.ndarray, front: np.ndarray, vertices: int) -> np.ndarray:
    """(F, 3) bool: edges k, k + 1 of front faces whose other face is a back one."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1), -1).reshape(-1, 2)
    key = ends[:, 0].astype(np.int64) * vertices + ends[:, 1]
    _, inverse = np.unique(key, return_inverse=True)
    fronts = np.bincount(inverse, np.repeat(front, 3).astype(float))
    return (fronts[inverse] == 1).reshape(-1, 3) & front[:, None]


def deodr_raster(ball: Ball) -> Peer:
    """DEODR's Scene2D (de La Gorce), float64, one thread. It is given pixels, depths and the edges of the silhouette;
    projecting, finding these and scattering back to space are not timed. Its colours are not perspective."""
    from deodr import Scene2D

    size, clip = ball.resolution, ball.position[0].numpy()
    x, y = clip[:, 0] / clip[:, 3], clip[:, 1] / clip[:, 3]
    ij = np.stack([(x + 1) * size / 2 - 0.5, (1 - y) * size / 2 - 0.5], 1)
    faces = ball.faces.numpy().astype(np.uint32)
    a, b, c = (ij[faces[:, k]] for k in range(3))
    front = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) < 0
    none = np.zeros(len(faces), dtype=bool)
    scene = Scene2D(
        faces=faces,
        faces_uv=faces,
        ij=ij,
        depths=clip[:, 3].copy(),
        textured=none,
        uv=np.zeros((len(clip), 2)),
        shade=np.zeros(len(clip)),
        colors=ball.colors[0].numpy().copy(),
        shaded=none,
        edgeflags=silhouette_edges(faces, front, len(clip)),
        height=size,
        width=size,
        nb_colors=3,
        texture=np.zeros((2, 2, 3)),
        background_image=np.full((size, size, 3), GRAY),
        clockwise=False,
        backface_culling=True,
        strict_edge=True,
    )
    weights = np.ascontiguousarray(ball.weights[0].numpy())

    def step() -> None:
        scene.clear_gradients()
        scene.render(sigma=1)
        scene.render_backward(weights)

    return Peer(step, note="float64, one thread")
