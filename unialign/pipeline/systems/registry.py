"""The valid values of `train.model`: one row per system of this package, plus those of plug-ins.

Rows are read with the configuration, before torch is imported: a row holds the settings class but only the import path
of the system. Other distributions add rows as entry points of the group `unialign.systems`, see `plugins`.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unialign.errors import UsageError
from unialign.plugins import Table, told
from unialign.settings import Settings
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.art.config import ARTConfig
from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.skeleton.config import EncoderConfig, SkeletonConfig
from unialign.stages.models.unialign.config import UniAlignConfig

if TYPE_CHECKING:
    from unialign.pipeline.systems.base import System


@dataclass(frozen=True)
class SystemRow:
    """A system by its name in `train.model`.

    config: its settings, a frozen pydantic model (`unialign.settings.Settings`); its module should not import torch, so
    that configuration errors are reported immediately. system: "module:name" of its `base.System`, imported when it is
    trained or evaluated. section: key of the settings in `train` and in a run's config.yaml; default: the name with
    hyphens replaced by underscores.
    """

    config: type[Settings]
    system: str
    section: str = ""


SYSTEMS: Table[SystemRow] = Table(
    "unialign.systems",
    SystemRow,
    {
        "unialign": SystemRow(UniAlignConfig, "unialign.pipeline.systems.unialign:UNIALIGN"),
        "art": SystemRow(ARTConfig, "unialign.pipeline.systems.art:ART"),
        "alt": SystemRow(ALTConfig, "unialign.pipeline.systems.alt:ALT"),
        "dvta": SystemRow(DVTAConfig, "unialign.pipeline.systems.dvta:DVTA"),
        "stgcn++": SystemRow(EncoderConfig, "unialign.pipeline.systems.encoder:ENCODER", "encoder"),
        "skeleton": SystemRow(SkeletonConfig, "unialign.pipeline.systems.skeleton:SKELETON"),
    },
)


def get_row(name: str) -> SystemRow:
    """The row with that name. Raises `UsageError` for an unknown name and for a plug-in that cannot be loaded."""
    if name not in SYSTEMS:
        raise UsageError(f"there is no model {name!r}; known are {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def get_system(name: str) -> "System":
    """The system with that name; imports its training code. Raises `UsageError` as `get_row` does."""
    from unialign.pipeline.systems.base import System

    place = get_row(name).system
    try:
        found = pkgutil.resolve_name(place)
    except Exception as error:
        if name in SYSTEMS.own:
            raise
        raise UsageError(f"the system {name!r} cannot be imported from {place}: {told(error)}.") from error
    if not isinstance(found, System):
        raise UsageError(f"the system {name!r}: {place} is a {type(found).__name__}, not a System.")
    return found


def section_of(name: str) -> str:
    """The key of a system's settings in `train` and in a run's config.yaml."""
    return get_row(name).section or _section(name)


def sections_of(values: Mapping[str, Any]) -> dict[str, type[Settings]]:
    """The settings classes of the systems that `train` may configure, by section: our own and plug-ins in use.

    Raises `UsageError` for an unknown `model`, and for a plug-in in use that cannot be loaded.
    """
    names = list(SYSTEMS.own)
    model = values.get("model")
    if isinstance(model, str) and model not in names:
        names.append(model)
    # Plug-ins that are not mentioned are not imported; their sections are recognized by name only.
    names += [name for name in SYSTEMS.plugins() if name != model and _section(name) in values]
    return {section_of(name): get_row(name).config for name in names}


def _section(name: str) -> str:
    # Configuration keys have no hyphens.
    return name.replace("-", "_")
