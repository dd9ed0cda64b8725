"""The autoencoder of the latent prior: what it starts from, its even gradients, its pictures and its loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.evaluation.autoencoder import gradient_evenness, reconstruction
from dreamfusion_ngp.toybox.prior import reconstruction as training
from dreamfusion_ngp.toybox.prior.autoencoder import (
    LATENTS,
    build_autoencoder,
    downsamplers,
    start_as_thumbnail,
    trained_modules,
    unit_latents,
)
from dreamfusion_ngp.toybox.prior.cache import TracedViews
from dreamfusion_ngp.toybox.prior.reconstruction import crop, grid_penalty, reconstruction_loss
from dreamfusion_ngp.toybox.world.tracer import GBuffer


@pytest.fixture(scope="module")
def pictures():
    """(6, 3, 128, 128) in [-1, 1]: two-coloured discs over smooth grounds."""
    random = torch.Generator().manual_seed(0)
    ground = torch.rand(6, 3, 2, 2, generator=random) * 2 - 1
    ground = torch.nn.functional.interpolate(ground, size=128, mode="bilinear", align_corners=True)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 128)] * 2, indexing="ij")
    disc = (x**2 + y**2 < 0.3)[None, None]
    halves = torch.where(x > 0, torch.rand(6, 3, 1, 1, generator=random), -torch.rand(6, 3, 1, 1, generator=random))
    return torch.where(disc, halves, ground)


@pytest.fixture
def vae(pictures):
    torch.manual_seed(0)
    found = build_autoencoder(0)
    start_as_thumbnail(found, pictures[:3])
    return found


def test_it_starts_as_a_thumbnail_that_is_enlarged(vae, pictures):
    with torch.no_grad():
        z = vae.encode(pictures[3:]).latent_dist.mean
        back = vae.decode(z).sample
        noise = build_autoencoder(0)
        unstarted = noise.decode(noise.encode(pictures[3:]).latent_dist.mean).sample
    small = torch.nn.functional.avg_pool2d(pictures[3:], 8)
    inner = (..., slice(3, -3), slice(3, -3))
    for channel in range(3):
        together = torch.corrcoef(torch.stack([z[:, channel][inner].flatten(), small[:, channel][inner].flatten()]))
        assert together[0, 1] > 0.97
    error = [float((x - pictures[3:]).square().mean()) for x in (back, unstarted)]
    assert error[0] < 0.03 and error[1] > 5 * error[0]
    assert z[:, 3].std() > 0.2, "the spare channel says something"


def test_its_gradient_has_no_grid_and_no_stripes(vae, pictures):
    torch.manual_seed(0)
    even = gradient_evenness(vae, pictures, 4)
    assert even["grid"] < 1.5 and even["border_most"] < 1.3
    for conv in downsamplers(vae):  # one pixel of four
        with torch.no_grad():
            conv.weight[:, :, :2, :2] = conv.weight[:, :, :2, :2].sum((2, 3), keepdim=True) * torch.eye(2)[0].outer(
                torch.eye(2)[0]
            )
    assert gradient_evenness(vae, pictures, 1)["grid"] > 3


def test_the_penalty_of_the_grid_can_be_learnt(vae, pictures):
    torch.manual_seed(0)
    with torch.no_grad():  # a filter by which neighbouring pixels count unlike
        vae.encoder.conv_in.weight[:3] += 0.5 * torch.randn_like(vae.encoder.conv_in.weight[:3])
        vae.encoder.down_blocks[1].resnets[0].conv2.weight += 0.3 * torch.randn(32, 32, 3, 3)
    adam = torch.optim.Adam(vae.encoder.down_blocks[1].resnets[0].parameters(), 3e-3)
    found = []
    for _ in range(25):
        loss = grid_penalty(vae, pictures[:2])
        adam.zero_grad()
        loss.backward()
        adam.step()
        found.append(float(loss.detach()))
    assert np.mean(found[-5:]) < 0.6 * np.mean(found[:5])


def test_latents_of_unit_spread_mean_the_same_pictures(vae, pictures):
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
        narrow = vae.encode(pictures).latent_dist.std
    unit_latents(vae, pictures)
    with torch.no_grad():
        posterior = vae.encode(pictures).latent_dist
        after = vae.decode(posterior.mean).sample
    assert torch.allclose(before, after, atol=1e-4) and vae.config.scaling_factor == 1.0
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert torch.allclose(posterior.mean.std((0, 2, 3)), torch.ones(LATENTS), atol=1e-4)
    assert not torch.allclose(posterior.std, narrow), "the posterior's spread is scaled as the latents are"


def test_a_held_encoder_is_not_trained_and_downsamplers_never_are(vae, pictures):
    for encoder in (True, False):
        parts = trained_modules(vae, encoder)
        reconstruction_loss(vae, pictures[:1], encoder).backward()
        wanted = {id(p) for part in parts for p in part.parameters() if p.requires_grad}
        assert not any(id(p) in wanted for conv in downsamplers(vae) for p in conv.parameters())
        assert any(id(p) in wanted for p in vae.encoder.conv_out.parameters()) == encoder
        assert all((p.grad is not None) == (id(p) in wanted) for p in vae.parameters())
        vae.zero_grad()


def test_figures_are_decibels_of_all_pixels_and_of_the_toys():
    """An error of .2 on a quarter of the pixels, the toy's, in [-1, 1]: 20 dB there and 26 over all."""
    image = torch.zeros(2, 3, 16, 16)
    covered = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    covered[..., :8, :8] = True

    class Wrong:
        def encode(self, part):
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.randn(len(part), LATENTS, 2, 2)))

        def decode(self, z):
            return SimpleNamespace(sample=0.2 * covered[: len(z)].float().expand(-1, 3, -1, -1))

    figures = reconstruction(Wrong(), image, covered)
    assert figures["psnr_toy"] == pytest.approx(20, abs=1e-3) and figures["psnr"] == pytest.approx(26.02, abs=0.01)


def test_crops_are_windows_around_the_toy():
    random, n, side = np.random.default_rng(0), 32, 64
    covered = torch.zeros(n, side, side, dtype=torch.uint8)
    covered[:, 40:44, 20:30] = 255
    slot = torch.arange(side * side).reshape(1, side, side).expand(n, -1, -1)  # says where a pixel was
    buffer = GBuffer(torch.zeros(n, side, side, 3), torch.zeros(n, side, side, 3), slot, covered)
    seen = TracedViews(buffer, torch.zeros(n, 3), np.zeros(n), np.zeros(n), np.zeros(n, bool))
    torch.manual_seed(0)
    found = crop(seen, 16, random).buffer
    corner = found.slot[:, 0, 0]
    inside = corner[:, None, None] + torch.arange(16)[:, None] * side + torch.arange(16)
    assert torch.equal(found.slot, inside) and len(set(corner.tolist())) > 8
    assert found.alpha.flatten(1).any(1).all(), "some of the toy is in every one"
    assert crop(seen, side, random) is seen


def test_held_out_pictures_are_the_same_for_a_seed():
    one, covered = training.pictures_of_all(1, 5)
    assert one.shape == (20, 3, 256, 256) and covered.shape == (20, 1, 256, 256)
    assert one.abs().max() <= 1 and 0.05 < covered.float().mean() < 0.5
    assert torch.equal(one, training.pictures_of_all(1, 5)[0])
