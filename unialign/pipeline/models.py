"""Everything that `train.model` may name: its section of the configuration, the stores it reads, how it is prepared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from unialign.cache.errors import UsageError
from unialign.pipeline.preparation import Prepared
from unialign.pipeline.prepare_alt import prepare_alt
from unialign.pipeline.prepare_dvta import prepare_dvta
from unialign.pipeline.prepare_encoder import prepare_encoder
from unialign.pipeline.prepare_unialign import prepare_unialign
from unialign.stages.models.systems import SYSTEMS, checked_config


@dataclass(frozen=True)
class Model:
    """How one model is trained.

    section: of `train` and of a run's config.yaml, where its settings are. stores: (settings) -> modalities of the
    cache. prepare: as `prepare_unialign`.
    """

    section: str
    stores: Callable[[Mapping[str, Any]], tuple[str, ...]]
    prepare: Callable[..., Prepared]


def system_stores(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities that a system of `SYSTEMS` reads. Raises `UsageError` for bad settings."""
    system = SYSTEMS[name]
    return system.stores(checked_config(system.config, settings))


def the_model(name: str) -> Model:
    """The model of that name. Raises `UsageError` for an unknown one."""
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; known are {', '.join(MODELS)}.")
    return MODELS[name]


MODELS: dict[str, Model] = {
    "unialign": Model("unialign", partial(system_stores, "unialign"), prepare_unialign),
    "art": Model("art", partial(system_stores, "art"), partial(prepare_unialign, name="art")),
    "alt": Model("alt", partial(system_stores, "alt"), prepare_alt),
    "dvta": Model("dvta", partial(system_stores, "dvta"), prepare_dvta),
    "stgcn++": Model("encoder", lambda settings: ("poses",), prepare_encoder),
}
