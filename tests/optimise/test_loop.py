"""The loop: it learns from any guidance, draws the paper's schedule, resumes bit-exactly, and stops at what is not
finite."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY, Target, all_finite, indifferent, run
from torch.utils._python_dispatch import TorchDispatchMode

from dreamfusion_ngp.base.errors import DivergenceError
from dreamfusion_ngp.config.presets import dreamfusion
from dreamfusion_ngp.config.schema import LightConfig, LossConfig, resolution_at
from dreamfusion_ngp.optimise import step as steps
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage, differentiate
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint


def test_the_loop_follows_its_guidance(device):
    still = replace(TINY, light=LightConfig(albedo_only_until=2.0), steps=80)
    _, records = run(still, device=device)
    first, last = (sum(r["sds"] for r in part) / len(part) for part in (records[:5], records[-5:]))
    assert last < 0.3 * first
    assert [r["step"] for r in records] == list(range(80))
    assert all(r["samples"] > 0 and r["dropped"] == 0 for r in records)


def test_stopped_and_continued_equals_uninterrupted():
    whole, records = run(TINY)
    part, before = run(TINY, stop_after=17)
    assert part.step == 17
    again = VolumeStage(TINY, "cpu")
    for name, value in part.tensors().items():
        again.tensors()[name].copy_(value)
    again.step = 17
    again, after = run(TINY, state=again)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))
    assert [r["sds"] for r in records] == [r["sds"] for r in before + after]


def test_same_for_any_number_of_threads(restore_threads):
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(run(replace(TINY, steps=12, field=replace(TINY.field, background_hidden=0)))[0].tensors())
    assert all(torch.equal(a, b) for a, b in zip(*[r.values() for r in results], strict=True))


class Sizes(TorchDispatchMode):
    """Notes the operators that take or return a tensor of one shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.names = shape, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if any(getattr(v, "shape", None) == self.shape for v in [*args, *(out if isinstance(out, tuple) else [out])]):
            self.names.append(function._overloadpacket.__name__)
        return out


def test_only_kernels_pass_over_the_table():
    """No gradient of the table is added, copied or cleared otherwise: from the second step on, the backward accumulates
    into the one that Adam zeroed."""
    state = VolumeStage(TINY, "cpu")
    with Sizes(state.field.table.shape) as first:
        train(state, Target(), lambda record: state.step == 1)
    with Sizes(state.field.table.shape) as second:
        train(state, Target(), lambda record: state.step == 3)
    views = {"detach", "view", "view_as", "alias"}
    step = ["field", "field_backward", "adam_step"]
    assert [name for name in second.names if name not in views] == 2 * step
    assert [name for name in first.names if name not in views] == ["field_density", *step]
    assert state.field.table.grad is None


def test_a_half_table_learns_and_resumes_like_any_other(tmp_path):
    """The copy follows the table through steps and checkpoints; small updates add up in float32."""
    half = replace(TINY, field=replace(TINY.field, half_table=True))
    whole, records = run(half)
    part, _ = run(half, stop_after=17)
    assert torch.equal(part.field.shadow, part.field.table.half())
    assert not torch.equal(part.field.shadow, part.field.table)
    save_checkpoint(tmp_path / "c", part)
    again, _ = run(half, state=load_checkpoint(tmp_path / "c", "cpu"))
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))
    plain = run(TINY)[1]
    assert [r["sds"] for r in records] != [r["sds"] for r in plain]
    assert records[-1]["sds"] == pytest.approx(plain[-1]["sds"], rel=0.05)


def test_other_seed_other_run():
    a, b = run(replace(TINY, steps=3))[0], run(replace(TINY, steps=3, seed=1))[0]
    assert not torch.equal(a.field.table, b.field.table)


def test_schedule_of_modes():
    guidance = Target()
    run(replace(TINY, steps=60, views=4, light=replace(TINY.light, albedo_only_until=0.5)), guidance)
    early = [m for step, modes in guidance.seen for m in modes if step < 30]
    late = [m for step, modes in guidance.seen for m in modes if step >= 30]
    assert set(early) == {0} and set(late) == {0, 1, 2}


NAN, INF = float("nan"), float("inf")
BAD = (NAN, INF, -INF)


class Meddler(Target):
    """Calls `meddle(step)` in every step, between rendering and update."""

    def __init__(self, meddle):
        super().__init__()
        self.meddle = meddle

    def __call__(self, image, views, part, progress):
        output = super().__call__(image, views, part, progress)
        self.meddle(part)
        return output


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("term", ["sds", "orientation", "opacity_loss", "entropy", "smoothness"])
def test_a_loss_term_that_is_not_finite_stops_with_step_and_term(monkeypatch, term, value):
    class Poison(Target):
        def __call__(self, image, views, part, progress):
            output = super().__call__(image, views, part, progress)
            return replace(output, value=output.value + value) if term == "sds" and part == 3 else output

    config = replace(TINY, loss=replace(TINY.loss, smoothness=0.1))
    state = VolumeStage(config, "cpu")
    if term != "sds":
        name = term if term.endswith("loss") else f"{term}_loss"
        good = getattr(steps, name)
        monkeypatch.setattr(steps, name, lambda *given: good(*given) + (value if state.step == 3 else 0.0))
    with pytest.raises(DivergenceError, match=rf"'{term}' is {value} at step 3"):
        train(state, Poison(), lambda record: None)
    assert state.step == 3 and all_finite(state)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "name, value",
    [
        *[
            (name, value)
            for name in ("field.table", "field.b2", "background.w1", "adam.0.first", "adam.6.second")
            for value in BAD
        ],
        ("adam.0.second", -1.0),
    ],
)
def test_harm_to_the_state_stops_the_step_it_is_met_in(name, value, times):
    """Also where no ray looks: the table's last row is hardly ever read. Nothing else takes it up."""
    state = VolumeStage(replace(TINY, accumulate=times), "cpu")
    harmed = state.tensors()[name]

    def meddle(part):
        if part == 3 * times + times - 1:
            harmed.view(-1)[-1] = value

    with pytest.raises(DivergenceError, match=rf"{name}.* at step 3"):
        train(state, Meddler(meddle), lambda record: None)
    assert state.step == 3
    harmed.view(-1)[-1] = 0.0
    assert all_finite(state)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", [0, 1])
