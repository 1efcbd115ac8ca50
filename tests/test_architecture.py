"""The rules of docs/architecture.md, read from the syntax tree: imports, writers, lengths of functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unialign"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = ("cache", "stages", "pipeline", "commands")
MAX_FUNCTION = 60

# Names that one place owns: import name -> modules that may use it.
OWNED = {
    "zarr": ("cache/",),
    "av": ("stages/video.py",),
    "dask": ("pipeline/extraction/executors.py",),
    "distributed": ("pipeline/extraction/executors.py",),
    "pickle": ("stages/datasets/pickles.py",),
    "ultralytics": ("stages/extraction/ultralytics_pose.py",),
    "typer": ("cli.py", "commands/"),
    "rich": ("console.py",),
}
NO_TORCH = (
    "cache/",
    "stages/datasets/",
    "stages/demo/",
    "cli.py",
    "commands/",
    "console.py",
    "pipeline/extraction/extract.py",
)
WRITERS = {
    "rename",
    "unlink",
    "rmtree",
    "rmdir",
    "write_text",
    "write_bytes",
    "remove",
    "removedirs",
    "mkdir",
    "makedirs",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    tree = syntax(path)
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def layer(name: str) -> int:
    return {"errors": 0, "types": 0, "plugins": 0, "cache": 1, "stages": 2, "pipeline": 3}.get(
        name.split("/")[0].removesuffix(".py"), 4
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers_import_downwards_only(path: Path) -> None:
    for module in imports(path):
        if module.startswith("unialign."):
            target = module.removeprefix("unialign.").replace(".", "/")
            assert layer(target) <= layer(name_of(path)), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_models_know_no_files_and_datasets_no_extraction(path: Path) -> None:
    name = name_of(path)
    found = set(imports(path))
    if name.startswith("stages/models/"):
        forbidden = (
            "unialign.cache.reader",
            "unialign.cache.store",
            "unialign.cache.atomic",
            "unialign.stages.datasets",
        )
        assert not [module for module in found if module.startswith((*forbidden, "unialign.stages.extraction"))]
    if name.startswith("stages/datasets/"):
        assert not [
            module for module in found if module.startswith(("unialign.stages.extraction", "unialign.stages.models"))
        ]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_owned_libraries_stay_with_their_owner(path: Path) -> None:
    name = name_of(path)
    for module in imports(path):
        owners = OWNED.get(module.split(".")[0])
        assert owners is None or name.startswith(owners), f"{name} imports {module}"
        if name.startswith(NO_TORCH):
            assert module.split(".")[0] not in {"torch", "torchvision"}, f"{name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_atomic_module_writes_renames_or_deletes(path: Path) -> None:
    if name_of(path) == "cache/atomic.py":
        return
    for node in ast.walk(syntax(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        if called in WRITERS and owner not in {"atomic", "self"} and isinstance(node.func, ast.Attribute):
            pytest.fail(f"{name_of(path)}:{node.lineno} calls {owner}.{called}; cache/atomic.py does that")
        if called == "open" and owner != "av":
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            modes += [
                key.value.value for key in node.keywords if key.arg == "mode" and isinstance(key.value, ast.Constant)
            ]
            assert not any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes), (
                f"{path}:{node.lineno} opens for writing"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_code_from_data(path: Path) -> None:
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            assert not (node.arg == "allow_pickle" and node.value.value), f"{path}:{node.value.lineno}"
            if node.arg == "weights_only" and not node.value.value:
                assert name_of(path) == "stages/extraction/ultralytics_pose.py", f"{path}:{node.value.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} bare except"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.FunctionDef) and not name_of(path).startswith("commands/"):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name_of(path)}: {node.name} has {length} lines"
            num_arguments = len(node.args.args) + len(node.args.kwonlyargs)
            limit = 16 if node.name == "__init__" else 10
            assert num_arguments <= limit, f"{name_of(path)}: {node.name} takes {num_arguments} arguments"


def test_there_is_no_import_cycle() -> None:
    graph = {
        "unialign." + name_of(path).removesuffix(".py").replace("/", "."): {
            module for module in imports(path, lazy=False) if module.startswith("unialign.")
        }
        for path in FILES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module in done or module not in graph:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_help_answers_without_a_network_library() -> None:
    code = (
        "import sys; sys.argv = ['unialign', '--help']\n"
        "from unialign.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'ultralytics', 'open_clip', 'timm', 'zarr', 'dask', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "extract" in done.stdout
