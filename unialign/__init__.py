"""unialign: a two-stage offline feature cache and trainer for fine-grained action recognition.

    import unialign as ua

    store = ua.open_store("cache/demo/poses/skeleton-0123456789ab.zarr")
    for batch in ua.batches([store], batch_size=64, window=32):
        ...

What can be imported from here is listed in `__all__` and described in docs/python.md; everything below the package is
internal and may move. Importing it loads neither torch nor zarr: each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "unialign.api": (
        "ablate",
        "batches",
        "dataset",
        "evaluate",
        "extract",
        "list_stores",
        "load_dataset",
        "load_model",
        "open_store",
        "report",
        "train",
    ),
    "unialign.cache.writing": ("write_store",),
    "unialign.cache.arrays": ("ArraySpec",),
    "unialign.pipeline.extraction.row": ("ExtractorRow", "PreparedExtraction"),
    "unialign.stages.datasets.base": ("Dataset", "Sample", "Split"),
    "unialign.stages.datasets.catalog": ("DatasetRow",),
    "unialign.stages.extraction.base": ("Extractor", "Outcome", "Source"),
    "unialign.pipeline.systems.base": ("System",),
    "unialign.pipeline.systems.registry": ("SystemRow",),
    "unialign.settings": ("Settings",),
    "unialign.stages.training.trackers": ("TrackedRun", "TrackerRow"),
    "unialign.stages.extraction.text_network": ("EncoderRow", "TextEncoder"),
    "unialign.errors": (
        "CacheProblem",
        "CorruptInput",
        "DamagedStore",
        "LockedStore",
        "MissingCache",
        "StaleCache",
        "UnialignError",
        "UsageError",
    ),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}

if TYPE_CHECKING:
    from unialign.api import ablate as ablate
    from unialign.api import batches as batches
    from unialign.api import dataset as dataset
    from unialign.api import evaluate as evaluate
    from unialign.api import extract as extract
    from unialign.api import list_stores as list_stores
    from unialign.api import load_dataset as load_dataset
    from unialign.api import load_model as load_model
    from unialign.api import open_store as open_store
    from unialign.api import report as report
    from unialign.api import train as train
    from unialign.cache.arrays import ArraySpec as ArraySpec
    from unialign.cache.writing import write_store as write_store
    from unialign.errors import CacheProblem as CacheProblem
    from unialign.errors import CorruptInput as CorruptInput
    from unialign.errors import DamagedStore as DamagedStore
    from unialign.errors import LockedStore as LockedStore
    from unialign.errors import MissingCache as MissingCache
    from unialign.errors import StaleCache as StaleCache
    from unialign.errors import UnialignError as UnialignError
    from unialign.errors import UsageError as UsageError
    from unialign.pipeline.extraction.row import ExtractorRow as ExtractorRow
    from unialign.pipeline.extraction.row import PreparedExtraction as PreparedExtraction
    from unialign.pipeline.systems.base import System as System
    from unialign.pipeline.systems.registry import SystemRow as SystemRow
    from unialign.settings import Settings as Settings
    from unialign.stages.datasets.base import Dataset as Dataset
    from unialign.stages.datasets.base import Sample as Sample
    from unialign.stages.datasets.base import Split as Split
    from unialign.stages.datasets.catalog import DatasetRow as DatasetRow
    from unialign.stages.extraction.base import Extractor as Extractor
    from unialign.stages.extraction.base import Outcome as Outcome
    from unialign.stages.extraction.base import Source as Source
    from unialign.stages.extraction.text_network import EncoderRow as EncoderRow
    from unialign.stages.extraction.text_network import TextEncoder as TextEncoder
    from unialign.stages.training.trackers import TrackedRun as TrackedRun
    from unialign.stages.training.trackers import TrackerRow as TrackerRow

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unialign' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
