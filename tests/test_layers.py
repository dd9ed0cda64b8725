"""The order of the modules, and the calls that the package never makes, read from its sources."""

import ast
from functools import cache
from pathlib import Path

import pytest

import dreamfusion_ngp

PACKAGE = Path(dreamfusion_ngp.__file__).parent

# A module imports only from folders above its own, and inside one freely as long as there is no cycle.
LAYERS = """
base
config
hub ops
scene
render
guidance
optimise
export
importer
toybox
runs
evaluation doctor
bench
experiments
cli
__main__
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}

HEAVY = {
    "diffusers",
    "transformers",
    "huggingface_hub",
    "skimage",
    "trimesh",
    "xatlas",
    "fast_simplification",
    "imageio_ffmpeg",
    "rich",
}
# Rooms and modules that the command line reads before it knows whether torch is needed.
TORCH_FREE = (
    {"__init__", "__main__", "config", "hub", "doctor", "cli"}
    | {f"base.{name}" for name in ("errors", "characters", "console", "files", "cache", "native")}
    | {"export.formats"}
)
# What a bench may compare with where it is installed, in functions alone.
PEERS = {"bench.peers.cuda": {"nerfacc"}, "bench.peers.cuda_rasterisers": {"nvdiffrast"}}
FORBIDDEN_IMPORTS = {"pickle", "yaml", "torchvision", "xformers", "nerfacc", "nvdiffrast"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.hub.load", "os.system", "marshal.loads"}

MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


def tree(module: str) -> ast.Module:
    return parsed(MODULES[module])


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str, nodes) -> set[str]:
    """Absolute dotted names that these nodes import, from this package or another."""
    package = ["dreamfusion_ngp", *module.split(".")[:-1]]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_imports(module: str) -> set[str]:
    """Modules of this package that the module imports anywhere, as "ops.field"; names inside modules are cut off."""
    found = set()
    for name in imports(module, ast.walk(tree(module))):
        parts = name.split(".")
        if parts[0] != "dreamfusion_ngp":
            continue
        while parts[1:] and ".".join(parts[1:]) not in MODULES and ".".join([*parts[1:], "__init__"]) not in MODULES:
            parts.pop()
        found.add(".".join(parts[1:]) or "__init__")
    return found - {module}


def top_level(module: str):
    """The statements that run when the module is imported: its body without that of functions."""
    pending = list(tree(module).body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_layers_above(module):
    home = module.split(".")[0]
    if home == "__init__":
        own = {name for name in imports(module, top_level(module)) if name.startswith("dreamfusion_ngp.")}
        assert own == {"dreamfusion_ngp.base.errors.DreamfusionError"}, "the rest is loaded at first use"
        return
    assert home in RANK, f"{module} has no place in LAYERS"
    for name in own_imports(module) - {"__init__"}:
        other = name.split(".")[0]
        assert other == home or RANK[other] < RANK[home], f"{module} imports {name}, which is not above it"


@pytest.mark.parametrize("folder", sorted({m.split(".")[0] for m in MODULES if "." in m}))
def test_no_cycle_inside_a_folder(folder):
    inside = {m for m in MODULES if m.startswith(folder + ".")}
    edges = {m: own_imports(m) & inside for m in inside}
    while edges:
        leaves = {m for m, targets in edges.items() if not targets & edges.keys()}
        assert leaves, f"modules that import each other: {sorted(edges)}"
        edges = {m: targets for m, targets in edges.items() if m not in leaves}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_imports_wait_until_they_are_needed(module):
    banned = HEAVY | ({"torch"} if {module, module.split(".")[0]} & TORCH_FREE else set())
    early = {name.split(".")[0] for name in imports(module, top_level(module))}
    banned = banned | PEERS.get(module, set())
    assert not early & banned, f"{module} imports {early & banned} at its top"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_runs_code_from_data_or_hides_divergence(module):
    names = {name.split(".")[0] for name in imports(module, ast.walk(tree(module)))}
    assert not names & (FORBIDDEN_IMPORTS - PEERS.get(module, set()))
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_CALLS and called.split(".")[-1] != "nan_to_num", f"{module}: {called}"
        flags = {keyword.arg for keyword in node.keywords if ast.unparse(keyword.value) != "False"}
        assert not flags & {"shell", "trust_remote_code"}, f"{module}: {called} with {flags}"


def test_the_rules_catch_what_they_are_for(tmp_path, monkeypatch):
    offender = tmp_path / "config.py"
    offender.write_text(
        "import diffusers\nfrom .ops import field\nfrom . import doctor\ndef f():\n    from .cli import main\n"
    )
    monkeypatch.setitem(MODULES, "config", offender)
    monkeypatch.setitem(MODULES, "cli", offender)
    monkeypatch.setitem(MODULES, "doctor", offender)
    monkeypatch.setitem(MODULES, "ops.field", offender)
    assert own_imports("config") == {"ops.field", "doctor", "cli"}
    with pytest.raises(AssertionError, match="is not above it"):
        test_imports_only_from_layers_above("config")
    with pytest.raises(AssertionError, match="diffusers"):
        test_heavy_imports_wait_until_they_are_needed("config")


def test_every_folder_of_modules_is_a_package():
    for path in MODULES.values():
        assert (path.parent / "__init__.py").exists(), f"{path.parent} would be left out of the wheel"


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_small(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{module}.{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_modules_of_tests_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
