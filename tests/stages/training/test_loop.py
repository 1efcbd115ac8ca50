"""Contract of the loop: resumed anywhere it continues bit for bit, and it never steps on what is not finite."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unialign.errors import UnialignError, UsageError
from unialign.stages.training.checkpoints import Checkpoints
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.logs import RunLog, read_lines
from unialign.stages.training.loop import Data, Fitted, Part, Progress, as_good, fit
from unialign.stages.training.order import sample_generator
from unialign.stages.training.processes import Processes
from unialign.stages.training.samples import Batch, Pick
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.step import Task, build_optimizer

NUM_CLASSES, WIDTH = 3, 8
ALONE = Processes(0, 1, torch.device("cpu"))
SETTINGS = TrainSettings(
    epochs=3,
    batch_size=4,
    lr=0.05,
    device="cpu",
    log_every=1,
    checkpoint_batches=1,
    schedule="cosine",
    weight_decay=0.01,
)

# Of an epoch's row: they differ from run to run.
TIMES = ("data_wait", "samples_per_second", "megabytes_per_second", "loader_samples_per_second")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run folder in memory where there is one: these tests write hundreds of checkpoints."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


class Points:
    """Noisy points around a center a class; the noise of a training point is drawn again each epoch."""

    def __init__(self, count: int, *, train: bool, poison: int = -1) -> None:
        self.count, self.train, self.poison = count, train, poison

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        points = []
        for epoch, index in picks:
            generator = sample_generator(0, epoch if self.train else 0, index)
            point = torch.from_numpy(generator.normal(size=WIDTH)).float()
            point[index % NUM_CLASSES] += 3
            points.append(point * math.nan if index == self.poison else point)
        indices = torch.tensor([index for _, index in picks])
        return {"points": torch.stack(points), "labels": indices % NUM_CLASSES, "indices": indices}


class Small(nn.Module):
    """A classifier with everything that has state: dropout, batch statistics, a moving average."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(16, NUM_CLASSES)
        self.register_buffer("average", torch.zeros(16))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.body(batch["points"])
        return {"hidden": hidden, "logits": self.head(hidden), "importance": torch.ones_like(hidden[:, :2]) / 2}

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        self.average.mul_(0.9).add_(outputs["hidden"].detach().float().mean(dim=0), alpha=0.1)


class Undecided(Small):
    """Whatever it learns, all classes have the same score."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = super().forward(batch)
        return {**outputs, "logits": 0 * outputs["logits"]}


class TwoHeads(Small):
    """Besides what it learns, a head that always answers class 0, and is sure of it."""

    heads: Mapping[str, str] = {"learned": "learned_logits", "constant": "constant_logits"}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = super().forward(batch)
        constant = torch.zeros_like(outputs["logits"])
        constant[:, 0] = 20
        return {**outputs, "learned_logits": outputs["logits"], "constant_logits": constant}


def losses(model: Small, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    return {
        "classification": cross_entropy(outputs["logits"].float(), labels),
        "size": 0.01 * outputs["logits"].float().pow(2).mean(),
    }


class Stopped(Exception):
    """What the tests interrupt a run with."""


def stop_after(steps: int) -> Callable[[Progress], None]:
    left = [steps]

    def show(progress: Progress) -> None:
        left[0] -= not progress.ended
        if left[0] == 0:
            raise Stopped

    return show


def run(
    folder: Path,
    settings: TrainSettings = SETTINGS,
    *,
    show: Callable[[Progress], None] = lambda progress: None,
    model: nn.Module | None = None,
    train: Points | None = None,
    test_labels: tuple[int, ...] = tuple(index % NUM_CLASSES for index in range(7)),
    task_losses: Any = losses,
    prefer_later: bool = False,
) -> tuple[Fitted, nn.Module]:
    network = model or Small()
    test, val = Points(7, train=False), Points(5, train=False)
    data = Data(
        Loader(train or Points(14, train=True), settings),
        Part(Loader(test, settings), test_labels),
        Part(Loader(val, settings), tuple(index % NUM_CLASSES for index in range(5))),
        prefer_later=prefer_later,
    )
    fitted = fit(
        Task(network, task_losses),
        data,
        settings,
        processes=ALONE,
        checkpoints=Checkpoints(folder / "checkpoints", "run"),
        log=lambda step: RunLog(folder, step=step),
        show=show,
    )
    return fitted, network


def steps(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Per step what was computed; the last line of a step counts."""
    return {
        line["step"]: tuple(line[name] for name in ("epoch", "batch", "loss", "size", "gradient_norm", "learning_rate"))
        for line in read_lines(folder / "log.jsonl")
        if line["event"] == "step"
    }


