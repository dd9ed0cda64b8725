# %% [markdown]
# One step of score distillation, taken apart. Run it cell by cell in an editor that knows `# %%`, or as a script:
#
#     python examples/walkthrough.py
#
# It leaves `walkthrough.png`: what the field looks like, what the guidance asks for, and the field some steps later.

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreamfusion_ngp import load_guidance, preset
from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.render.volume import flat_background, render
from dreamfusion_ngp.scene.views import sample_views

STEPS, SIZE = 20, 32  # a sketch; `preset("fast")` makes 1200 steps at 64

# %% A run is described by data, and begins as a ball of fog
config = replace(preset("fast"), prompt="a red mug", steps=STEPS)
config = replace(config, render=replace(config.render, resolution=SIZE))
stage = VolumeStage.start(config, "cpu")

# %% What a step looks at: cameras, lights and shading modes, drawn from one seeded generator
views = sample_views(config.camera, config.light, config.views, 0.0, generator(config.seed, 0, Stream.VIEWS))
degrees = [round(float(azimuth) * 180 / np.pi) for azimuth in views.cameras.azimuth]
print("azimuths of the cameras", degrees)


# %% Rays, samples in the occupied cells, field, shading, compositing
def pictures() -> torch.Tensor:
    """(B, SIZE, SIZE, 3) in [0, 1], over white."""
    white = flat_background(torch.ones(len(views), 3))
    with torch.no_grad():
        return render(stage.field, stage.occupancy, views.cameras, views.shading, white, config.render).rgb


stage.occupancy.update(stage.field.density, config.seed, 0, full=True)
before = pictures()

# %% The diffusion model sees the pictures with noise on them, and says what it would change: a gradient on the pixels
guidance = load_guidance(config, "cpu")
output = guidance(before, views, part=0, progress=0.0)
asked = (before - output.gradient / output.gradient.abs().amax((1, 2, 3), keepdim=True) / 2).clamp(0, 1)
print("gradient", tuple(output.gradient.shape), {name: round(float(value), 3) for name, value in output.log.items()})

# %% The loop does this again and again, and pulls the gradient through the renderer to the field's parameters
train(stage, guidance, lambda record: print(f"step {record.step}: {float(record.terms['sds']):.2e}"))

# %% Rows: before, asked for, after
rows = [torch.cat(list(row), 1) for row in (before, asked, pictures())]
Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).byte().numpy()).resize((8 * 4 * SIZE, 8 * 3 * SIZE), 0).save(
    path := Path("walkthrough.png")
)
print(path)
