"""The errors a user can cause or meet: each is one clear line and an exit code, never a traceback.

Ops raise ValueError / TypeError that name the argument; everything else that a user can see derives from here.
"""

from contextlib import contextmanager


class DreamfusionError(Exception):
    """Base of all errors that the command line prints as one line; `exit_code` is the process's exit status."""

    exit_code = 2


class UsageError(DreamfusionError):
    """A flag, a value or a path that cannot be used as asked."""


class PromptError(UsageError):
    """A prompt that is empty, too long, or uses words that the chosen prior does not know."""


class NativeError(DreamfusionError):
    """The native module, or its CUDA half, is not there; the message says why and what to do."""


class CheckpointError(DreamfusionError):
    """A checkpoint or its config is missing, damaged, or was written by something else."""


class DivergenceError(DreamfusionError):
    """The optimisation produced a non-finite number; the message names the step and the term."""


class OutputError(DreamfusionError):
    """A file of a run could not be written: the disk is full, the folder is gone or not ours."""


class ExportError(DreamfusionError):
    """A mesh, texture or video could not be made or written."""


class MeshError(DreamfusionError):
    """A mesh file is missing, damaged, or holds something unsupported; the message names the file and the reason."""


class PriorError(DreamfusionError):
    """The diffusion prior is missing, incomplete, or of an unsupported kind."""


@contextmanager
def writing(path):
    """Turn an OSError of the block, which writes `path`, into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