def untimed(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def same_state(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module", params=["sgd", "adamw", "bf16"])
def settings(request: pytest.FixtureRequest) -> TrainSettings:
    values = {"precision": "bf16"} if request.param == "bf16" else {"optimizer": request.param}
    return settings_from(values, SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings: TrainSettings) -> tuple[Path, Fitted, nn.Module]:
    where = tmp_path_factory.mktemp("whole")
    return where, *run(where, settings)


@pytest.mark.parametrize("moments", [(1,), (3,), (4,), (5,), (11,), (12,), (2, 1, 4)], ids=str)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    folder: Path, whole: tuple[Path, Fitted, nn.Module], settings: TrainSettings, moments: tuple[int, ...]
) -> None:
    for moment in moments:
        with pytest.raises(Stopped):
            run(folder, settings, show=stop_after(moment))
        torch.rand(5)  # whatever else the process does in between
    fitted, model = run(folder, settings)
    whole_folder, expected, expected_model = whole
    assert steps(folder) == steps(whole_folder)
    assert len(steps(folder)) == 12
    assert untimed(fitted.history) == untimed(expected.history)
    assert same_state(model, expected_model)
    assert fitted.predictions is not None
    assert expected.predictions is not None
    assert (fitted.predictions.scores == expected.predictions.scores).all()
    assert fitted.best == expected.best
    assert fitted.best["test"].keys() == fitted.metrics.keys()


def test_a_checkpoint_of_another_number_of_processes_is_continued(folder: Path) -> None:
    with pytest.raises(Stopped):
        run(folder, show=stop_after(6))
    checkpoints = Checkpoints(folder / "checkpoints", "run")
    found = checkpoints.newest()
    assert found is not None
    two = {**found.state, "random": found.state["random"] * 2}
    checkpoints.save(two, Position(two["epoch"], two["samples"]))
    fitted, _ = run(folder)
    assert fitted.steps == 12 - 5  # the sixth step's checkpoint was never written
    assert [(epoch, batch) for epoch, batch, *_ in steps(folder).values()] == [
        (epoch, batch) for epoch in (1, 2, 3) for batch in range(4)
    ]


def test_a_finished_run_takes_no_step_and_says_the_same(folder: Path) -> None:
    first, model = run(folder)
    again, other = run(folder)
    assert (first.steps, again.steps) == (12, 0)
    assert same_state(model, other)
    assert again.history == first.history
    assert again.predictions is not None
    assert first.predictions is not None
    assert (again.predictions.scores == first.predictions.scores).all()


def test_training_learns_and_reports(folder: Path) -> None:
    seen: list[Progress] = []
    fitted, _ = run(folder, settings_from({"epochs": 15}, SETTINGS), show=seen.append)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert fitted.history[-1]["top1"] > 0.8
    steps = [(each.epoch, each.batch) for each in seen if not each.ended]
    assert steps == [(epoch, batch) for epoch in range(15) for batch in range(4)]
    assert [each.ended for each in seen if each.ended] == list(fitted.history)
    assert all(each.batches == 4 and 0 <= each.wait <= 1 and each.samples_per_second > 0 for each in seen)
    names = {"loss", "classification", "size", "gradient_norm", "learning_rate", "data_wait"}
    assert names | {"val_top1", "val_mean_class"} <= fitted.history[0].keys()
    assert (folder / "metrics.csv").read_text().count("\n") == 16


def test_evaluation_comes_when_it_is_due(folder: Path) -> None:
    fitted, _ = run(folder, settings_from({"epochs": 5, "eval_every": 2}, SETTINGS))
    assert ["val_top1" in row for row in fitted.history] == [False, True, False, True, True]
    assert ["top1" in row for row in fitted.history] == [False, False, False, False, True]


def test_the_best_epoch_is_chosen_on_val_and_measured_on_test_with_its_own_weights(folder: Path) -> None:
    settings = settings_from({"epochs": 6, "lr": 0.6}, SETTINGS)
    fitted, model = run(folder, settings)
    tops = [row["val_top1"] for row in fitted.history]
    assert fitted.best["epoch"] == 1 + tops.index(max(tops)) < 6  # with this rate later epochs get worse
    assert fitted.best["val"]["top1"] == max(tops)
    assert fitted.metrics["top1"] == fitted.history[-1]["top1"]
    # The state after that epoch, evaluated alone, gives the same.
    state = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["model"]
    other = Small()
    other.load_state_dict(state)
    other.eval()
    batch = Points(7, train=False).__getitems__([(0, index) for index in range(7)])
    guesses = other(batch)["logits"].argmax(dim=1)
    assert fitted.best["test"]["top1"] == int((guesses == batch["labels"]).sum()) / 7
    assert fitted.best_weights is not None
    assert all(torch.equal(value, state[name]) for name, value in fitted.best_weights.items())
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())


