"""What one command depends on, for `unialign doctor COMMAND`: its extra, the files and stores it reads, and room."""

import importlib.util
import shutil
from collections.abc import Sequence

from unialign.cache.inventory import iterate_stores
from unialign.extras import absent, extra_of, how_to_install
from unialign.pipeline.config import Config
from unialign.pipeline.doctor import checks_of, existing_folder
from unialign.types import Json

# What an extraction reads from outside the cache, as checks of the doctor.
FILES = {
    "poses": ("data root", "pose network", "pose weights"),
    "pose-features": ("skeleton encoder",),
    "text": ("embedded text encoder",),
    "frames": ("data root",),
}


def needs(config: Config, command: Sequence[str]) -> list[Json]:
    """Checks, as those of the doctor: [{"check", "ok", "advice"}]. command: its words, such as ("extract", "poses").

    Raises `UsageError` for an unknown modality or system.
    """
    extra = extra_of(command[0])
    lacking = absent(extra) if extra else []
    files, modalities = _inputs(config, command)
    known = {str(check["check"]): check for check in checks_of(config)}
    stores = {path.parts[-2] for path in iterate_stores(config.cache.resolve())}
    parent = existing_folder(config)
    free = shutil.disk_usage(parent).free
    measured = f"; `unialign {' '.join(command)} --dry-run` measures what it takes" if command[0] == "extract" else ""
    rows = [
        *(
            [(f"extra {extra}", not lacking, f"{how_to_install(extra)}; it lacks {', '.join(lacking)}")]
            if extra
            else []
        ),
        *((name, known[name]["ok"], known[name]["advice"]) for name in files),
        *((f"store of {each}", each in stores, f"make it with `unialign extract {each}`") for each in modalities),
        (f"{free / 1e9:,.1f} GB free under {parent}", free > 10**9, f"less than 1 GB is left{measured}"),
    ]
    return [{"check": name, "ok": ok, "advice": "" if ok else advice} for name, ok, advice in rows]


def _inputs(config: Config, command: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The checks of files, and the modalities, that a command reads."""
    match tuple(command):
        case ("extract", "all"):
            return tuple(dict.fromkeys((*_files(config, "poses"), *FILES["text"]))), ()
        case ("extract", name):
            from unialign.pipeline.extraction.extractors import get_row

            made_from = get_row(name).made_from
            return _files(config, name), (made_from,) if made_from else ()
        case ("run", *_) if importlib.util.find_spec("torch"):
            from unialign.pipeline.end_to_end import with_inputs
            from unialign.pipeline.systems.registry import get_system, section_of

            model = config.train.model
            read = with_inputs(list(get_system(model).stores(getattr(config.train, section_of(model)))))
            # It trains the skeleton encoder itself.
            extracted = [name for name in read if name != "pose-features"]
            return tuple(dict.fromkeys(file for name in extracted for file in _files(config, name))), ()
        case ("train" | "ablate", *_) if importlib.util.find_spec("torch"):
            from unialign.pipeline.systems.registry import get_system, section_of

            model = config.train.model
            return (), get_system(model).stores(getattr(config.train, section_of(model)))
    return (), ()


def _files(config: Config, name: str) -> tuple[str, ...]:
    if name == "poses" and config.extract.poses.source == "skeleton":
        return ("data root",)
    return FILES.get(name, ())
