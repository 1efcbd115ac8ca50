"""The rules of docs/architecture.md, read from the syntax tree: imports, writers, lengths of functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unialign"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION = 60

# Names that one place owns: import name -> modules that may use it.
OWNED = {
    "zarr": ("cache/",),
    "av": ("stages/video.py",),
    "dask": ("pipeline/extraction/executors.py", "pipeline/extraction/clusters.py"),
    "dask_jobqueue": ("pipeline/extraction/clusters.py",),
    "distributed": (
        "pipeline/extraction/executors.py",
        "pipeline/extraction/clusters.py",
        "pipeline/ablation/cluster_trials.py",
    ),
    # Files of others, and messages between processes of one program.
    "pickle": ("stages/datasets/pickles.py", "pipeline/extraction/channel.py"),
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
    return {
        "errors": 0,
        "extras": 0,
        "types": 0,
        "settings": 0,
        "words": 0,
        "plugins": 0,
        "cache": 1,
        "stages": 2,
        "pipeline": 3,
    }.get(name.split("/")[0].removesuffix(".py"), 4)


def test_layers_import_downwards_only() -> None:
    assert not [
        f"{name_of(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        if module.startswith("unialign.")
        and layer(module.removeprefix("unialign.").replace(".", "/")) > layer(name_of(path))
    ]


def test_models_know_no_files_and_datasets_no_extraction() -> None:
    forbidden = {
        "stages/models/": (
            "unialign.cache.reader",
            "unialign.cache.store",
            "unialign.cache.atomic",
            "unialign.stages.datasets",
            "unialign.stages.extraction",
        ),
        "stages/datasets/": ("unialign.stages.extraction", "unialign.stages.models"),
    }
    assert not [
        f"{name_of(path)} imports {module}"
        for path in FILES
        for folder, modules in forbidden.items()
        if name_of(path).startswith(folder)
        for module in imports(path)
        if module.startswith(modules)
    ]


def test_owned_libraries_stay_with_their_owner() -> None:
    wrong = []
    for path in FILES:
        name = name_of(path)
        for module in imports(path):
            library = module.split(".")[0]
            heavy = name.startswith(NO_TORCH) and library in {"torch", "torchvision"}
            if heavy or not name.startswith(OWNED.get(library, "")):
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_only_the_atomic_module_writes_renames_or_deletes() -> None:
    assert not [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(syntax(path))
        if name_of(path) != "cache/atomic.py" and isinstance(node, ast.Call) and writes(node)
    ]


def writes(call: ast.Call) -> bool:
    """Whether a call renames or deletes, or opens a file for writing, other than through the atomic module."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if called in WRITERS and isinstance(call.func, ast.Attribute):
        return owner not in {"atomic", "self"}
    if called != "open" or owner == "av":
        return False
    given = [*call.args, *(key.value for key in call.keywords if key.arg == "mode")]
    modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)


def test_nothing_runs_code_from_data() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{name_of(path)}:{node.lineno} bare except")
            if not (isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant)):
                continue
            pickles = node.arg == "allow_pickle" and node.value.value
            unpickles = node.arg == "weights_only" and not node.value.value
            if pickles or (unpickles and name_of(path) != "stages/extraction/ultralytics_pose.py"):
                wrong.append(f"{name_of(path)}:{node.value.lineno} {node.arg}")
    assert not wrong


def test_functions_stay_short() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(syntax(path)):
            if not isinstance(node, ast.FunctionDef) or name_of(path).startswith("commands/"):
                continue
            length = (node.end_lineno or 0) - node.lineno + 1
            num_arguments = len(node.args.args) + len(node.args.kwonlyargs)
            if length > MAX_FUNCTION or num_arguments > (16 if node.name == "__init__" else 10):
                wrong.append(f"{name_of(path)}: {node.name} has {length} lines, {num_arguments} arguments")
    assert not wrong


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