def test_of_equally_good_epochs_an_encoder_takes_the_last_one(folder: Path) -> None:
    fitted, _ = run(folder / "first", model=Undecided())
    assert len({row["val_top1"] for row in fitted.history}) == 1
    assert fitted.best["epoch"] == 1
    fitted, _ = run(folder / "last", model=Undecided(), prefer_later=True)
    assert fitted.best["epoch"] == 3
    assert fitted.best_weights is None  # they are those of the model


def test_an_epoch_is_as_good_as_the_best_within_a_standard_error() -> None:
    assert as_good(1.0, 1.0, 10)
    assert as_good(0.98, 0.99, 127)
    assert not as_good(0.97, 0.99, 127)
    assert not as_good(0.9, 1.0, 10)  # one error of ten
    assert as_good(0.6, 0.5, 4)
    # With many samples only what is equal counts as equal.
    assert not as_good(0.899, 0.9, 1_000_000)


def test_a_head_weighs_in_the_prediction_as_val_shows_it_to_be_reliable(folder: Path) -> None:
    settings = settings_from({"epochs": 8}, SETTINGS)
    fitted, _ = run(folder / "whole", settings, model=TwoHeads())
    learned, mixture = fitted.heads["learned"], fitted.heads["weighted"]
    assert mixture["weights"]["learned"] > 0.5 > mixture["weights"]["constant"]
    assert (mixture["fitted_on"], mixture["samples"]) == ("val", 5)
    assert fitted.metrics["top1"] == mixture["test"] == learned["test"] > fitted.heads["constant"]["test"]
    # Whoever goes on from a checkpoint predicts with the same weights.
    with pytest.raises(Stopped):
        run(folder / "cut", settings, model=TwoHeads(), show=stop_after(30))
    resumed, _ = run(folder / "cut", settings, model=TwoHeads())
    assert resumed.heads == fitted.heads
    assert resumed.metrics == fitted.metrics


