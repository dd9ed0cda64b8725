"""The public face of the package: quick to import, every name there, folders that are verbs."""

import subprocess
import sys

import pytest

import dreamfusion_ngp

VERBS = ("generate", "resume", "render", "export", "evaluate")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_is_quick_and_loads_no_torch():
    """In seconds of a core, which a busy machine does not lengthen; the best of three."""
    code = (
        "import sys, time; began = time.process_time(); import dreamfusion_ngp\n"
        "print(time.process_time() - began, 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    seconds, heavy = zip(*(python(code).split() for _ in range(3)), strict=True)
    assert min(map(float, seconds)) < 0.1 and set(heavy) == {"False"}


@pytest.mark.parametrize("name", dreamfusion_ngp.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dreamfusion_ngp, name) is not None and name in dir(dreamfusion_ngp)


@pytest.mark.parametrize("first", ["pass", "import dreamfusion_ngp.render.volume, dreamfusion_ngp.export.meshes"])
def test_a_verb_can_be_called_whatever_was_imported_before(first):
    code = (
        f"{first}\nfrom dreamfusion_ngp import {', '.join(VERBS)}\nimport dreamfusion_ngp.render.volume as volume\n"
        f"for verb in ({', '.join(VERBS)}): assert callable(verb), verb\n"
        "from dreamfusion_ngp import DreamfusionError\n"
        "for verb in (render, export):\n"
        "    try: verb('no-such-run')\n"
        "    except DreamfusionError as error: print(error)"
    )
    lines = python(code).splitlines()
    assert len(lines) == 2 and all("no-such-run" in line for line in lines)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'generata'"):
        _ = dreamfusion_ngp.generata


def test_the_log_is_quiet_by_itself_and_shown_by_the_command_line(capsys):
    import logging

    from dreamfusion_ngp.cli.log import shown_log

    log = logging.getLogger("dreamfusion_ngp.runs.test")
    for results_only in (False, True):
        with shown_log(results_only):
            log.info("wrote %s", "a file")
            log.warning("no room")
        found = capsys.readouterr()
        assert found.err == ("wrote a file\n" if results_only else "") + "warning: no room\n"
        assert found.out == ("" if results_only else "wrote a file\n")
    log.info("nobody asked")
    assert capsys.readouterr() == ("", "")
