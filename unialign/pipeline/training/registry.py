"""Everything that `train.model` may name: its section of the configuration, the stores it reads, how it is prepared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unialign.errors import DamagedStore, UsageError
from unialign.pipeline.training.initial_weights import NOTHING, ClassSpecificWeights, check_no_start, started
from unialign.pipeline.training.preparation import Options, PreparedRun
from unialign.pipeline.training.prepare_alt import check_start, prepare_alt
from unialign.pipeline.training.prepare_dvta import chosen_on_held_out, prepare_dvta
from unialign.pipeline.training.prepare_encoder import prepare_encoder
from unialign.pipeline.training.prepare_unialign import prepare_unialign
from unialign.pipeline.training.run_folder import read_config
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.splits import few_shots
from unialign.stages.datasets.validation import Validation, with_validation
from unialign.stages.models.systems import SYSTEMS, checked_config
from unialign.stages.training.settings import TrainSettings, settings_from


@dataclass(frozen=True)
class Model:
    """How one model is trained.

    section: of `train` and of a run's config.yaml, where its settings are. stores: (settings) -> modalities of the
    cache. prepare: as `prepare_unialign`. own: what a training that starts from a run does not take from it.
    check: (settings, options) -> raises `UsageError` for a training that makes no sense, though its model can be built.
    no_val: (settings, options) -> why a training needs no val part to choose its epoch on; "" where it does.
    any_class: (settings) -> nothing that is learned belongs to classes; unseen ones are recognised by their texts.
    """

    section: str
    stores: Callable[[Mapping[str, Any]], tuple[str, ...]]
    prepare: Callable[..., PreparedRun]
    own: ClassSpecificWeights = NOTHING
    check: Callable[[Mapping[str, Any], Options], None] = lambda settings, options: None
    no_val: Callable[[Mapping[str, Any], Options], str] = lambda settings, options: ""
    any_class: Callable[[Mapping[str, Any]], bool] = lambda settings: False


def prepare_model(
    name: str,
    dataset: Dataset,
    *,
    protocol: str | None,
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
    **given: Any,
) -> PreparedRun:
    """A training of the model of that name, prepared; few shots, val part and weights to start from are alike for all.

    given: readers, as the model's own `prepare` takes them. Raises what that raises, `UsageError` for an unknown model
    and a class with too few samples, and what `started` raises.
    """
    known = get_model(name)
    protocol = protocol or dataset.default_protocol
    few = few_shots(dataset, options.shots, settings.seed, protocol)
    found = with_validation(few, protocol, options.val_share, settings.seed, shots=options.shots)
    if needless := known.no_val(model, options):
        found = Validation(replace(few.split(protocol), val=()), "none", needless)
    # One part less in train, one more to choose on; all other protocols stay as they are.
    divided = replace(few, protocols={**few.protocols, protocol: lambda samples: found.split})
    prepared = known.prepare(divided, protocol=protocol, model=model, settings=settings, options=options, **given)
    said = {"val_share": options.val_share, **({"shots": options.shots} if options.shots else {})}
    prepared = replace(
        prepared, config={**prepared.config, **said}, validation={"origin": found.origin, "why": found.why}
    )
    return started(prepared, dataset, options.start, known.own) if options.start else prepared


def system_stores(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities that a system of `SYSTEMS` reads. Raises `UsageError` for bad settings."""
    system = SYSTEMS[name]
    return system.stores(checked_config(system.config, settings))


def get_model(name: str) -> Model:
    """The model of that name. Raises `UsageError` for an unknown one."""
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; known are {', '.join(MODELS)}.")
    return MODELS[name]


def run_config(folder: Path) -> dict[str, Any]:
    """The settings of a run, with which its model can be built again.

    Raises what `read_config` raises, and `DamagedStore` for settings that this version does not know.
    """
    config = read_config(folder)
    path = folder / "config.yaml"
    try:
        model = get_model(config["model"])
        settings_from(config["settings"])
        if not isinstance(config.get(model.section), Mapping):
            raise DamagedStore(f"{path} lacks {model.section}, the settings of its model; it is not the file of a run.")
        model.stores(config[model.section])
    except UsageError as error:
        raise DamagedStore(
            f"{path} cannot be used ({str(error).rstrip('.')}); it is of another version, or not the file of a run."
        ) from error
    return config


TEXTS = ("labels", "corpus", "texts.labels", "texts.entities")
BANK = ("bank.agent", "bank.main")
MODELS: dict[str, Model] = {
    "unialign": Model(
        "unialign", partial(system_stores, "unialign"), prepare_unialign, ClassSpecificWeights(("head.", *BANK))
    ),
    "art": Model(
        "art",
        partial(system_stores, "art"),
        partial(prepare_unialign, name="art"),
        ClassSpecificWeights(("head.", "video_head.", *BANK)),
    ),
    "alt": Model(
        "alt",
        partial(system_stores, "alt"),
        prepare_alt,
        # Adapters and prompts in a tower that was tuned before, with the text tower that prompts bring along.
        ClassSpecificWeights((*TEXTS, "classifier."), (".adapter.", ".ls_1.1.", "prompts.", "texts.")),
        check=check_start,
        any_class=lambda settings: settings.get("logits") != "probe",
    ),
    "dvta": Model(
        "dvta",
        partial(system_stores, "dvta"),
        prepare_dvta,
        check=partial(check_no_start, "dvta"),
        no_val=chosen_on_held_out,
    ),
    "stgcn++": Model("encoder", lambda settings: ("poses",), prepare_encoder, check=partial(check_no_start, "stgcn++")),
}
