"""Records of runs and of groups of runs as the file of results has them."""


def run_of(prompt, seed, iou, **more):
    return {
        "prompt": prompt,
        "seed": seed,
        "seconds": 100.0,
        "failed": "",
        "volumetric_iou": iou,
        "silhouette_iou": 0.9,
        "chamfer": 0.02,
        "color_error": 0.1,
        "extra_faces": None,
        "r_precision_color": None,
        "r_precision_geo": None,
        "r_precision_albedo": None,
        **more,
    }


def group_with(arms: dict, **more) -> dict:
    return {
        "command": "python benches/ablation.py",
        "date": "2026-11-22",
        "shortened": {},
        "commits": ["abc1234"],
        "machines": ["2 cores, kernels plain, torch 2.13.0"],
        "threads": 2,
        "processes": 1,
        "planned": sum(map(len, arms.values())),
        "judge": None,
        "truth": None,
        "prior": "a" * 12,
        "arms": [{"name": name, "why": "because", "runs": runs} for name, runs in arms.items()],
        **more,
    }
