"""What comes with a distillation rule: the noise levels of its paper, whatever the preset had."""

import numpy as np
import pytest

from dreamfusion_ngp.config.guidance import NoiseConfig
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.rules import with_rule
from dreamfusion_ngp.guidance.schedule import sample_timesteps, t_max, t_min

# rule -> fraction of the run -> lowest and highest t
FALLS = {
    "csd": {0.0: (0.02, 0.98), 0.25: (0.02, 0.74), 0.5: (0.02, 0.5), 1.0: (0.02, 0.5)},
    "x0": {0.0: (0.98, 0.98), 0.4: (0.5, 0.74), 0.8: (0.02, 0.5), 1.0: (0.02, 0.5)},
    "asd": {0.0: (0.5, 0.98), 0.5: (0.26, 0.74), 1.0: (0.02, 0.5)},
    "ism": {0.0: (0.02, 0.98), 0.3: (0.02, 0.5), 1.0: (0.02, 0.5)},
    "vsd": {0.0: (0.02, 0.98), 0.2: (0.02, 0.74), 0.4: (0.02, 0.5), 1.0: (0.02, 0.5)},
    "rfds": {0.0: (0.019, 0.7), 1.0: (0.019, 0.7)},
    "rfds_rev": {0.0: (0.019, 0.7), 1.0: (0.019, 0.7)},
}


@pytest.mark.parametrize("name", ["fast", "mvdream", "sd21"])
@pytest.mark.parametrize("rule", FALLS)
def test_noise_falls_as_in_the_paper_over_any_preset(rule, name):
    guidance = with_rule(preset(name, toys=False), rule, toys=False).guidance
    found = {at: (t_min(guidance, at), t_max(guidance, at)) for at in FALLS[rule]}
    np.testing.assert_allclose(list(found.values()), list(FALLS[rule].values()), atol=1e-12)
    assert guidance.t_window == 1.0


@pytest.mark.parametrize("name", ["fast", "sd21"])
def test_the_one_t_of_sdi_falls_steadily(name):
    guidance = with_rule(preset(name, toys=False), "sdi", toys=False).guidance
    for at, wanted in ((0.0, 980), (0.5, 615), (1.0, 250)):
        draws = np.random.default_rng(0).random((2, 4))
        assert list(sample_timesteps(guidance, draws, at, 1000)) == [wanted] * 4


@pytest.mark.parametrize("rule", ["rfds", "rfds_rev"])
def test_both_rules_of_flows_have_the_noise_levels_of_their_preset(rule):
    """One table of the paper's code, whose first entries are the noisiest."""
    plain = preset("sd3", toys=False)
    ruled = with_rule(preset("fast"), rule, toys=False)
    for key in NoiseConfig.__dataclass_fields__:
        assert getattr(ruled.guidance, key) == getattr(plain.guidance, key), key
    assert (ruled.guidance.scale, ruled.guidance.weighting) == (plain.guidance.scale, plain.guidance.weighting)