def test_a_factor_of_adam_that_is_not_finite_stops_the_step(monkeypatch, place, value):
    state = VolumeStage(TINY, "cpu")
    good = state.adam.factors

    def factors(step, steps):
        found = [list(pair) for pair in good(step, steps)]
        found[0][place] = value if step == 3 else found[0][place]
        return found

    monkeypatch.setattr(state.adam, "factors", factors)
    with pytest.raises(DivergenceError, match="factors.* at step 3"):
        train(state, Target(), lambda record: None)
    assert state.step == 3 and all_finite(state)


@pytest.mark.parametrize("factor", [*BAD, 1e30, -1e30])
def test_gradients_that_are_not_finite_are_left_out_and_counted(factor):
    """Or whose square is not."""

    class Poison(Target):
        def __call__(self, image, views, part, progress):
            output = super().__call__(image, views, part, progress)
            return replace(output, gradient=output.gradient * factor) if part == 2 else output

    state, records = run(TINY, Poison(), stop_after=5)
    assert all_finite(state)
    counts = [record["nonfinite"] for record in records]
    assert counts[:2] == [0, 0] and counts[2] > 0 and counts[2:] == [counts[2]] * 3


def test_the_count_of_what_was_left_out_goes_on_after_a_resume(tmp_path):
    state = VolumeStage(TINY, "cpu")
    state.adam.nonfinite += 7
    _, before = run(TINY, state=state, stop_after=2)
    save_checkpoint(tmp_path / "c", state)
    _, after = run(TINY, state=load_checkpoint(tmp_path / "c", "cpu"), stop_after=4)
    assert [record["nonfinite"] for record in before + after] == [7] * 4


def test_parts_of_a_step_are_drawn_apart_and_weigh_as_one():
    """Two parts of two views: the guidance sees four different views, and the first update is that of their mean."""
    once, twice = Target(), Target()
    seen = []
    twice_config = replace(TINY, accumulate=2, steps=4)

    class Spy(Target):
        def __call__(self, image, views, part, progress):
            seen.append((part, progress, views.cameras.azimuth.tolist()))
            return super().__call__(image, views, part, progress)

    state, records = run(twice_config, Spy())
    assert [part for part, _, _ in seen] == list(range(8)) and [p for _, p, _ in seen] == [n // 2 / 4 for n in range(8)]
    assert len({tuple(a) for _, _, a in seen}) == 8
    assert [r["step"] for r in records] == [0, 1, 2, 3] and state.step == 4
    first = run(replace(TINY, steps=4), once, stop_after=1)[1][0]
    both = run(twice_config, twice, stop_after=1)[1][0]
    assert both["samples"] > 1.5 * first["samples"] and [s for s, _ in twice.seen] == [0, 1]


@pytest.mark.parametrize("what", ["guidance", "orientation", "opacity", "entropy", "smoothness"])
def test_everything_in_a_part_of_a_step_weighs_its_share(monkeypatch, what):
    """The guidance and each regulariser alone: in half a step they give half of the gradient, in every parameter."""
    weights = dict(orientation=(0.0, 0.0), opacity=0.0, entropy=0.0, smoothness=0.0)
    loss = LossConfig(**weights | ({} if what == "guidance" else {what: (1.0, 1.0) if what == "orientation" else 1.0}))
    monkeypatch.setattr(steps, "entropy_weight", lambda config, progress: config.entropy)  # else 0 at the start
    guidance = Target() if what == "guidance" else indifferent
    gradients = {}
    for times in (1, 2):
        state = VolumeStage(replace(TINY, accumulate=times, loss=loss), "cpu")
        with torch.no_grad():
            state.field.table.copy_(torch.rand(state.field.table.shape, generator=torch.manual_seed(0)) - 0.5)
        state.adam.step = lambda factors: None  # keeps the gradients
        differentiate(state, guidance, state.config, 0, lambda: 0.0)
        gradients[times] = {name: p.grad for name, p in state.field.named_parameters()}
    for name in ("table", "w1", "w2"):
        half, whole = gradients[2][name], gradients[1][name]
        size = float(whole.abs().max())
        assert size > 0 and float((2 * half - whole).abs().max()) < 1e-4 * size, name


def test_the_first_update_of_the_grid_is_of_every_cell():
    """Later ones are of a part. An exponential density is above zero everywhere."""
    state = VolumeStage(TINY, "cpu")
    train(state, Target(), lambda record: True)
    assert (state.occupancy.values > 0).all()
    state.occupancy.values.zero_()
    config = replace(TINY, render=replace(TINY.render, occupancy_interval=1))
    differentiate(state, Target(), config, 0, lambda: 0.0)
    assert 0.1 < float((state.occupancy.values > 0).float().mean()) < 0.9


def test_resolution_doubles_when_the_schedule_says():
    sizes = []

    class Spy(Target):
        def __call__(self, image, views, part, progress):
            sizes.append(image.shape[1])
            return super().__call__(image, views, part, progress)

    run(replace(TINY, steps=4, render=replace(TINY.render, resolution=6, resolution_doubles=(0.25, 0.75))), Spy())
    assert sizes == [6, 12, 12, 24]
    assert [resolution_at(dreamfusion().render, p) for p in (0.0, 1.0)] == [64, 64]
