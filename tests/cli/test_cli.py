"""The command line: flags, and errors as one line (whole runs: test_verbs.py)."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from support.commands import command, one_line_error

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.overrides import override
from dreamfusion_ngp.config.presets import fast


def test_help_is_quick_and_lists_every_verb():
    """In seconds of a core, which a busy machine does not lengthen; the process has one thread."""
    best = 9.0
    for _ in range(5):
        before = os.times()
        done = command("--help")
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, spent)
    assert done.returncode == 0
    verbs = ("generate", "resume", "render", "export", "evaluate", "train-prior", "train-judge", "doctor", "bench")
    assert all(verb in done.stdout for verb in verbs)
    assert best < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from dreamfusion_ngp.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'ssl', 'urllib.request', 'importlib.metadata'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize(
    "args, words",
    [
        (["generate"], ["prompt"]),
        (["generate", ""], ["empty"]),
        (["generate", "   \n "], ["empty"]),
        (["generate", "a red dragon"], ["dragon", "mug", "purple", "--guidance"]),
        (["generate", "../../etc/passwd"], ["passwd"]),
        (["generate", "a red mug and a blue chair"], ["and"]),
        (["generate", "mug chair"], ["one object"]),
        (["generate", "a red mug", "--preset", "slow"], ["slow", "fast", "dreamfusion"]),
        (["generate", "a red mug", "--steps", "0"], ["--steps"]),
        (["generate", "a red mug", "--steps", "-5"], ["--steps"]),
        (["generate", "a red mug", "--threads", "0"], ["--threads"]),
        (["generate", "a red mug", "--device", "tpu"], ["tpu"]),
        (["generate", "a red mug", "--formats", "fbx"], ["fbx", "glb"]),
        (["generate", "a red mug", "--guidance", "no/such/folder"], ["no/such/folder"]),
        (["generate", "a red mug", "--set", "field.depth=3"], ["field.depth", "levels"]),
        (["generate", "a red mug", "--set", "steps"], ["KEY=VALUE"]),
        (["generate", "a red mug", "--set", "views=two"], ["views"]),
        (["generate", "a red mug", "--seed", "-1"], ["seed"]),
        (["generate", "a red mug", "--seed", str(1 << 63)], ["seed"]),
        (["generate", "a red mug", "--steps", "9" * 30], ["steps"]),
        (["generate", "a red mug", "--threads", "9" * 12], ["--threads"]),
        (["generate", "a red mug", "--guidance-scale", "nan"], ["scale"]),
        (["generate", "a red mug", "--set", "field.density=relu"], ["field.density", "softplus"]),
        (["generate", "a red mug", "--set", "render.occupancy_resolution=30"], ["occupancy_resolution"]),
        (["generate", "a red mug", "--set", "views=0"], ["views"]),
        (["bench", "--json", "no/such/folder/b.json"], ["no/such/folder"]),
        (["resume", "no-such-run"], ["no-such-run"]),
        (["resume", "x" * 5000], ["too long"]),
        (["export", "no-such-run"], ["no-such-run"]),
        (["render", "no-such-run"], ["no-such-run"]),
        (["evaluate", "no-such-run"], ["no-such-run"]),
        (["evaluate", ""], ["empty"]),
        (["evaluate", "."], ["--depth"]),
        (["evaluate", ".", "--depth", "-1"], ["--depth"]),
        (["evaluate", ".", "--judge", ""], ["--judge", "empty"]),
        (["resume", ""], ["empty"]),
        (["export", " "], ["empty"]),
        (["generate", "a red mug", "-o", ""], ["--out", "empty"]),
        (["generate", "a red mug", "-o", "a\0b"], ["--out", "null"]),
        (["resume", "a\0b"], ["null"]),
        (["train-judge", "--minutes", "0"], ["--minutes"]),
        (["train-judge", "-o", "no/such/folder/judge.safetensors"], ["no/such/folder"]),
        (["train-prior", "--resume", "no-such-folder"], ["no-such-folder"]),
        (["train-prior", "--images", "0"], ["--images"]),
        (["generate", "a red mug", "--stepz", "3"], ["--stepz", "--help"]),
        (["generate", "a red mug", "--steps", "x"], ["--steps", "'x'", "generate --help"]),
        (["generator"], ["generator", "generate", "doctor"]),
        ([], ["VERB"]),
        (["generate", "a red mug", "--formats", ","], ["--formats", "glb"]),
        (["generate", "a red mug", "--size", "0"], ["size of an STL", "10000 mm"]),
        (["resume", "nowhere", "--size", "nan"], ["size of an STL", "nan"]),
        (["export", "nowhere", "--size", "big"], ["--size", "big"]),
        (["generate", "a red mug", "--origin", "top"], ["origin 'top'", "base"]),
        (["export", "nowhere", "--origin", "Top"], ["origin 'Top'", "base"]),
        (["generate", "a red mug", "--guidance", "a\nb\x1b[2J"], ["a b"]),
        (["generate", "a red mug", "--set", "a\nb=1"], ["no such setting"]),
        (["generate", "a red mug", "--set", "views=" + "[" * 100_000], ["views"]),
        (["generate", "a red mug", "--set", 'preset="dreamfusion"'], ["--preset"]),
        (["generate", "a red mug", "-o", "x" * 5000], ["cannot write", "-o"]),
        (["bench", "--resolutions", "64", "0"], ["--resolutions"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and error.isprintable()
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_a_home_is_found_where_the_shell_does_not_look(tmp_path, monkeypatch):
    """--out=~/x reaches the program as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for flag in ("--out=~/x", "-o~/x"):
        assert cli.build_parser().parse_args(["generate", "a red mug", flag]).out == tmp_path / "home" / "x"
    assert cli.build_parser().parse_args(["resume", "~/x"]).run == tmp_path / "home" / "x"
    assert str(cli.build_parser().parse_args(["resume", "~nobody-of-this-name/x"]).run)[0] == "~", "as in a shell"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where no home is known
    with pytest.raises(UsageError, match="no home folder is known for '~/x'"):
        cli.build_parser().parse_args(["generate", "a red mug", "--out=~/x"])


