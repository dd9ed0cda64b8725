"""Other differentiable rasterisers on the mesh of bench.mesh_cases."""

from __future__ import annotations

import math

import numpy as np

from ..cases import LeftOut, Peer
from ..mesh_cases import FILLED, GRAY, Ball

SAMPLES = 4  # of Mitsuba in a pixel
FIRST_LLVM = 17  # first version with maximum of floats on x86; earlier ones end the process


def silhouette_edges(faces: np.ndarray, front: np.ndarray, vertices: int) -> np.ndarray:
    """(F, 3) bool: edges k, k + 1 of front faces whose other face is a back one."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1), -1).reshape(-1, 2)
    key = ends[:, 0].astype(np.int64) * vertices + ends[:, 1]
    _, inverse = np.unique(key, return_inverse=True)
    fronts = np.bincount(inverse, np.repeat(front, 3).astype(float))
    return (fronts[inverse] == 1).reshape(-1, 3) & front[:, None]


def deodr_raster(ball: Ball) -> Peer:
    """DEODR's Scene2D (de La Gorce), float64, one thread. Its inputs are pixels, depths and silhouette edges;
    projection, edge search and scattering back to space are not timed. It interpolates colours without perspective."""
    from deodr import Scene2D  # pyright: ignore[reportMissingImports]

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


def glowing(ball: Ball):
    """The ball in Mitsuba: it emits its colours and reflects nothing."""
    import mitsuba as mi  # pyright: ignore[reportMissingImports]

    clip, focal = ball.position[0].numpy(), FILLED * 1.45
    x = np.stack([clip[:, 0] / (2 * focal), clip[:, 1] / (2 * focal), 2.6 - clip[:, 3]], 1)
    light = {"type": "area", "radiance": {"type": "mesh_attribute", "name": "vertex_color"}}
    props = mi.Properties()
    props["emitter"] = mi.load_dict(light)
    props["bsdf"] = mi.load_dict({"type": "diffuse", "reflectance": {"type": "rgb", "value": 0.0}})
    mesh = mi.Mesh("ball", len(x), len(ball.faces), props=props)
    mesh.add_attribute("vertex_color", 3, ball.colors[0].float().numpy().ravel())
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = x.astype(np.float32).ravel()
    parameters["faces"] = ball.faces.numpy().astype(np.uint32).ravel()
    parameters.update()
    return mesh


def mitsuba_scene(ball: Ball):
    """The ball with the camera and the background of bench.mesh_cases; direct light only, silhouettes sampled."""
    import mitsuba as mi  # pyright: ignore[reportMissingImports]

    side, fov = ball.resolution, 2 * math.degrees(math.atan(0.5 / (FILLED * 1.45)))
    film = {"type": "hdrfilm", "width": side, "height": side, "rfilter": {"type": "box"}, "pixel_format": "rgb"}
    place = mi.ScalarTransform4f().look_at(origin=[0, 0, 2.6], target=[0, 0, 0], up=[0, 1, 0])
    camera = {"type": "perspective", "fov": fov, "fov_axis": "x", "near_clip": 0.1, "far_clip": 10.0, "film": film}
    return mi.load_dict(
        {
            "type": "scene",
            "ball": glowing(ball),
            "integrator": {"type": "direct_projective", "sppi": 0},
            "background": {"type": "constant", "radiance": {"type": "rgb", "value": GRAY}},
            "sensor": {**camera, "to_world": place, "sampler": {"type": "independent"}},
        }
    )


def mitsuba_raster(ball: Ball) -> Peer:
    """Mitsuba 3's projective sampling (Zhang et al. 2023), float32, all threads: it traces rays and estimates the same
    two gradients, with noise, which its note states. The mesh is passed again in every step, as to ours."""
    import drjit as dr

    if not dr.has_backend(dr.JitBackend.LLVM) or dr.detail.llvm_version()[0] < FIRST_LLVM:
        raise LeftOut(f"no LLVM library from {FIRST_LLVM} on was found (DRJIT_LIBLLVM_PATH names one)")
    import mitsuba as mi  # pyright: ignore[reportMissingImports]

    mi.set_variant("llvm_ad_rgb")
    mi.set_log_level(mi.LogLevel.Error)
    scene, names = mitsuba_scene(ball), ("ball.vertex_positions", "ball.vertex_color")
    parameters, weights = mi.traverse(scene), mi.TensorXf(ball.weights[0].float().numpy())

    def step(seed: int = 0) -> list[np.ndarray]:
        for name in names:
            dr.enable_grad(parameters[name])
            dr.set_grad(parameters[name], 0)
        parameters.update()
        picture = mi.render(scene, parameters, spp=SAMPLES, spp_grad=SAMPLES, seed=seed, seed_grad=seed + 1)
        dr.backward(dr.sum(picture * weights, axis=None))
        return [dr.grad(parameters[name]).numpy() for name in names]

    gradients = np.stack([step(2 * seed)[0] for seed in range(1, 5)])
    noise = gradients.std(0).mean() / np.abs(gradients.mean(0)).mean()
    return Peer(
        step, note=f"float32, all threads, {SAMPLES} samples a pixel, noise {noise:.0%} of a position's gradient"
    )