def test_test_samples_decide_nothing(folder: Path) -> None:
    """Other test labels change what is said of the test, and not the best epoch, its weights or any step."""
    one, first = run(folder / "one")
    two, second = run(folder / "two", test_labels=(0,) * 7)
    assert one.metrics != two.metrics
    assert {**one.best, "test": {}} == {**two.best, "test": {}}
    assert same_state(first, second)
    assert steps(folder / "one") == steps(folder / "two")
    best = [torch.load(folder / name / "checkpoints/best.pt", weights_only=True)["model"] for name in ("one", "two")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


def test_a_best_epoch_whose_weights_are_lost_is_said_so(folder: Path) -> None:
    settings = settings_from({"epochs": 6, "lr": 0.6}, SETTINGS)
    whole, _ = run(folder / "whole", settings)
    with pytest.raises(Stopped):
        run(folder / "cut", settings, show=stop_after(4 * whole.best["epoch"] + 2))
    path = folder / "cut" / "checkpoints" / "best.pt"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    fitted, _ = run(folder / "cut", settings)
    assert fitted.best == {**whole.best, "test": {}}
    (lost,) = [line for line in read_lines(folder / "cut" / "log.jsonl") if line["event"] == "best-lost"]
    assert "best.pt is not what was written" in lost["problem"]


def test_within_a_long_epoch_a_checkpoint_comes_by_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each look at the clock is three minutes later than the one before.
    ticks = count(0, 180)
    monkeypatch.setattr("unialign.stages.training.loop.time.monotonic", lambda: float(next(ticks)))
    settings = settings_from({"checkpoint_batches": 0, "epochs": 1, "batch_size": 2, "keep": 99}, SETTINGS)
    with pytest.raises(Stopped):
        run(folder, settings, show=stop_after(9), train=Points(20, train=True))
    names = sorted(path.stem for path in (folder / "checkpoints").glob("0*.pt"))
    assert names == ["000000-000000008", "000000-000000016"]
    found = Checkpoints(folder / "checkpoints", "run").position()
    assert found == Position(0, 16)


def test_without_minutes_or_with_many_no_checkpoint_comes_by_time(folder: Path) -> None:
    for number, minutes in enumerate((0.0, 10.0)):
        settings = settings_from({"checkpoint_batches": 0, "epochs": 1, "checkpoint_minutes": minutes}, SETTINGS)
        run(folder / str(number), settings)
        assert [path.stem for path in (folder / str(number) / "checkpoints").glob("0*.pt")] == ["000001-000000000"]


@pytest.mark.parametrize("log_every", [1, 10])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_the_weights_of_before(folder: Path, kind: str, log_every: int) -> None:
    """Also where it is noticed steps later, since values are fetched with the log."""
    model = Small()
    before: dict[str, Tensor] = {}
    calls = count()

    def spoiled(network: Small, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        found = losses(network, outputs, labels)
        if network.training and next(calls) == 5:
            before.update({name: value.detach().clone() for name, value in network.named_parameters()})
            # The root's slope at 0 is infinite: the loss is finite, the gradient is not.
            zero = (outputs["logits"] * 0).sum()
            found["size"] = zero + math.nan if kind == "loss" else zero.abs().sqrt()
        return found

    where = r"epoch 2, batch 1 \(learning rate 0\.\d+; samples \d+, \d+, \d+ and 1 more, listed in log.jsonl\); lower"
    settings = settings_from({"log_every": log_every, "checkpoint_batches": 0}, SETTINGS)
    with pytest.raises(UnialignError, match=f"the {kind} is not finite.*{where}"):
        run(folder, settings, model=model, task_losses=spoiled)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    # Nothing of this epoch was stored.
    assert Checkpoints(folder / "checkpoints", "run").position() == Position(1, 0)
    (event,) = [line for line in read_lines(folder / "log.jsonl") if line["event"] == "not-finite"]
    assert (event["step"], event["epoch"], event["batch"], len(event["samples"])) == (6, 2, 1, 4)
    if log_every == 1:
        assert len(steps(folder)) == 5


def test_a_sample_that_is_not_a_number_stops_the_run_too(folder: Path) -> None:
    with pytest.raises(UnialignError, match="the loss is not finite"):
        run(folder, train=Points(14, train=True, poison=9))
    (event,) = [line for line in read_lines(folder / "log.jsonl") if line["event"] == "not-finite"]
    assert "9" in event["samples"]


def test_what_is_logged_does_not_depend_on_when_it_is_fetched(folder: Path) -> None:
    often, first = run(folder / "often")
    seldom, second = run(folder / "seldom", settings_from({"log_every": 5, "checkpoint_batches": 0}, SETTINGS))
    assert untimed(seldom.history) == untimed(often.history)
    assert same_state(first, second)
    assert steps(folder / "seldom") == {
        step: values for step, values in steps(folder / "often").items() if not step % 5
    }


def test_an_interrupted_run_with_accumulation_goes_on_bit_for_bit(folder: Path) -> None:
    """Four batches in an epoch, three in a step: it is stored after steps only."""
    settings = settings_from({"accumulate": 3}, SETTINGS)
    whole, model = run(folder / "whole", settings)
    assert whole.steps == 3 * 2
    for moment in (1, 2, 4):
        with pytest.raises(Stopped):
            run(folder / "cut", settings, show=stop_after(moment))
    resumed, other = run(folder / "cut", settings)
    assert steps(folder / "cut") == steps(folder / "whole")
    assert untimed(resumed.history) == untimed(whole.history)
    assert same_state(model, other)


def test_half_precision_on_a_cpu_is_rejected(folder: Path) -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        run(folder, settings_from({"precision": "fp16"}, SETTINGS))


def test_biases_and_norms_have_no_weight_decay() -> None:
    for name in ("sgd", "adamw"):
        optimizer = build_optimizer(Small(), settings_from({"optimizer": name}, SETTINGS))
        decays = {group["weight_decay"]: {each.ndim for each in group["params"]} for group in optimizer.param_groups}
        assert decays == {0.01: {2}, 0.0: {1}}


def test_the_gradient_is_clipped(folder: Path) -> None:
    settings = settings_from({"gradient_clip": 1e-6, "momentum": 0.0, "weight_decay": 0.0, "epochs": 1}, SETTINGS)
    model = Small()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    run(folder, settings, model=model)
    changes = [(value.detach() - before[name]).flatten() for name, value in model.named_parameters()]
    moved = float(torch.cat(changes).norm())
    assert 0 < moved <= 4 * 0.05 * 1e-6 * 1.5  # 4 steps; parameters are float32
    assert min(values[4] for values in steps(folder).values()) > 1e-3  # the norm before clipping is what is logged


AVERAGED = settings_from({"epochs": 6, "lr": 0.6, "average": 0.9}, SETTINGS)


class Told(Small):
    """Keeps its weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[dict[str, torch.Tensor]] = []

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        super().update(outputs, labels)
        self.after.append({name: value.clone() for name, value in self.state_dict().items()})


def test_the_average_of_the_weights_is_evaluated_and_kept(folder: Path) -> None:
    plain, averaged = Told(), Told()
    run(folder / "plain", settings_from({"average": 0.0}, AVERAGED), model=plain)
    fitted, _ = run(folder / "averaged", AVERAGED, model=averaged)
    # The average changes no step.
    assert steps(folder / "averaged") == steps(folder / "plain")
    assert len(averaged.after) == len(plain.after) == 24
    expected = averaged.after[0]
    for step, state in enumerate(averaged.after, start=1):
        assert all(torch.equal(value, plain.after[step - 1][name]) for name, value in state.items())
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {
            name: decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
            for name, value in state.items()
        }
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not same_state(averaged, plain)
    # Of the last and of the best epoch, its predictions are those that are measured and kept.
    last = Checkpoints(folder / "averaged" / "checkpoints", "run").named("last").weights()
    best = Checkpoints(folder / "averaged" / "checkpoints", "run").named("best").weights()
    batch = Points(7, train=False).__getitems__([(0, index) for index in range(7)])
    for weights, metrics in ((last, fitted.metrics), (best, fitted.best["test"])):
        model = Small()
        model.load_state_dict(weights)
        guesses = model.eval()(batch)["logits"].argmax(dim=1)
        assert metrics["top1"] == int((guesses == batch["labels"]).sum()) / 7
    assert all(torch.equal(value, last[name]) for name, value in averaged.state_dict().items())


@pytest.mark.parametrize("moments", [(1,), (4,), (11,), (2, 1, 4), (24,)], ids=str)
def test_a_resumed_average_equals_the_uninterrupted_one_bit_for_bit(folder: Path, moments: tuple[int, ...]) -> None:
    expected, expected_model = run(folder / "whole", AVERAGED)
    for moment in moments:
        with pytest.raises(Stopped):
            run(folder / "cut", AVERAGED, show=stop_after(moment))
    fitted, model = run(folder / "cut", AVERAGED)
    assert untimed(fitted.history) == untimed(expected.history)
    assert same_state(model, expected_model)
    assert fitted.metrics == expected.metrics
    assert fitted.best == expected.best
    # A finished run says the same again.
    again, model = run(folder / "cut", AVERAGED)
    assert again.metrics == expected.metrics
    assert same_state(model, expected_model)
