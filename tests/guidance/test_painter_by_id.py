"""Models of depth by their ids: fetched from a hub, and from then on without one."""

import subprocess
import sys

from support.fake_hub import FakeHub

CONTROL, CHANNEL = "someone/a-controlnet", "someone/depth-to-image"
LOAD = """
import sys
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.painter import load_painter
for control in sys.argv[2:]:
    guidance = GuidanceConfig(model=sys.argv[1], control=control)
    painter = load_painter(RunConfig(prompt="a red mug", guidance=guidance), "cpu")
    print(painter.denoiser.network.config.in_channels, *painter.denoiser.shape)
"""


def test_either_kind_is_loaded_by_id_and_then_offline(machine, latent_folders, depth_folders):
    """A ControlNet, whose files are at the root of its repository, and a pipeline with a fifth channel."""
    with FakeHub({CONTROL: depth_folders["sd"], CHANNEL: depth_folders["channel"]}) as hub:
        for way in ({"HF_ENDPOINT": hub.endpoint}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run(
                [sys.executable, "-P", "-c", LOAD, str(latent_folders["sd"]), CONTROL, CHANNEL],
                capture_output=True,
                text=True,
                env={**machine.env, **way},
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.split() == ["4", "4", "8", "8", "5", "4", "8", "8"]
    assert not any("depth_estimator" in path for _, path in hub.requests)
