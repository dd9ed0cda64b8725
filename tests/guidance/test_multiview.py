"""What makes a UNet one of several views: the camera that it is told, and attention over all views of an object."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from support.tiny_latent import tiny_unet

from dreamfusion_ngp.guidance.multiview import JointAttention, attend_jointly, camera_numbers, each_alone
from dreamfusion_ngp.scene.cameras import orbit

# MVDream's own helper at azimuth 90, elevation 15: a camera on +x of a world whose z is up.
FIXTURE = [[0, -0.2588, 0.9659, 0.9659], [1, 0, 0, 0], [0, 0.9659, 0.2588, 0.2588], [0, 0, 0, 1]]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    found = tiny_unet("sd", class_embed_type="projection", projection_class_embeddings_input_dim=16)
    attend_jointly(found, AttnProcessor2_0())
    return found.eval().requires_grad_(False)


def asked(n: int, unet):
    generator = torch.Generator().manual_seed(1)
    width = unet.config.cross_attention_dim
    z = torch.randn(n, unet.config.in_channels, 8, 8, generator=generator)
    return z, torch.full((n,), 400), torch.randn(n // 4, 5, width, generator=generator).repeat_interleave(4, 0)


def cameras(n: int):
    return camera_numbers(orbit(np.arange(n) * 90.0 + 10, 15.0, 1.3, 1.0))


def test_a_camera_is_mvdreams_matrix_row_by_row():
    """Our azimuth 0, before the object's front, is on +x there; distance and lens say nothing."""
    for distance in (0.7, 2.0):
        found = camera_numbers(orbit([0.0, 90.0], 15.0, distance, 1.2))
        assert found.shape == (2, 16) and found.dtype == torch.float32
        np.testing.assert_allclose(found[0].view(4, 4), FIXTURE, atol=1e-4)
    turned = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ torch.tensor(FIXTURE)[:3]
    np.testing.assert_allclose(found[1].view(4, 4)[:3], turned, atol=1e-4)


def test_views_of_an_object_are_seen_together_and_others_are_not(unet):
    """Views that change places inside their object change places in what is answered; another object's answers stay
    as they were, to the bit."""
    z, t, text = asked(8, unet)
    told = cameras(8)
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    said, moved = (unet(z[o], t, text[o], told[o]).sample for o in (torch.arange(8), order))
    torch.testing.assert_close(moved, said[order], atol=2e-6, rtol=0)
    z[5] += 1
    other = unet(z, t, text, told).sample
    assert torch.equal(other[:4], said[:4])
    assert all((other[i] - said[i]).abs().max() > 1e-4 for i in range(4, 8)), "each hears of the view that changed"


def test_the_camera_is_heard_and_can_be_left_out(unet):
    z, t, text = asked(4, unet)
    said, turned = (unet(z, t, text, c).sample for c in (cameras(4), cameras(4).roll(1, 0)))
    assert (said - turned).abs().max() > 1e-4
    with each_alone(unet):
        alone = unet(z, t, text).sample
        one = unet(z[:1], t[:1], text[:1]).sample
    torch.testing.assert_close(one, alone[:1], atol=2e-6, rtol=0)
    assert (said - alone).abs().max() > 1e-4
    assert torch.equal(unet(z, t, text, cameras(4)).sample, said), "afterwards it is as before"


def test_rows_that_are_no_whole_objects_are_refused():
    layer = Attention(8, heads=2, dim_head=4)
    with pytest.raises(ValueError, match="6 rows are no multiple of 4"):
        JointAttention(AttnProcessor())(layer, torch.zeros(6, 3, 8))


def test_layers_are_called_so_that_what_wraps_them_is_heard():
    torch.manual_seed(0)
    layer, x = Attention(8, heads=2, dim_head=4), torch.randn(4, 3, 8)
    joint = JointAttention(AttnProcessor2_0())
    before, calls = joint(layer, x), []
    for inner in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
        inner.register_forward_hook(lambda module, given, out: calls.append(module) or 2 * out)
    assert (joint(layer, x) - before).abs().max() > 1e-3 and len(calls) == 4
