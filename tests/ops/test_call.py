"""How kernels are called: the stub names what the module has, and a wrong argument is named, not read."""

import ast
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreamfusion_ngp.base.native import PACKAGE, native
from dreamfusion_ngp.ops import call, field
from dreamfusion_ngp.ops.call import launch

STUB = ast.parse((Path(PACKAGE) / "_C.pyi").read_text())
FUNCTIONS = {node.name: node.args for node in STUB.body if isinstance(node, ast.FunctionDef)}
KERNELS = {name for name, arguments in FUNCTIONS.items() if arguments.posonlyargs}


def test_the_stub_has_the_names_of_the_module():
    named = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)} - {"Address"}
    named |= {node.name for node in STUB.body if isinstance(node, ast.ClassDef)} | FUNCTIONS.keys()
    assert named == {name for name in dir(native()) if not name.startswith("__")}


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_stub_has_the_arguments_of_a_kernel(kernel):
    """The docstring of a kernel is its signature and the names that DFN_FIELDS lists."""
    listed = getattr(native(), kernel).__doc__.strip().splitlines()[-1]
    assert [argument.arg for argument in FUNCTIONS[kernel].kwonlyargs] == listed.split(", ")


ADAM = dict.fromkeys(("param", "grad", "exp_avg", "exp_avg_sq", "nonfinite", "factors"))
ADAM |= dict(n=0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"param": ...}, "adam: missing argument param"),
        ({"n": ...}, "adam: missing argument n"),
        ({"lr": 0.1}, "adam: unknown argument lr"),
        ({"n": "3"}, "adam: argument n is of another type"),
        ({"param": 1.5}, "adam: argument param is of another type"),
    ],
)
def test_a_wrong_argument_of_a_kernel_is_named(change, message):
    arguments = {name: value for name, value in (ADAM | change).items() if value is not ...}
    with pytest.raises(TypeError, match=f"^{message}$"):
        launch("adam", torch.empty(0), **arguments)


def test_torch_makes_the_device_of_a_kernel_current(monkeypatch):
    """So the CUDA runtime never has to go back to a GPU that is not in use, which would take memory there."""
    current, seen = [0], []

    @contextmanager
    def device(there):
        current.append(there.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda there: SimpleNamespace(cuda_stream=0x5EED))
    kernels = SimpleNamespace(adam=lambda *place, **arguments: seen.append((current[-1], *place)))
    monkeypatch.setattr(call, "backend", lambda where: kernels)
    launch("adam", SimpleNamespace(is_cuda=True, device=torch.device("cuda", 1), dtype=torch.float32))
    assert seen == [(1, False, 1, 0x5EED, 1)] and current == [0]


def test_a_hidden_layer_that_no_kernel_holds_is_refused():
    """The check of the public function may be bypassed through torch.ops."""
    layout = (1, 2, 3, 1, 1, "linear", "native")
    network = [torch.zeros(shape) for shape in ((8, 2), (129, 2), (129,), (4, 129), (4,), (1,))]
    with pytest.raises(ValueError, match="hidden: too many units"):
        field._field(torch.zeros(3, 3), *network, *layout, 1.0, 0, 0.0, 1.0, False, None, None)


def test_a_tensor_that_nobody_else_holds_lives_until_the_kernel_returns(monkeypatch):
    found = []
    kernels = SimpleNamespace(adam=lambda *place, **arguments: found.append(scratch()))
    monkeypatch.setattr(call, "backend", lambda where: kernels)
    held = [torch.empty(3)]
    scratch = weakref.ref(held[0])
    launch("adam", torch.empty(0), param=held.pop())
    assert found[0] is not None
