"""Every rule with tiny pipelines of every family: it runs, in slices too, or is refused with one line."""

from dataclasses import replace

import pytest
import torch
from support.tiny_models import config, judged, views

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.presets import PRESETS, fast, preset
from dreamfusion_ngp.config.rules import RULES as DEFAULTS
from dreamfusion_ngp.config.rules import with_rule
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.classifier_free import guided_noise
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.protocol import TEXTS
from dreamfusion_ngp.guidance.rules import OF_FLOWS, RULES
from dreamfusion_ngp.guidance.schedule import add_noise, weight

KINDS = ("packed", "if", "sd", "sdv", "sdxl", "sd3")


@pytest.fixture
def every(folders, latent_folders):
    return {**folders, **latent_folders}


def image(views=3):
    return torch.rand(views, 12, 12, 3, generator=torch.Generator().manual_seed(0))


def of_rule(folder, rule, **changes):
    """A guidance with what comes with the rule, for the half of the run where bridge is one."""
    run = with_rule(config(folder, precision="float32"), rule, toys=False)
    return replace(run, guidance=replace(run.guidance, **changes))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in OF_FLOWS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_works_with_every_family(kind, rule, every):
    if rule == "vsd":
        pytest.importorskip("peft")
        if kind == "sd3":
            pytest.skip("its refusal is in test_vsd.py")
    said = {}
    for size in (0, 2):
        guidance = load_guidance(of_rule(every[kind], rule, slice=size), "cpu")
        said[size] = judged(guidance, image(), part=90)
    assert said[0].gradient.isfinite().all() and said[0].gradient.abs().max() > 0
    torch.testing.assert_close(said[2].gradient, said[0].gradient, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("rule", OF_FLOWS)
def test_a_rule_of_flows_is_for_them_alone(rule, every):
    run = of_rule(every["sd3"], rule)
    assert judged(load_guidance(run, "cpu"), image()).gradient.abs().max() > 0
    for other in (of_rule(every["sd"], rule), with_rule(replace(fast(), prompt="a red mug"), rule, toys=True)):
        check_config(other)
        with pytest.raises(UsageError, match=f"rule {rule} is for models that predict the velocity") as error:
            load_guidance(other, "cpu")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{}, {"slice": 1}, {"view_blend": "perp-neg"}, {"clip_clean": True}], ids=str)
@pytest.mark.parametrize("kind", ["packed", "sdv", "sd3"])
def test_sds_has_the_bits_that_it_had_as_the_only_rule(kind, options, every):
    """The function that was the only rule, with its arguments."""

    def only(denoiser, x, noise, t, views, config, moment):
        alpha, sigma = denoiser.schedule.coefficients(t, x)
        z = add_noise(x, noise, alpha, sigma)
        noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, denoiser.schedule, config)
        return weight(alpha, sigma, config.weighting) * (noise_hat - noise)

    run = config(every[kind], precision="float32", **options)
    found, wanted = (judged(load_guidance(run, "cpu", rule), image(), 3) for rule in (None, only))
    assert torch.equal(found.gradient, wanted.gradient) and found.value == wanted.value


@pytest.mark.parametrize("kind", ["packed", "sdxl", "sd3"])
@pytest.mark.parametrize("options", [{}, {"keep_view": True}, {"view_blend": "linear"}], ids=str)
def test_answers_are_what_guidance_is_told_and_more(kind, options, every):
    run = config(every[kind], precision="float32", negative="clay", flaws="blue", **options)
    denoiser, seen = load_guidance(run, "cpu").denoiser, views((0.0, 30.0, 180.0))
    z, t = torch.randn(3, *denoiser.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([90, 400, 800])
    said = dict(zip(TEXTS, denoiser.answers(z, t.numpy(), seen, TEXTS), strict=True))
    guided, (alpha, sigma) = denoiser.predict(z, t.numpy(), seen), denoiser.schedule.coefficients(t.numpy(), z)
    for text, answer in (("text", guided.cond), ("negative", guided.uncond)):
        torch.testing.assert_close(said[text], denoiser.schedule.noise(answer, z, alpha, sigma), rtol=1e-4, atol=1e-5)
    for one in TEXTS:
        for other in TEXTS[: TEXTS.index(one)]:
            assert not torch.allclose(said[one], said[other], rtol=1e-3, atol=1e-4), f"{one} is {other}"
    plain = load_guidance(replace(run, guidance=replace(run.guidance, view_words="none", view_blend="nearest")), "cpu")
    (wanted,) = plain.denoiser.answers(z, t.numpy(), seen, ["text"])
    torch.testing.assert_close(said["plain"], wanted, rtol=1e-4, atol=1e-5)


def test_every_rule_has_its_settings_its_source_and_a_choice():
    choices = {f.name: f.metadata for f in GuidanceConfig.__dataclass_fields__.values()}["rule"]["choices"]
    assert set(choices) == set(RULES) == set(DEFAULTS)
    for name, rule in DEFAULTS.items():
        assert rule.source and rule.cost
        for key, (_, why) in {**rule.models, **rule.toys}.items():
            assert key in GuidanceConfig.__dataclass_fields__ and why, f"{name}: {key}"


@pytest.mark.parametrize("rule", RULES)
def test_a_rules_settings_fit_the_presets(rule):
    for name in PRESETS:
        config = replace(with_rule(preset(name), rule, toys=False), accumulate=1)
        if config.guidance.kind == "clip" and rule != "sds":
            with pytest.raises(UsageError, match='kind "clip" distils nothing'):
                check_config(config)
        else:
            check_config(config)
    if rule != "bridge":
        check_config(with_rule(fast(), rule, toys=True))


def test_a_rule_changes_its_own_settings_in_every_stage():
    run = with_rule(preset("magic3d"), "asd", toys=False)
    for stage in (run, run.then):
        assert stage.guidance.rule == "asd" and stage.guidance.scale == 7.5
        assert stage.guidance.view_words == fast().guidance.view_words
    with pytest.raises(UsageError, match="unknown rule 'sdss'; known rules: sds, linear, csd"):
        with_rule(fast(), "sdss", toys=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(rule="bridge"), "needs guidance.flaws"),
        (dict(rule="csd", view_blend="perp-neg"), "weigh texts themselves"),
        (dict(rule="rfds", clip_clean=True), "weigh velocities"),
        (dict(rule="nothing"), "guidance.rule must be one of sds"),
    ],
)
def test_settings_that_a_rule_cannot_have_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        check_config(RunConfig(prompt="a mug", guidance=GuidanceConfig(**settings)))
