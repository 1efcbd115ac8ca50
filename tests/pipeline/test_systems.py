"""Contract of the systems: all train, resume, evaluate and are ablated from the same caches by the same loop."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.made_stores import write_store
from tests.pipeline.made_systems import DATASET, ENTITIES, NETWORK, SYSTEMS, made_config
from tests.pipeline.made_training import unsigned
from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import MissingCache, StaleCache, UsageError
from unialign.pipeline.ablation.grid import Grid, Row, read_grid, trials
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.evaluation.gallery import draw_run
from unialign.pipeline.training.from_config import cached_readers, train_from_config
from unialign.pipeline.training.preparation import Options, PreparedRun
from unialign.pipeline.training.train import RunResult, prepare_run
from unialign.stages.training.clips import PoseTokens
from unialign.stages.training.loop import Progress
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import build_optimizer
from unialign.stages.training.token_samples import FrameTokens, TokenClips
from unialign.stages.video import encode_clip

ROOT = Path(__file__).resolve().parents[2]
CASES: dict[str, dict[str, Any]] = {
    "unialign": {},
    "art": {"train.model": "art"},
    "alt": {"train.model": "alt"},
    "alt prompts": {"train.model": "alt", "train.alt.tower": "frozen", "train.alt.num_prompts": 2},
    "alt cached": {"train.model": "alt", "train.alt.tower": "cached", "train.settings.flip": 0.5},
    "unialign cached": {"train.unialign.backbone": "cached", "train.settings.flip": 0.5},
}
READ = {"alt cached": {"tokens", "text"}, "unialign cached": {"tokens", "text"}}


@pytest.fixture(scope="module")
def config(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return made_config(tmp_path_factory.mktemp("work"), weights)


def alt_of(config: Config, options: Options, **changes: Any) -> PreparedRun:
    known = config.train.alt.replaced(**changes)
    needed = ("tokens" if known.tower == "cached" else "frames", "text")
    return prepare_run(
        "alt",
        DATASET,
        protocol=None,
        readers=cached_readers(needed, DATASET, config, check=True),
        config=known,
        settings=config.train.settings,
        options=options,
    )


def last(result: RunResult) -> Mapping[str, Any]:
    state: Mapping[str, Any] = torch.load(result.folder / "checkpoints" / "last.pt", weights_only=True)
    return state


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_bit_for_bit_and_is_evaluated(
    config: Config, weights: Path, tmp_path: Path, case: str
) -> None:
    chosen = with_values(config, CASES[case])
    if case == "alt prompts":
        chosen = with_values(chosen, {"train.backbone_weights": weights})
    whole = train_from_config(chosen)
    assert (whole.model, whole.epochs, whole.extracted) == (chosen.train.model, 2, 0)
    assert set(whole.keys) == READ.get(case, {"frames", "text"})
    left = [4]

    def stop(progress: Progress) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    elsewhere = with_values(chosen, {"runs": tmp_path})
    with pytest.raises(KeyboardInterrupt):
        train_from_config(elsewhere, show=stop)
    resumed = train_from_config(elsewhere)
    first, second = last(whole), last(resumed)
    assert resumed.key == whole.key
    assert resumed.metrics == whole.metrics
    assert all(torch.equal(first["model"][name], value) for name, value in second["model"].items())
    found = evaluate_run(resumed.folder, DATASET, cache=config.cache)
    assert found.agrees
    assert found.largest_change == 0
    assert train_from_config(chosen).reused
    pictures = draw_run(resumed.folder, DATASET, config.cache, num_samples=2)
    assert len(pictures) == (1 if "cached" in case else 3)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_tower_starts_from_a_file_and_learns_more_slowly(config: Config, weights: Path, tmp_path: Path) -> None:
    chosen = with_values(config, {**CASES["alt"], "runs": tmp_path, "train.backbone_weights": weights})
    state = last(train_from_config(with_values(chosen, {"train.settings.epochs": 1, "train.settings.lr": 1e-3})))
    rates = [(group["factor"], round(group["lr"], 9)) for group in state["optimizer"]["param_groups"]]
    assert rates == [(1.0, 1e-3), (1.0, 1e-3), (0.1, 1e-4), (0.1, 1e-4)]  # the first is logged as that of the run
    clip = torch.load(weights, weights_only=True)
    name = "conv1.weight"
    moved = (state["model"][f"tower.network.{name}"] - clip[f"visual.{name}"]).abs().max()
    assert 0 < moved < 5e-4  # four steps of AdamW at 1e-4; random weights differ by more than 1e-2


def test_groups_of_parameters_keep_their_factor() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 2))
    optimizer = build_optimizer(model, TrainSettings(), lambda name: 0.5 if name.startswith("0.") else 1.0)
    groups = [(each["factor"], each["weight_decay"], len(each["params"])) for each in optimizer.param_groups]
    assert groups == [(1.0, 5e-4, 1), (1.0, 0.0, 3), (0.5, 5e-4, 1), (0.5, 0.0, 1)]


def test_cached_tokens_are_those_of_the_frozen_tower(config: Config, weights: Path, tmp_path: Path) -> None:
    """At offset 1 of 2, which is the view of evaluation here; frames are taken there by test_clips = 2."""
    two = with_values(config, {"train.settings.test_clips": 2})
    cached = alt_of(two, Options(), tower="cached").test.__getitems__([(0, 0), (0, 3)])["tokens"]
    frozen = alt_of(two, Options(backbone_weights=weights), tower="frozen")
    task = frozen.build()
    inputs = task.inputs(frozen.test.__getitems__([(0, 0), (0, 3)]), torch.device("cpu"))
    tower: Any = task.model.get_submodule("tower").eval()
    with torch.inference_mode():
        made = tower(inputs["frames"].flatten(0, 1))["tokens"]
    assert cached.shape == (2, 2, 2, 17 - 2 * 2, 8)
    np.testing.assert_allclose(cached.flatten(0, 2).float().numpy(), made.numpy(), atol=2e-3)


def test_views_of_tokens_follow_the_flip(tmp_path: Path) -> None:
    spec = ArraySpec("tokens", "float16", (6, 1, 1, 1), ("view", "frame", "token", "channel"), chunk=1)
    value = {"tokens": np.arange(6, dtype=np.float16).reshape(6, 1, 1, 1)}
    reader = write_store(tmp_path, "tokens", [spec], {"a": value, "b": value})
    tokens = FrameTokens(reader, (False, True, False, True, False, True))
    samples = Labelled(("a", "b"), (0, 1))

    def views(train: bool, **settings: Any) -> list[float]:
        made = TokenClips(samples, tokens, TrainSettings(**settings), train=train)
        batches = [made.__getitems__([(epoch, 1)]) for epoch in range(48)]
        assert all(batch["labels"].tolist() == [1] for batch in batches)
        return sorted({value for batch in batches for value in batch["tokens"].flatten().tolist()})

    assert views(True) == [0, 2, 4]
    assert views(True, flip=1.0) == [1, 3, 5]
    assert views(True, flip=0.5) == [0, 1, 2, 3, 4, 5]
    assert views(False, flip=0.5) == [2]
    assert views(False, test_clips=3) == [0, 2, 4]


def test_pose_features_follow_the_flip_of_the_tokens(tmp_path: Path) -> None:
    token = ArraySpec("tokens", "float16", (4, 1, 1, 1), ("view", "frame", "token", "channel"), chunk=1)
    pose = ArraySpec("tokens", "float16", (6, 2, 1), ("view", "token", "channel"), chunk=1)
    value = {"tokens": np.arange(4, dtype=np.float16).reshape(4, 1, 1, 1)}
    pose_value = {"tokens": np.repeat(10 + np.arange(6, dtype=np.float16), 2).reshape(6, 2, 1)}
    tokens = FrameTokens(write_store(tmp_path, "tokens", [token], {"a": value}), (False, True, False, True))
    stored = write_store(tmp_path, "pose-features", [pose], {"a": pose_value})
    samples = Labelled(("a",), (0,))

    def pairs(train: bool, *, flips: tuple[bool, ...] = (False, True) * 3, **settings: Any) -> set[tuple[float, ...]]:
        features = PoseTokens(stored, flips)
        made = TokenClips(samples, tokens, TrainSettings(**settings), pose=features, train=train)
        batches = [made.__getitems__([(epoch, 0)]) for epoch in range(64)]
        assert all(batch["pose_tokens"].dtype == torch.float32 for batch in batches)
        return {(*batch["tokens"].flatten().tolist(), *batch["pose_tokens"].flatten().tolist()) for batch in batches}

    even, odd = (10, 12, 14), (11, 13, 15)
    assert pairs(True) == {(one, other, other) for one in (0, 2) for other in even}
    assert pairs(True, flip=1.0) == {(one, other, other) for one in (1, 3) for other in odd}
    assert pairs(False) == {(2, 10, 10)}
    assert pairs(False, pose_test="mean") == {(2, 12, 12)}
    assert pairs(False, test_clips=2) == {(0, 2, 10, 10, 10, 10)}  # two views of the clip, each with the pose's first
    with pytest.raises(UsageError, match="extract pose-features with flips"):
        pairs(True, flip=0.5, flips=(False,) * 6)


def test_cached_tokens_that_do_not_fit_the_model_are_refused(config: Config, weights: Path) -> None:
    def refused(sentence: str, **changes: Any) -> None:
        with pytest.raises(UsageError, match=sentence):
            train_from_config(with_values(config, {f"train.{name}": value for name, value in changes.items()}))

    cached = {"unialign.backbone": "cached"}
    refused("num_frames of the model is 3, but the tokens have 2 time steps", **cached, **{"unialign.num_frames": 3})
    refused("would be of a network on frames", **cached, backbone_weights=weights)
    # 17 patches less the merged ones are no grid.
    refused("extract.tokens.grid=4", model="art", **{"art.backbone": "cached"})


def test_the_corpus_is_that_of_the_file_in_its_order(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "entities.tsv"
    file.write_text("leg\tpart of a body\narm\n")
    chosen = with_values(config, {**CASES["alt cached"], "train.entities": file, "runs": tmp_path})
    result = train_from_config(with_values(chosen, {"train.settings.epochs": 1}))
    reader = StoreReader(next((config.cache / "made" / "text").glob("*.zarr")))
    rows = torch.from_numpy(np.stack([reader.read_one(f"entity|{name}")["embedding"] for name in ("leg", "arm")]))
    corpus = last(result)["model"]["corpus"]
    torch.testing.assert_close(corpus, torch.nn.functional.normalize(rows, dim=-1))
    assert evaluate_run(result.folder, DATASET, cache=config.cache).agrees  # without the file
    unsigned(result.folder)
    path = result.folder / "config.yaml"
    path.write_text(
        path.read_text().replace("entities:\n  leg: 'leg: part of a body'\n  arm: arm", "entities: [leg, arm]")
    )
    assert "entities: [leg, arm]" in path.read_text()
    assert evaluate_run(result.folder, DATASET, cache=config.cache).agrees  # a run of before texts were kept
    every = alt_of(config, Options(), tower="cached").config
    assert list(every["entities"]) == list(ENTITIES)
    file.write_text("arm\nwing\n")
    with pytest.raises(MissingCache, match=r"no row for entity 'wing' .*--entities FILE"):
        train_from_config(chosen)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.model": "dvt"}, "no model 'dvt'; known are unialign, art, alt, dvta, stgcn"),
        ({"train.model": "art", "train.art.k": 2}, "unknown key 'train.art.k'"),
        ({"train.model": "art", "train.art.num_tracks": 5}, "num_tracks is 5, but there are only 4 classes"),
        ({"train.model": "art", "train.art.backbone": "x"}, "backbone 'x' is unknown"),
        (
            {"train.model": "alt", "train.alt.tower": "thawed"},
            "train.alt.tower: input should be 'tuned', 'frozen' or 'cached', not 'thawed'",
        ),
        ({"train.model": "alt", "train.alt.tower": "frozen"}, "nothing says what it holds; give OpenCLIP weights as"),
        ({**CASES["alt prompts"]}, "runs CLIP's text tower; give its weights as train.backbone_weights"),
        ({"train.model": "alt", "train.alt.logits": "probe"}, "nothing says what is probed; give a run as train.start"),
        ({"train.model": "alt", "train.alt.network": "ViT-B-16"}, "tokens have width 512 and texts 8"),
        ({"train.model": "alt", "train.backbone_weights": "hub"}, "a file of OpenCLIP weights"),
        ({"train.model": "alt", "train.entities": "none.tsv"}, "none.tsv: cannot be read"),
        ({**CASES["alt cached"], "train.alt.projection": "linear"}, "projection is linear, but .* extracted for clip"),
        ({**CASES["alt cached"], "train.alt.num_frames": 4}, "num_frames is 4, but the tokens are of 2 frames"),
        ({**CASES["alt cached"], "train.settings.test_clips": 3}, "test_clips is 3, but the tokens hold 2 offsets"),
        ({**CASES["alt cached"], "train.settings.twice_sample": True}, "twice_sample takes frames"),
        ({**CASES["alt cached"], "train.settings.test_crops": 3}, "tokens are of the middle of each picture"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    config: Config, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_from_config(with_values(config, {"runs": tmp_path, **values}))
    assert not list(tmp_path.glob("*/result.json"))


@pytest.mark.usefixtures("fork_server")
def test_two_rows_of_a_system_are_ablated_without_extraction(config: Config, tmp_path: Path) -> None:
    rows = (Row(name="ART"), Row(name="one tracklet", set={"train.art.num_tracks": 1}))
    common = {"train.model": "art", "train.settings.epochs": 1}
    found, folder = sweep(Grid(name="tracks", set=common, rows=rows), with_values(config, {"runs": tmp_path}))
    assert found.extracted == 0
    assert [row["row"] for row in found.rows()] == ["ART", "one tracklet"]
    assert len({result.run for result in found.results}) == 2
    assert (folder / "ablation.md").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "unialign" / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_of_the_project_are_valid(path: Path) -> None:
    for trial in trials(read_grid(path)):
        with_values(Config(), dict(trial.values))


def test_tokens_of_other_frames_are_stale(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = with_values(config, CASES["alt cached"])
    sources = StoreReader.sources

    def changed(reader: StoreReader) -> dict[str, str]:
        new = {"clip003": "sha256:new"} if "/frames/" in reader.path.as_posix() else {}
        return {**sources(reader), **new}

    monkeypatch.setattr(StoreReader, "sources", changed)
    again = r"run `unialign extract frames .* and `unialign extract tokens"
    with pytest.raises(StaleCache, match=rf"1 sample .* \(clip003\); {again}"):
        cached_readers(("tokens", "text"), DATASET, chosen, check=True)


def call(*words: str | Path) -> dict[str, Any]:
    """The object that a command prints."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def probabilities(run: Mapping[str, Any]) -> np.ndarray:
    with np.load(Path(run["folder"]) / "predictions.npz", allow_pickle=False) as stored:
        return np.array(stored["probabilities"])


