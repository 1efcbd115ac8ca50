"""Contract of the recipes: the papers' files resolve, each value says where it is from, and all of it trains."""

import re
from pathlib import Path

import pytest
import torch

from tests.made_stores import made_dataset
from tests.pipeline.made_training import readers_of, tiny_training
from unialign.errors import UsageError
from unialign.pipeline.config import RECIPES, load_config, recipes
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.systems.registry import SYSTEMS, get_system
from unialign.pipeline.training.initial_weights import finished_run
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import config_from, prepare_run
from unialign.stages.datasets.catalog import DATASETS
from unialign.stages.models.backbones.registry import BACKBONES
from unialign.stages.training.settings import TrainSettings, settings_from

ORIGINS = ("paper", "code", "inferred", "ours")
VALUE = re.compile(r"^ *[\w-]+: (?!$)(?P<value>[^#]*?)(?:  # (?P<said>.*))?$")
SMALL = {"modalities": ["video", "text"]}
XCLIP = {
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "crop": "multiscale",
    "flip": 0.5,
    "colour": 0.4,
    "colour_share": 0.8,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale": 0.2,
    "test_crop": 0.875,
}


def test_there_is_a_recipe_per_paper_and_data_set() -> None:
    assert len(recipes()) >= 20
    assert {name.partition("-")[0] for name in recipes()} == {"alt", "art", "dvta", "unialign"}
    link = Path(__file__).resolve().parents[3] / "configs" / "papers"
    assert link.resolve() == RECIPES


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_resolves_and_every_value_says_where_it_is_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({}, file=Path(name), environment={})
    assert config.train.model == name.partition("-")[0] in SYSTEMS
    assert config.dataset in DATASETS
    model = getattr(config.train, config.train.model)
    assert getattr(model, "backbone", "tea-resnet50") in BACKBONES
    for line in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        found = VALUE.fullmatch(line)
        if found and not line.startswith("#") and not line.strip().startswith("model: " + config.train.model):
            assert found["said"], f"{name}: {line!r} does not say where it is from"
            assert re.split(r"[ :]", found["said"])[0] in ORIGINS, line


def test_the_papers_values_are_in_their_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alt = load_config({}, file=Path("alt-k400"), environment={}).train
    assert (alt.settings.lr * alt.alt.tower_rate, alt.settings.lr) == (pytest.approx(8e-6), 8e-5)
    assert (alt.settings.epochs, alt.settings.warmup_epochs, alt.settings.weight_decay) == (30, 5.0, 0.001)
    assert {name: getattr(alt.settings, name) for name in XCLIP} == XCLIP
    art = load_config({}, file=Path("art-gym99-tea"), environment={}).train
    assert (art.settings.epochs, art.settings.lr, art.settings.step_every, art.settings.batch_size) == (
        50,
        0.01,
        20,
        24,
    )
    dvta = load_config({}, file=Path("dvta-ntu120"), environment={}).train
    assert (dvta.settings.lr, dvta.settings.epochs, dvta.settings.batch_size) == (5e-6, 100, 128)


def test_a_file_of_that_name_goes_before_a_recipe_and_an_unknown_name_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"nothing does not exist.*; recipes that come with unialign are alt-hmdb51-few"
    ):
        load_config({}, file=Path("nothing"), environment={})
    with pytest.raises(UsageError, match=r"nothing.yaml does not exist, or is not a file\.$"):
        load_config({}, file=Path("folder/nothing.yaml"), environment={})
    (tmp_path / "alt-k400").write_text("dataset: ntu60\n")
    assert load_config({}, file=Path("alt-k400"), environment={}).dataset == "ntu60"


def test_the_whole_recipe_trains_and_a_repetition_finds_its_run(made_caches: Path, tmp_path: Path) -> None:
    values = {**XCLIP, "nesterov": True, "epochs": 2, "test_clips": 2, "average": 0.99}
    first = tiny_training(made_caches, tmp_path, model=SMALL, **values)
    assert 0 <= first.metrics["top1"] <= 1
    assert tiny_training(made_caches, tmp_path, model=SMALL, **values).reused
    other = tiny_training(made_caches, tmp_path, model=SMALL, **{**values, "mixup": 0.4})
    assert not other.reused
    # The average of the weights is what a run is evaluated, and started from, with.
    assert evaluate_run(first.folder, made_dataset(), cache=made_caches).agrees
    weights = finished_run(first.folder).weights
    state = torch.load(first.folder / "checkpoints" / "last.pt", weights_only=True)
    assert state["average"]
    assert all(torch.equal(weights[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(state["model"][name], value) for name, value in state["average"].items())


@pytest.mark.parametrize(
    ("system", "values", "message"),
    [
        ("unialign", {"mixup": 0.8}, "mixup mixes clips of frames, but this run reads frames and pose-features"),
        ("unialign", {"cutmix": 0.8}, "cutmix mixes clips of frames"),
        ("stgcn++", {"mixup": 0.2}, "mixup mixes clips of frames, but this run reads poses"),
        ("skeleton", {"label_smoothing": 0.1}, "label_smoothing has no meaning in the losses of skeleton"),
        ("skeleton", {"average": 0.99}, "skeleton has a moving average of its own"),
    ],
)
def test_what_a_system_cannot_do_is_one_sentence(
    made_caches: Path, system: str, values: dict[str, float], message: str
) -> None:
    model = {"backbone": "tsm-resnet10", "num_frames": 2, "image_size": 16} if system == "unialign" else {}
    with pytest.raises(UsageError, match=message):
        prepare_run(
            system,
            made_dataset(),
            protocol=None,
            readers=readers_of(made_caches),
            config=config_from(system, model),
            settings=settings_from(values, TrainSettings(device="cpu")),
            options=Options(),
        )


@pytest.mark.parametrize("name", ["unialign", "art", "alt", "stgcn++"])
def test_smoothing_moves_the_target_of_classifiers_toward_all_classes(name: str) -> None:
    logits = torch.tensor([[4.0, 0.0, -2.0], [1.0, 3.0, 0.0]])
    labels = torch.tensor([0, 2])
    outputs = {"logits": logits, "video_logits": logits}
    model = type("Model", (), {"config": type("Config", (), {"mtc": ()})()})()
    losses = get_system(name).losses
    plain, smooth = (losses(model, outputs, labels, **each)["classification"] for each in ({}, {"smoothing": 0.1}))
    targets = 0.9 * torch.nn.functional.one_hot(labels, 3) + 0.1 / 3
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(smooth, expected)
    assert not torch.isclose(plain, smooth)
