"""Every test module stands alone: read from their sources, what would make one lean on another that ran before it."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MODULES = {path.name: path.read_text(encoding="utf-8") for path in sorted(HERE.rglob("test_*.py"))}
SHARED = ("sys.path", "os.environ")  # belongs to all modules: a fixture changes it or nobody
STARTERS = {"spawn", "run_group", "Process", "train_prior"}  # their processes find a function by its module's name


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def changes_what_all_share(tree: ast.Module) -> list[str]:
    """Statements that run when the module is collected and change what belongs to all."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = ast.unparse(node.value.func)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
            target = ast.unparse(node.targets[0] if hasattr(node, "targets") else node.target)
        else:
            continue
        found += [ast.unparse(node)] if target.startswith(SHARED) else []
    return found


def handed_to_processes(tree: ast.Module) -> set[str]:
    """Functions and classes of this module among the arguments of a call that starts processes."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] not in STARTERS:
            continue
        keywords = {keyword.arg for keyword in node.keywords}
        if ast.unparse(node.func).endswith("train_prior") and "processes" not in keywords:
            continue
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        found |= own & {name.id for value in values for name in ast.walk(value) if isinstance(name, ast.Name)}
    return found


def leaning(source: str) -> list[str]:
    tree = ast.parse(source)
    others = [name for name in imported(tree) if name.split(".")[0].startswith(("test_", "tests", "conftest"))]
    return [
        *(f"imports {name}" for name in others),
        *changes_what_all_share(tree),
        *(f"hands {name} to another process" for name in handed_to_processes(tree)),
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_leans_on_no_other(module):
    assert not leaning(MODULES[module])


@pytest.mark.parametrize(
    "source",
    [
        "from test_train import TINY",
        "import tests.test_train as other",
        "import sys\nsys.path.append('..')",
        "import os\nos.environ['X'] = '1'",
        "def score(prior):\n    return {}\ndef test():\n    train_prior(1, 2, score=score, processes=2)",
        "def work(rank):\n    pass\ndef test():\n    torch.multiprocessing.spawn(work, nprocs=2)",
    ],
)
def test_the_rules_catch_what_they_are_for(source):
    assert leaning(source)
    assert not leaning(
        "def test(monkeypatch):\n    monkeypatch.setattr(sys, 'path', [])\n    train_prior(1, score=test)"
    )
