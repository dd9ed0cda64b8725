"""A step in graphs: on the CPU a tape of operators stands for the CUDA graph and shows that no number of a step is
frozen into the next; on a GPU the graphs themselves."""

from dataclasses import replace
from time import perf_counter

import pytest
import torch
from support.tape import NotForGraphs, Recorder, Tape, replay
from support.tiny_runs import TINY, Target

from dreamfusion_ngp.base.cuda_graphs import CudaCapture
from dreamfusion_ngp.base.errors import DivergenceError
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.executors import Eager, Graphed, Notice, executor, tier
from dreamfusion_ngp.optimise.volume import VolumeStage, train_step
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint

# Every number that may change changes; the grid's updates, both backgrounds, two resolutions and several tiers.
CHANGING = replace(
    TINY,
    steps=50,
    light=replace(TINY.light, albedo_only_until=0.2),
    field=replace(TINY.field, coarse_to_fine=(2, 0.8)),
    optim=replace(TINY.optim, warmup=0.3, final=0.1),
    loss=replace(TINY.loss, entropy=0.1, entropy_from=0.2, smoothness=0.02),
    render=replace(TINY.render, resolution=8, resolution_doubles=(0.6, 1.0), occupancy_interval=8),
)


def on_tape(state, smallest=256):
    return Graphed(state, Tape(), Tape(), smallest=smallest)


def run_steps(state, run, until, guidance=None):
    """Plain records of steps up to `until`, without times."""
    records = []
    while state.step < until:
        record = train_step(state, guidance or Target(), state.config, perf_counter, run)
        records.append(record)
    return [{k: v for k, v in record.plain().items() if not k.endswith("_ms")} for record in records]


def broken(image, views, part, progress):
    bad = image * float("nan")
    return GuidanceOutput(bad, bad.sum(), {})


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True))


@pytest.fixture(scope="module")
def eager():
    state = VolumeStage(CHANGING, "cpu")
    return state, run_steps(state, Eager(), 50)


def test_the_same_run_in_graphs(eager):
    """Bit for bit, records read long after their step included; and most steps were replayed."""
    state = VolumeStage(CHANGING, "cpu")
    run = on_tape(state)
    assert run_steps(state, run, 50) == eager[1]
    assert same(state, eager[0])
    sizes, networks, tiers = (
        set(column) for column in zip(*(kind for kind in run.warm if len(kind) == 3), strict=True)
    )
    assert sizes == {8, 16} and networks == {False, True} and len(tiers) >= 3
    rays, step = run.captures["cast"], run.captures["look"]
    assert rays.captured == 2 and rays.runs == 50 - 2
    assert step.captured >= 10 and step.runs >= 1.5 * step.captured


def test_a_signed_distance_in_graphs():
    """The points where its gradient is to be 1 are those of the step; bit for bit."""
    config = replace(
        CHANGING,
        steps=24,
        field=replace(CHANGING.field, kind="sdf", beta=(0.05, 0.004)),
        loss=replace(CHANGING.loss, eikonal=0.1, eikonal_points=32),
    )
    plain, taped = VolumeStage(config, "cpu"), VolumeStage(config, "cpu")
    run = on_tape(taped)
    records = run_steps(plain, Eager(), 24)
    assert run_steps(taped, run, 24) == records and same(plain, taped)
    assert run.captures["look"].runs > 5 and len({record["eikonal"] for record in records}) == 24


def test_the_same_run_through_a_checkpoint(tmp_path, eager):
    first = VolumeStage(CHANGING, "cpu")
    records = run_steps(first, on_tape(first), 27)
    save_checkpoint(tmp_path / "c", first)
    second = load_checkpoint(tmp_path / "c", "cpu")
    records += run_steps(second, on_tape(second), 50)
    assert records == eager[1] and same(second, eager[0])


@pytest.mark.parametrize(
    "changes",
    [
        dict(render=replace(CHANGING.render, budget=700)),  # samples are dropped: as many, and the same ones
        dict(field=replace(CHANGING.field, half_table=True, background_hidden=0)),
    ],
)
def test_budget_and_half_table(changes):
    config = replace(CHANGING, steps=20, **changes)
    graphed, plain = VolumeStage(config, "cpu"), VolumeStage(config, "cpu")
    records = run_steps(graphed, on_tape(graphed), 20)
    assert records == run_steps(plain, Eager(), 20) and same(graphed, plain)
    assert any(record["dropped"] for record in records) == (config.render.budget == 700)


def test_a_frozen_number_is_seen():
    """The check itself: a blob that grows with the step, as a number among an operator's arguments."""
    config = replace(TINY, steps=8, render=replace(TINY.render, random_background=1.0, resolution=8))
    states = [VolumeStage(config, "cpu") for _ in range(3)]
    for state in states[1:]:
        arguments = state.field._arguments

        def growing(state=state, arguments=arguments):
            positional, named = arguments()
            return positional, named | dict(blob=("cone", 6.0 + 0.1 * state.step, 0.3))

        state.field._arguments = growing
    honest, moving, frozen = states
    run_steps(honest, Eager(), 8), run_steps(moving, Eager(), 8), run_steps(frozen, on_tape(frozen, 1 << 15), 8)
    assert not same(honest, moving) and not same(moving, frozen)


def test_what_a_capture_refuses():
    count = torch.tensor([3])
    for function in (lambda: int(count), lambda: torch.tensor([1.0]), lambda: torch.arange(3)[torch.arange(3) > 1]):
        with pytest.raises(NotForGraphs), Recorder():
            function()