def test_a_working_directory_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    for args in (
        ["generate", "a red mug", "--guidance", "some/folder/there"],
        ["generate", "a red mug"],
        ["train-judge"],
    ):
        assert cli.main(args) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("error: ") and "[Errno" not in error, error
    monkeypatch.chdir(tmp_path)


def test_bad_settings_need_no_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\nfrom dreamfusion_ngp.cli import main\n"
        "sys.exit(main(['generate', 'a red mug', *sys.argv[1:]]))"
    )
    for args in (["--steps", "0"], ["--set", "field.hidden=0"], ["--preset", "slow"]):
        done = subprocess.run([sys.executable, "-P", "-c", code, *args], capture_output=True, text=True, cwd=tmp_path)
        one_line_error(done, args[1].split("=")[0])


def test_what_the_terminal_cannot_show_is_no_error():
    code = (
        "from dreamfusion_ngp import cli\ncli.run_verb = lambda args: print('caf\\xe9')\n"
        "cli.main(['generate', 'a red mug'])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == "caf\\xe9\n", done.stderr


def test_hostile_prompts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for prompt in (
        "a red mug\0",
        "x" * (1 << 20),
        "\ud800",
        "${HOME}",
        "%s%n",
        "../" * 50 + "mug",
        "‮red mug",
        "CON",
        "🦆",
    ):
        assert cli.main(["generate", prompt]) == 2, prompt[:20]
        error = capsys.readouterr().err
        assert error.startswith("error: ") and len(error) < 2000 and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu_says_why(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    one_line_error(command("generate", "a red mug", "--device", "cuda", cwd=tmp_path), "CUDA")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), ["No space left"]),
        (ModuleNotFoundError("No module named 'torch'"), ["torch", "doctor"]),
        (MemoryError(), ["memory"]),
        (RuntimeError("CUDA out of memory.\nTried to allocate"), ["memory"]),
    ],
)
def test_what_the_system_refuses_is_one_line(error, words, monkeypatch, capsys):
    def refuse(_):
        raise error

    monkeypatch.setattr(cli, "run_verb", refuse)
    assert cli.main(["generate", "a red mug", "--set=views=2"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ") and "\n" not in line and all(word in line for word in words)


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise ValueError("a defect")

    monkeypatch.setattr(cli, "run_verb", broken)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["generate", "a red mug"])


def test_unknown_flag_is_one_line_of_the_process_too(tmp_path):
    one_line_error(command("generate", "a red mug", "--stepz", "3", cwd=tmp_path), "--stepz")


def test_threads_are_the_cores_that_the_process_may_use(monkeypatch, restore_threads):
    import torch

    from dreamfusion_ngp.base.devices import set_threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 8}, raising=False)
    set_threads(None)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    "prompt", ["A red Mug.", "mug, red!", "the red mug, front view, clay", "  3D render of a toy mug, Red "]
)
def test_a_prompt_becomes_a_caption_that_the_embedded_prior_was_trained_with(prompt):
    from dreamfusion_ngp.runs.generate import check_prompt

    assert check_prompt(replace(fast(), prompt=prompt)).prompt == "a red mug"


def test_unwritable_output_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = command("generate", "a red mug", "--steps", "1", "-o", tmp_path / "file", cwd=tmp_path)
    one_line_error(done, "cannot write")


def test_override_reaches_nested_settings_and_checks_types():
    c = override(fast(), "render.step=0.5")
    assert c.render.step == 0.5 and c.field == fast().field
    assert override(c, 'field.blob=["none", 0, 1]').field.blob == ("none", 0.0, 1.0)
    assert override(c, "guidance.scale=7").guidance.scale == 7
    with pytest.raises(UsageError, match="RenderConfig.step"):
        override(c, "render.step=small")


@pytest.mark.parametrize(
    "words", [("--up", "z", "--front", "-y"), ("--front=-y", "--up=z"), ("--up", "z", "--front", "-Y")]
)
def test_an_axis_may_begin_with_a_minus(words):
    args = cli.build_parser().parse_args(["refine", "mug.obj", "a red mug", *words, "--steps", "3"])
    assert (args.up, args.front.lower(), args.steps) == ("z", "-y", 3)
    with pytest.raises(UsageError, match="--front: expected one argument"):
        cli.build_parser().parse_args(["refine", "mug.obj", "a red mug", "--front", "-o", "out"])
