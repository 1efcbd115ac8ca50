"""What is said of an extraction's speed, of its price, and of what a machine can do."""

import io
from pathlib import Path

import pytest

from tests.made_extractor import Spectrum, extract, make_files
from unialign import console
from unialign.commands.extraction import show_classes
from unialign.pipeline import rates
from unialign.pipeline.config import load_config
from unialign.pipeline.extraction.pace import Pace, Tally, tally
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.extraction.base import Outcome


def test_shares_are_of_the_workers_time() -> None:
    outcomes = [
        Outcome("a", "ok", detail={"decoded": 30}, spent={"decoder": 1.0, "network": 6.0}),
        Outcome("b", "truncated", detail={"decoded": 10}, spent={"network": 1.0}),
        Outcome("c", "missing-file"),
    ]
    pace = Pace(9)
    pace.add(tally(outcomes, 8.0))
    pace.add(tally((), 2.0, disk=0.5))
    assert (pace.done, pace.total, pace.frames) == (3, 9, 40)
    assert pace.shares() == {"decoder": 0.1, "network": 0.7, "disk": 0.05}
    assert pace.text().endswith(" frames/s (network 70 %, decoder 10 %, disk 5 %)")
    assert pace.result()["shares"] == pace.shares()


def test_what_has_no_frames_says_nothing_of_them() -> None:
    pace = Pace(2)
    pace.add(Tally(1))
    assert pace.text() == ""


@pytest.mark.parametrize("cluster", ["", "local:2"])
def test_every_sample_is_counted_once_as_it_is_done(tmp_path: Path, cluster: str) -> None:
    sources = make_files(tmp_path / "files", 10, bad=(1,), deeds={3: "raise", 5: "exit"})
    seen: list[tuple[int, int]] = []
    done = extract(
        tmp_path / "cache",
        sources,
        Spectrum(pause=0.03),
        cluster=cluster,
        watch=lambda pace: seen.append((pace.done, pace.total)),
    )
    assert (done.extracted, done.quarantined) == (7, {"crashed": 1, "internal-error": 1, "truncated": 1})
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)
    # Within a shard too, unless a Dask worker has it.
    assert cluster or len({number for number, _ in seen}) > 4


def test_a_dry_run_prices_the_job_and_stores_nothing(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 100)
    done = extract(tmp_path / "cache", sources, Spectrum(pause=0.004), dry_run=True)
    assert done.price is not None
    assert (done.price.measured, done.price.samples) == (64, 100)
    assert 0.004 <= done.price.seconds_per_sample < 0.5
    assert done.price.hours == pytest.approx(100 * done.price.seconds_per_sample / 3600)
    assert 32 < done.price.bytes_per_sample < 1000
    assert done.result()["price"]["measured"] == 64  # type: ignore[index, call-overload]
    assert not (tmp_path / "cache").exists()
    extract(tmp_path / "cache", sources)
    assert extract(tmp_path / "cache", sources, dry_run=True).price is None


def test_classes_that_lose_most_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console.output, "_file", stream)
    samples = tuple(Sample(f"clip{number}", number % 3, {}) for number in range(9))
    dataset = Dataset("made", "made", Path(), ("bow", "jump", "wave"), samples, {})
    problems = [("clip1", "truncated", ""), ("clip4", "no-person", ""), ("clip2", "no-person", ""), ("gone", "x", "")]
    show_classes(problems, dataset)
    words = [line.replace("│", " ").split() for line in stream.getvalue().splitlines()]
    assert [line for line in words if line[:1] in (["bow"], ["jump"], ["wave"])] == [
        ["jump", "3", "1", "1", "1"],
        ["wave", "3", "2", "1", "0"],
    ]
    stream.truncate(0)
    show_classes([], dataset)
    assert stream.getvalue() == ""


def test_the_bottleneck_is_the_slower_of_decoder_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config({}, file=None, environment={})
    monkeypatch.setattr(rates, "DECODING", 0.05)
    found = rates.measured_rates(config)
    assert found["decoder"] > 0  # type: ignore[operator]
    assert found["network"] is None
    assert "extract.poses.weights" in str(found["bottleneck"])
    for network, slower in ((1.0, "the network"), (1e9, "the decoder")):
        monkeypatch.setattr(rates, "_network_rate", lambda _, network=network: (network, ""))
        assert str(rates.measured_rates(config)["bottleneck"]).startswith(slower)