def test_a_tape_runs_in_the_same_memory():
    x, total = torch.ones(3), torch.zeros(3)
    run, y = Tape()(lambda: total.add_(2 * x).clone())
    run()
    x.fill_(5.0)
    run()
    assert total.tolist() == [12.0] * 3 and y.tolist() == [12.0] * 3
    with Recorder() as recorder:
        view = (x + 1)[1:]
    x.fill_(7.0)
    replay(recorder.calls)
    assert view.tolist() == [8.0, 8.0]


def test_a_step_that_stops_can_be_followed_by_others():
    """A term that is not finite ends a step between its graphs; they are captured and run later all the same."""
    config = replace(TINY, steps=12, render=replace(TINY.render, random_background=1.0, resolution=8))
    results = []
    for make in (lambda state: Eager(), lambda state: on_tape(state, 1 << 15)):
        state = VolumeStage(config, "cpu")
        run = make(state)
        for bad in (0, 2, 5):
            run_steps(state, run, bad)
            with pytest.raises(DivergenceError):
                run_steps(state, run, bad + 1, broken)
        run_steps(state, run, 12)
        results.append(state)
    assert same(*results)


def test_tiers():
    assert [tier(n, 1 << 19) for n in (0, 1, 1 << 15, (1 << 15) + 1, 100_000, 1 << 19, 1 << 22)] == [
        1 << 15,
        1 << 15,
        1 << 15,
        1 << 16,
        1 << 17,
        1 << 19,
        1 << 19,
    ]
    assert [tier(n, 1000) for n in (0, 999, 5000)] == [1000] * 3
    assert tier(300_000, 300_001) == 300_001


def test_notice():
    notice = Notice(torch.zeros(2, dtype=torch.int64))
    notice.send(torch.tensor([7, 1]))
    assert notice.read() == [7, 1]


def test_graphs_are_for_cuda_devices_and_whole_steps():
    assert RunConfig().cuda_graphs and isinstance(executor(VolumeStage(replace(TINY, cuda_graphs=True), "cpu")), Eager)
    check_config(replace(TINY, cuda_graphs=True, accumulate=2))


def test_a_capture_begins_without_what_autograd_remembers():
    """Of every parameter, autograd keeps the stream on which it was first met, as long as a graph of it lives: a
    capture that meets that of an earlier step would wait for a stream outside."""
    state = VolumeStage(TINY, "cpu")
    table = state.field.table

    def node():  # the one that adds gradients: the living one, if there is one
        return table.view_as(table).grad_fn.next_functions[0][0]

    class Marking(Tape):
        def warm(self, function):
            returned = function()
            node().metadata["warm"] = True
            return returned

        def __call__(self, function):
            assert "warm" not in node().metadata
            return super().__call__(function)

    run = Graphed(state, Tape(), Marking(), smallest=256)
    run_steps(state, run, 6)
    assert {name for name, _ in run.graphs} == {"cast", "look", "learn"}


# On a GPU -------------------------------------------------------------------------------------------------------------


def distance(a, b):
    """Root mean square difference of two tables."""
    return (a.field.table - b.field.table).detach().square().mean().sqrt().item()


def test_the_same_run_on_a_gpu(cuda, tmp_path):
    """Atomics round in any order, so runs differ; runs in graphs no more than others. A large epsilon, for Adam would
    make a step of any size of a rounding error."""
    config = replace(CHANGING, optim=replace(CHANGING.optim, eps=1e-3))
    states = [VolumeStage(config, cuda) for _ in range(3)]
    records = [run_steps(state, Eager(), 50) for state in states[:2]]
    run = Graphed(states[2], CudaCapture(), CudaCapture(), smallest=256)
    records.append(run_steps(states[2], run, 27))
    save_checkpoint(tmp_path / "c", states[2])
    again = load_checkpoint(tmp_path / "c", cuda)
    records[2] += run_steps(again, Graphed(again, CudaCapture(), CudaCapture(), smallest=256), 50)
    assert distance(states[0], again) <= 4 * distance(states[0], states[1]) + 1e-6
    for a, b in zip(records[0], records[2], strict=True):
        assert abs(a["samples"] - b["samples"]) <= 0.01 * a["samples"] and a["sds"] == pytest.approx(b["sds"], rel=1e-2)
    tiers = {kind[2] for kind in run.warm if len(kind) == 3}
    assert len(tiers) >= 3 and {name for name, _ in run.graphs} == {"cast", "look", "learn"}


def test_the_config_switches_graphs_on(cuda):
    state = VolumeStage(replace(TINY, steps=20, cuda_graphs=True), cuda)
    run = executor(state)
    assert isinstance(run, Graphed)
    assert isinstance(executor(VolumeStage(replace(TINY, cuda_graphs=False), cuda)), Eager)
    assert isinstance(executor(VolumeStage(replace(TINY, cuda_graphs=True, accumulate=2), cuda)), Eager)
    assert [record["step"] for record in run_steps(state, run, 20)] == list(range(20)) and run.graphs


def test_steps_in_graphs_never_wait(cuda):
    """Under torch's own check, once everything is captured: one tier, one background."""
    config = replace(TINY, render=replace(TINY.render, random_background=1.0))
    state = VolumeStage(config, cuda)
    run = Graphed(state, CudaCapture(), CudaCapture(), smallest=config.render.budget)
    target = Target()
    target.color = target.color.to(cuda)
    run_steps(state, run, 4, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(12):  # the check of the loss terms falls on steps 0 and 16
            train_step(state, target, config, perf_counter, run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
