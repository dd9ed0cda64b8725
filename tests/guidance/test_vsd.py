"""Variational score distillation: the student starts as its teacher, is told cameras, learns, and resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_models import config, judged, views
from support.tiny_runs import TINY

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.rules import with_rule
from dreamfusion_ngp.guidance import student as student_module
from dreamfusion_ngp.guidance.classifier_free import guided_noise
from dreamfusion_ngp.guidance.denoisers.multiview import MULTIVIEW
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.moment import Moment
from dreamfusion_ngp.guidance.schedule import add_noise, predicted_noise, target_of, weight
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.stages import start

KINDS = ("packed", "if", "sd", "sdv", "sdxl")


@pytest.fixture
def every(folders, latent_folders):
    pytest.importorskip("peft")
    return {**folders, **latent_folders}


def loaded(folder, **options):
    run = with_rule(config(folder, precision="float32"), "vsd", toys=False)
    return load_guidance(replace(run, guidance=replace(run.guidance, **options)), "cpu")


def image():
    return torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0))


def noisy(guidance, seed=1):
    """x, noise, t and z_t of three views."""
    denoiser, random = guidance.denoiser, torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 3, *denoiser.shape, generator=random)
    t = np.array([100, 500, 900])
    return x, noise, t, add_noise(x, noise, *denoiser.schedule.coefficients(t, x))


def stirred(student, size=0.05):
    """Give every number of the student one that is not 0."""
    random = torch.Generator().manual_seed(5)
    for p in student.parameters.values():
        p.data += size * torch.randn(p.shape, generator=random)
    return student


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_student_leaves_the_guided_answer_less_the_conditional(kind, every):
    """With its camera, too: what it is told starts at 0."""
    guidance = loaded(every[kind], view_words="none", weighting="clean")
    denoiser, (x, noise, t, z) = guidance.denoiser, noisy(guidance)
    moment = Moment(seed=3, part=0, progress=0.0, views=3)
    found = guidance.rule(denoiser, x, noise, t, views(), guidance.config, moment)
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    guided = guided_noise(denoiser.predict(z, t, views()), z, alpha, sigma, denoiser.schedule, guidance.config)
    (conditional,) = denoiser.answers(z, t, views(), ["text"])
    torch.testing.assert_close(found, weight(alpha, sigma, "clean") * (guided - conditional), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["packed", "sdv", "sdxl"])
def test_the_student_is_the_network_with_other_weights_and_another_time_embedding(kind, every):
    """W + B A in every attention layer of a copy, and what the camera says added by hand."""
    guidance = loaded(every[kind])
    student, denoiser = stirred(guidance.rule.student), guidance.denoiser
    x, noise, t, z = noisy(guidance)
    found = student.noise(z, t, views())

    plain = load_guidance(config(every[kind], precision="float32"), "cpu").denoiser
    for name, module in plain.network.named_modules():
        a = student.parameters.get(f"{name}.lora_A.vsd.weight")
        if a is not None:
            module.weight.data += student.parameters[f"{name}.lora_B.vsd.weight"].data @ a.data
    named = {name: p.detach() for name, p in student.parameters.items() if name.startswith("conditioning.")}
    c2w = torch.cat([views().cameras.c2w, torch.tensor([0.0, 0, 0, 1]).expand(3, 1, 4)], 1).reshape(3, 16)
    hidden = torch.nn.functional.silu(c2w @ named["conditioning.first.weight"].T + named["conditioning.first.bias"])
    said = hidden @ named["conditioning.last.weight"].T + named["conditioning.last.bias"]
    said = said + named["conditioning.shading.weight"][torch.tensor(views().modes)]
    plain.network.time_embedding.register_forward_hook(lambda _, __, out: out + said)
    told = plain.texts.branches_of(views(), ["plain"])
    with torch.no_grad():
        answer = plain.ask(plain.network, plain.rows(z, t, views(), told)(slice(None))).float()
    alpha, sigma = denoiser.schedule.coefficients(t, z)
    wanted = predicted_noise(answer, z, alpha, sigma, denoiser.schedule.prediction)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        (untouched,) = denoiser.answers(z, t, views(), ["plain"])
    assert (untouched - wanted).abs().max() > 1e-2, "the teacher has none of it"


def test_cameras_and_shadings_change_what_the_student_says_unless_it_is_not_told(every):
    guidance = loaded(every["packed"])
    student, (_, _, t, z) = stirred(guidance.rule.student, 0.3), noisy(guidance)
    turned = views((120.0, 210.0, 300.0))
    shaded = replace(views(), modes=views().modes[::-1].copy())
    with torch.no_grad(), student.awake():
        here, there, other = (student.ask(z, t, seen, np.ones(3)) for seen in (views(), turned, shaded))
        blind = [student.ask(z, t, seen, np.zeros(3)) for seen in (views(), turned)]
    assert (here - there).abs().max() > 1e-4 and (here - other).abs().max() > 1e-4
    assert torch.equal(*blind) and not torch.equal(blind[0], here)


@pytest.mark.parametrize("kind", ["packed", "sd", "sdv"])
def test_a_lesson_is_a_step_of_adamw_along_the_gradient_of_the_mean_error(kind, every):
    """The gradient by finite differences of the mean squared error, in the terms of the network's prediction."""
    guidance = loaded(every[kind])
    student, denoiser = stirred(guidance.rule.student), guidance.denoiser
    x, noise, t, z = noisy(guidance)
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    target = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x}[denoiser.schedule.prediction]
    torch.testing.assert_close(target_of(x, noise, alpha, sigma, denoiser.schedule.prediction), target)

    def error():
        with torch.no_grad(), student.awake():
            return (student.ask(z, t, views(), np.ones(3)) - target).double().square().mean().item()

    name = next(name for name in student.parameters if "to_v.lora_B" in name)
    p, slopes = student.parameters[name], []
    places = [(0, 0), (3, 1), (5, 2)]
    for place in places:
        sides = []
        for side in (0.05, -0.05):
            p.data[place] += side
            sides.append(error())
            p.data[place] -= side
        slopes.append((sides[0] - sides[1]) / 0.1)
    before, was = p.data.clone(), error()
    said = student.learn(x, noise, t, views(), np.ones(3), 1e-3)
    assert float(said) == pytest.approx(was, rel=1e-4) and float(student.updates) == 1
    state = student.optimiser.state[p]
    for place, slope in zip(places, slopes, strict=True):
        assert float(state["exp_avg"][place]) == pytest.approx(0.1 * slope, rel=0.03, abs=1e-6)
    gradient = state["exp_avg"] / 0.1
    wanted = before * (1 - 1e-3 * 0.01) - 1e-3 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(p.data, wanted, rtol=1e-4, atol=1e-6)