def test_models_says_what_they_cost() -> None:
    found = call("models", "--only", "art", "--only", "tsm-tiny", "train.art.backbone=tsm-tiny", "train.art.latent=8")
    (art,), (tiny,) = found["systems"], found["backbones"]
    assert (art["name"], art["network"], tiny["name"]) == ("art", "tsm-tiny", "tsm-tiny")
    assert art["parameters"] == art["trained"] > tiny["parameters"] == 309080
    assert art["gflops_view"] > tiny["gflops_view"] == pytest.approx(1.16, abs=0.01)
    assert (art["views"], art["gflops"]) == (1, art["gflops_view"])


def test_alt_from_videos_to_a_run_by_commands(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        shade = np.full((6, 32, 40, 3), 40 * number, dtype=np.uint8)
        folder = tmp_path / "clips" / ("wave arms", "kick ball")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        encode_clip(folder / f"{number}.mp4", shade, 10)
    (tmp_path / "labels.txt").write_text("wave arms\nkick ball\n")
    (tmp_path / "nouns.tsv").write_text("ball\ta round thing\ntree\n")
    (tmp_path / "unialign.yaml").write_text(json.dumps({"dataset": "folder", "data": "clips"}))
    corpus = call("corpus", "entities.tsv", "--labels", "mine=labels.txt", "--words", "nouns.tsv")
    assert (tmp_path / "entities.tsv").read_text().splitlines()[1] == "ball\ta round thing\tmine: kick ball"
    clip = ("--model", NETWORK, "--weights", weights, "--device", "cpu")
    text = call("extract", "text", "--encoder", "openclip", *clip, "--templates", "plain", "--entities", "entities.tsv")
    assert text["total"] == 2 + corpus["entities"]
    call("extract", "frames", "--short-side", "32", "--num-frames", "4")
    tokens = ("extract", "tokens", *clip, "--num-frames", "2", "extract.tokens.merged_pairs=2")
    first = call(*tokens)
    assert (first["modality"], first["total"], first["extracted"], first["quarantined"]) == ("tokens", 4, 4, {})
    assert call(*tokens)["reused"] == 4
    values = {**SYSTEMS["train.alt"], "tower": "cached"}
    train = ("train", "--model", "alt", "--epochs", "1", f"train.alt={json.dumps(values)}", "train.settings.device=cpu")
    run = call(*train)
    assert (run["model"], run["extracted"], set(run["keys"])) == ("alt", 0, {"tokens", "text"})
    assert call("evaluate", run["folder"])["agrees"]
    chosen = {
        "tokens": {"model": NETWORK, "weights": weights, "num_frames": 2, "merged_pairs": 2},
        "frames": {"short_side": 32, "num_frames": 4},
        "text": {"encoder": "openclip", "model": NETWORK, "weights": weights, "templates": "plain"},
    }
    chosen["text"]["entities"] = "entities.tsv"
    words = [f"extract.{part}.{name}={value}" for part, found in chosen.items() for name, value in found.items()]
    online = call(*train, "--online", *words, "extract.device=cpu")
    assert online["keys"]["tokens"]["store"] is None
    np.testing.assert_allclose(probabilities(online), probabilities(run), atol=1e-5)
    # Both know what the samples were made from, so a changed file is another run either way.
    tables = [(Path(found["folder"]) / "data.csv").read_text() for found in (online, run)]
    assert tables[0] == tables[1]
    assert ",," not in tables[0].split("text,")[0]
