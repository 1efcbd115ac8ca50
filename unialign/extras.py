"""The optional parts of an installation: which extra brings a library, and which one a command needs.

What an extra holds is read from the metadata of the installed package, so pyproject.toml is the only list.
"""

import importlib.metadata
import re

from unialign.errors import UsageError

# Modules whose distribution is called otherwise; all others differ in "-" and "_" at most.
_DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# What is offered where a command's own extra does not bring a library, the smallest first.
_OFFERED = (
    "remote",
    "extract",
    "train",
    "all",
    "slurm",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "torchcodec",
    "ultralytics",
    "wandb",
    "mlflow",
    "trackio",
)
# By the first word of a command, which is also the name of the function in Python. Commands that are not here only read
# stores, or need a library in one of their forms.
_NEEDS = {
    "extract": ("extract", "corpus"),
    "train": (
        "train",
        "ablate",
        "evaluate",
        "report",
        "browse",
        "baseline",
        "models",
        "why",
        "results",
        "runs",
        "batches",
        "dataset",
    ),
    "all": ("demo", "init", "run", "predict", "load_model", "export"),
}


def extra_of(command: str) -> str:
    """The extra that a command or function needs, by its first word; "" if none or only some of its forms need one."""
    return next((extra for extra, commands in _NEEDS.items() if command in commands), "")


def distribution_of(module: str) -> str:
    """The distribution that a module or package is installed with, as far as its name tells."""
    top = module.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top).lower().replace("_", "-")


def contents(extra: str) -> tuple[str, ...]:
    """Names of the distributions of an extra, with those of extras inside it; of "", what is always installed.

    Normalized as pip does; () for an unknown extra.
    """
    found: list[str] = []
    for requirement, belongs in _requirements():
        if belongs != extra:
            continue
        inner = re.match(r"unialign\[([\w,-]+)\]", requirement)
        names = [name for each in inner[1].split(",") for name in contents(each)] if inner else [_name(requirement)]
        found += [name for name in names if name not in found]
    return tuple(found)


def absent(extra: str) -> list[str]:
    """Distributions of an extra that are not installed."""
    return [name for name in contents(extra) if not _installed(name)]


def how_to_install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'unialign[{extra}]'"


def missing_extra(error: ModuleNotFoundError, command: str) -> UsageError | None:
    """What to say instead of an import that failed: which extra to install; None if no extra brings that module.

    command: as people write it, "unialign train". The extra that the command needs comes before others that have it.
    """
    wanted = distribution_of(error.name or "")
    having = [extra for extra in _OFFERED if wanted in contents(extra)]
    if not having:
        return None
    own = extra_of(re.split(r"[ .]", f"{command} ")[1])
    return UsageError(
        f"`{command}` needs {wanted}, which is not installed; install it with: "
        f"{how_to_install(own if own in having else having[0])}."
    )


def _requirements() -> list[tuple[str, str]]:
    """Each requirement of this package with the extra that it belongs to, "" for those of every installation."""
    try:
        lines = importlib.metadata.requires("unialign") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", marker)
        found.append((requirement.strip(), extra[1] if extra else ""))
    return found


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