def test_lessons_teach_and_leave_the_teacher_alone(every):
    guidance = loaded(every["sd"])
    student, (x, noise, t, z) = guidance.rule.student, noisy(guidance)
    before = guidance.denoiser.predict(z, t, views())
    errors = [float(student.learn(x, noise, t, views(), np.ones(3), 5e-3)) for _ in range(40)]
    assert errors[-1] < 0.9 * errors[0]
    after = guidance.denoiser.predict(z, t, views())
    assert torch.equal(before.cond, after.cond) and torch.equal(before.uncond, after.uncond)
    trained = {name for name, p in guidance.denoiser.network.named_parameters() if p.requires_grad}
    assert not {name for name in trained if ".vsd." not in name}


def test_a_step_is_one_lesson_about_as_many_views_as_a_slice(every, monkeypatch):
    seen = {}
    for size in (0, 1, 2):
        guidance, lessons = loaded(every["packed"], slice=size), []
        monkeypatch.setattr(guidance.rule.student, "learn", lambda *given, to=lessons: to.append(given))
        seen[size] = judged(guidance, image(), part=50).gradient
        ((x, noise, t, some, told, rate),) = lessons
        assert len(x) == len(noise) == len(t) == len(some) == len(told) == (size or 3) and rate == 1e-4
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(seen[2], seen[0], rtol=1e-3, atol=1e-6)


