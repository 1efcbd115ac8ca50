"""Everything that `train.model` may name: a row for each system of this package, and those of plug-ins.

Rows are read with the configuration, before torch is imported: a row holds the class of the settings, and only names
the system. A distribution of its own adds a row as an entry point of the group `unialign.systems`, see `plugins`.
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

    config: its settings, a frozen pydantic model (`unialign.settings.Settings`); its module must not import torch, if
    mistakes in a configuration are to be told at once. system: "module:name" of its `base.System`, which is imported
    when it is trained or evaluated. section: of `train` and of a run's config.yaml, where the settings are; by default
    the name, with _ for each hyphen.
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
    """The row of that name. Raises `UsageError` for an unknown one and for a plug-in that cannot be loaded."""
    if name not in SYSTEMS:
        raise UsageError(f"there is no model {name!r}; known are {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def get_system(name: str) -> "System":
    """The system of that name; imports what it is trained with. Raises `UsageError` as `get_row` does."""
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
    """Where the settings of a system are: a key of `train`, and of a run's config.yaml."""
    return get_row(name).section or _section(name)


def sections_of(values: Mapping[str, Any]) -> dict[str, type[Settings]]:
    """The settings of systems that the values of `train` hold, by section: our own, and those of plug-ins in use.

    Raises `UsageError` for an unknown `model`, and for a plug-in in use that cannot be loaded.
    """
    names = list(SYSTEMS.own)
    model = values.get("model")
    if isinstance(model, str) and model not in names:
        names.append(model)
    # Importing none that is not named: their sections are known only by their names.
    names += [name for name in SYSTEMS.plugins() if name != model and _section(name) in values]
    return {section_of(name): get_row(name).config for name in names}


def _section(name: str) -> str:
    # As all keys of the configuration: no hyphens.
    return name.replace("-", "_")