def test_the_rate_rises_and_a_tenth_of_the_lessons_have_no_camera(every, monkeypatch):
    guidance, lessons = loaded(every["packed"]), []
    monkeypatch.setattr(guidance.rule.student, "learn", lambda *given: lessons.append(given))
    x = torch.zeros(3, *guidance.denoiser.shape)
    for part in range(400):
        guidance.rule.teach(x, views(), guidance.config, Moment(1, part, part / 10000, 3))
    told, t = (np.concatenate([lesson[i] for lesson in lessons]) for i in (4, 2))
    assert 0.87 < told.mean() < 0.93 and t.min() < 20 and t.max() > 980
    assert [lessons[part][5] for part in (0, 100, 200, 399)] == pytest.approx([0, 0.5e-4, 1e-4, 1e-4])


def test_a_resumed_run_is_the_same_run(every, tmp_path):
    run = with_rule(replace(TINY, prompt="a red mug", steps=6), "vsd", toys=False)
    run = replace(run, guidance=replace(run.guidance, model=str(every["packed"]), lr_lora=1e-2, view_words="paper"))

    def trained(stage):
        train(stage, load_guidance(stage.config, "cpu"), lambda record: None)
        return stage

    whole = trained(VolumeStage(run, "cpu"))
    save_checkpoint(tmp_path / "half.safetensors", trained(VolumeStage(replace(run, steps=6), "cpu")))
    half = VolumeStage(run, "cpu")
    train(half, load_guidance(run, "cpu"), lambda record: record.step == 2)
    assert half.step == 3
    save_checkpoint(tmp_path / "half.safetensors", half)
    resumed = trained(load_checkpoint(tmp_path / "half.safetensors", "cpu"))
    moved = 0
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
        moved += name.startswith("guidance.vsd.") and "lora_B" in name and bool(value.any())
    assert moved and float(whole.tensors()["guidance.vsd.updates"]) == 6


def test_what_vsd_cannot_have_is_refused_with_one_line(latent_folders, monkeypatch):
    run = with_rule(config(latent_folders["sd"]), "vsd", toys=False)
    other = replace(run, guidance=replace(run.guidance, model=str(latent_folders["sd3"])))
    with pytest.raises(UsageError, match="trains a LoRA of a UNet, and .* has a transformer; rule asd"):
        load_guidance(other, "cpu")
    with pytest.raises(UsageError, match="lessons about single views, and .* sees several; its rule is x0"):
        student_module.check_student(run.guidance, MULTIVIEW)
    monkeypatch.setattr(student_module, "installed", lambda name: True)
    for change in (dict(offload=True), dict(compile="default")):
        with pytest.raises(UsageError, match="guidance.offload and guidance.compile are not for it"):
            load_guidance(replace(run, guidance=replace(run.guidance, **change)), "cpu")
    monkeypatch.setattr(student_module, "installed", lambda name: name != "peft")
    with pytest.raises(UsageError, match=r'pip install "dreamfusion_ngp\[lora\]"') as error:
        load_guidance(run, "cpu")
    assert "\n" not in str(error.value)


def test_particles_have_one_student_and_a_resumed_run_is_the_same(every, tmp_path):
    run = with_rule(replace(TINY, prompt="a red mug", steps=4, particles=2), "vsd", toys=False)
    run = replace(run, guidance=replace(run.guidance, model=str(every["packed"]), lr_lora=1e-2, view_words="paper"))

    def trained(stage, until=None):
        train(stage, load_guidance(stage.config, "cpu"), lambda record: stage.step == until)
        return stage

    whole = trained(start(run, "cpu"))
    save_checkpoint(tmp_path / "half.safetensors", trained(start(run, "cpu"), until=2))
    resumed = load_checkpoint(tmp_path / "half.safetensors", "cpu")
    assert resumed.step == 2 and len(resumed.members) == 2
    theirs = trained(resumed).tensors()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.tensors().items())
    assert float(whole.guided["vsd.updates"]) == 8, "a lesson about each particle in each step"
