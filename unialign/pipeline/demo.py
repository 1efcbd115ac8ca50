"""The demo: both stages and an ablation on a small collection that it renders itself, offline."""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unialign.cache.atomic import write_file, write_text
from unialign.pipeline.ablation.grid import Grid, Row, Trial, trials
from unialign.pipeline.ablation.results import Ablation
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.gallery import draw_run
from unialign.pipeline.extraction.extract import Settings, run_extraction
from unialign.pipeline.extraction.extractors import EXTRACTORS, prepare
from unialign.pipeline.extraction.hardware import limit_threads
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.pages.overview import write_overview
from unialign.pipeline.pages.report import write_report
from unialign.stages.demo.render import render_collection
from unialign.types import Json

# Small enough for two cores without a GPU: minutes for three encoders and the twelve training runs of the ablation.
MODEL = {"backbone": "tsm-tiny-difference", "num_frames": 8, "image_size": 48, "width": 128, "dropout": 0.2}
MODEL |= {"momentum": 0.99}
TRAINING = {"epochs": 10, "batch_size": 8, "optimizer": "adamw", "lr": 0.003, "schedule": "cosine", "eval_every": 10}
TRAINING |= {"warmup_epochs": 1.0, "weight_decay": 0.05, "checkpoint_every": 10}
TRAINING |= {"crop_scale": [0.8, 1.0], "crop_ratio": [0.9, 1.1]}
# The default recipe on a small scale: 560 steps instead of 1,600, each a fifth of the work, at twice the rate.
ENCODER = {"width": 8, "clip_len": 16}
ENCODER_TRAINING = {"epochs": 70, "batch_size": 16, "lr": 0.008, "eval_every": 70, "checkpoint_every": 70}
ROWS = {"video": ["video"], "video + text": ["video", "text"], "video + pose": ["video", "pose"]}
FULL = "video + pose + text"
ROWS |= {FULL: ["video", "pose", "text"]}
SEEDS = (0, 1, 2)
JOBS = 2


@dataclass(frozen=True)
class Demo:
    """Results of the demo. encoders: of the pose encoders alone, one for each seed. pictures: an overview, and of the
    first full run. page: of the ablation, see `pages.report`.
    """

    folder: Path
    encoders: Ablation
    ablation: Ablation
    pictures: tuple[Path, ...]
    page: Path
    seconds: float
    peak_memory_mb: float

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            "folder": str(self.folder),
            "rows": self.ablation.result()["rows"],
            "baselines": self.ablation.result()["baselines"],
            "extracted": self.ablation.extracted,
            "encoder_top1": self.encoders.rows()[0]["top1"],
            "encoder_top1_std": self.encoders.rows()[0]["top1_std"],
            "pictures": [str(path) for path in self.pictures],
            "page": str(self.page),
            "seconds": round(self.seconds, 1),
            "peak_memory_mb": round(self.peak_memory_mb),
        }

    def words(self) -> list[str]:
        """Explains the table, and how the demo differs from a real run."""
        rows = {str(row["row"]): row for row in self.ablation.rows()}
        full, video, encoder = rows[FULL], rows["video"], self.encoders.rows()[0]
        simple = max(self.ablation.baselines, key=lambda row: float(str(row["top1"])), default=None)
        best = max(rows, key=lambda name: rows[name]["top1"])
        lines = [
            f"Full UniAlign {_verdict(full, video)} video only: {100 * (full['top1'] - video['top1']):+.1f} points of "
            f"top-1 over {len(SEEDS)} seeds of encoder and training.",
            f"The pose encoders alone reach {100 * encoder['top1']:.1f}."
            + (
                f" Full UniAlign {_verdict(full, simple)} the best simple classifier, {simple['baseline']} on "
                f"{simple['features']} ({100 * float(str(simple['top1'])):.1f})."
                if simple
                else ""
            ),
            "No other set of modalities does better."
            if rows[best]["top1"] == full["top1"]
            else f"But {best} does better still ({100 * rows[best]['top1']:.1f}): adding the rest does not help here.",
        ]
        return [
            *lines,
            "Embedded defaults of the demo: rendered clips; skeletons that come with them (a real run: `extract poses` "
            "with a pose network); a small sentence encoder (a real run: an OpenCLIP text tower); a tiny backbone "
            "trained from scratch (a real run: a pretrained one).",
            f"± is the deviation over {len(SEEDS)} seeds; the interval is that of the change from the first row, not "
            "of an accuracy: a 95 % bootstrap over seeds and test clips. On the page and in the plot each seed has one "
            "of its own, over test clips alone (Wilson).",
            f"Pictures: {self.pictures[0]}, and in {self.pictures[-1].parent}." if self.pictures else "No pictures.",
            f"The page with everything: {self.page} (open it with a browser).",
            f"{self.seconds:.0f} s, peak memory {self.peak_memory_mb:.0f} MB; everything is in {self.folder}.",
        ]


def _verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How the top-1 of a row compares with that of another, by the larger deviation over seeds."""
    gain = row["top1"] - other["top1"]
    if abs(gain) <= max(row.get("top1_std") or 0.0, other.get("top1_std") or 0.0):
        return "is within one deviation of"
    return "beats" if gain > 0 else "does not reach"


def run_demo(
    folder: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[..., None] = lambda *at: None,
) -> Demo:
    """Run the whole demo in a folder, reusing the results of a previous call there.

    say: called with one line per step. progress: called with (done, total, text) within a step.
    """
    started = time.monotonic()
    # One thread: the networks are so small that two threads would wait for each other, and the sweeps train two in
    # parallel.
    limit_threads(1)
    config = demo_config(folder)
    say("1/5 render clips of articulated figures, with skeletons")
    render_collection(folder / "data", progress=lambda done, total: progress(done, total, "render"))
    for modality in ("frames", "poses", "text"):
        say(f"2/5 extract {modality}")
        _extract(modality, config, progress)
    say(f"3/5 train {len(SEEDS)} pose encoders on cached poses (training performers only), extract their features")
    encoders, _ = _sweep(encoder_grid(), config, progress, "train a pose encoder")
    stores = {}
    for found in encoders.results:
        own = with_values(config, {"extract.pose_features.weights": Path(found.run) / "encoder.pt"})
        stores[found.trial.seed] = _extract("pose-features", own, progress).stem
    say(f"4/5 train UniAlign: {len(ROWS)} sets of modalities x {len(SEEDS)} seeds, from the cache alone")
    ablation, tables = _sweep(demo_grid(stores), config, progress, "train")
    say("5/5 draw, write the page")
    full = next(found for found in ablation.results if found.trial.row == FULL)
    cache = config.cache.resolve()
    overview = write_overview(folder / "overview", Path(full.run), ablation, cache)
    pictures = [*filter(None, [overview]), *draw_run(Path(full.run), the_dataset(config), cache, num_samples=3)]
    page = write_report(config, tables, out=folder / "report.html", progress=progress)
    demo = Demo(
        folder=folder,
        encoders=encoders,
        ablation=ablation,
        pictures=tuple(pictures),
        page=page.path,
        seconds=time.monotonic() - started,
        peak_memory_mb=peak_memory_mb(),
    )
    write_text(folder / "demo.json", json.dumps(demo.result(), indent=2) + "\n")
    write_file(folder / "ablation.md", (tables / "ablation.md").read_bytes())
    return demo


def demo_config(folder: Path) -> Config:
    """The configuration of the demo, everything in one folder."""
    return with_values(
        Config(),
        {
            "dataset": "demo",
            "data": folder / "data",
            "cache": folder / "cache",
            "runs": folder / "runs",
            "extract.poses.source": "skeleton",
            "extract.frames.short_side": 64,
            "extract.frames.num_frames": 16,
            "extract.pose_features.num_offsets": 2,
            "extract.pose_features.flips": False,
            "train.unialign": MODEL,
            "train.skeleton": ENCODER,
            "train.settings": TRAINING,
        },
    )


def encoder_grid() -> Grid:
    """A pose encoder for each seed: what rests on it has the spread of encoders too."""
    row = Row(name="pose encoder", set={"train.model": "skeleton", "train.settings": ENCODER_TRAINING})
    return Grid(name="encoders", seeds=SEEDS, rows=(row,))


def demo_grid(stores: Mapping[int, str]) -> Grid:
    """The modality ablation of the demo. stores: by seed, the pose features of its own encoder."""
    rows = tuple(Row(name=name, set={"train.unialign.modalities": chosen}) for name, chosen in ROWS.items())
    seeds = {seed: {"train.stores.pose-features": store} for seed, store in stores.items()}
    return Grid(name="modalities", seeds=seeds, rows=rows)


def peak_memory_mb() -> float:
    """Peak resident memory so far of this process or of any one child that has ended, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit / 1e6


def _sweep(grid: Grid, config: Config, progress: Callable[..., None], text: str) -> tuple[Ablation, Path]:
    """See `sweep`; the progress is that of all trainings together, in percent of one."""
    total, shares = len(trials(grid)), dict[tuple[str, int], float]()

    def shown(trial: Trial, share: float) -> None:
        shares[trial.row, trial.seed] = share
        progress(round(100 * sum(shares.values())), 100 * total, f"{text}: {trial.row}, seed {trial.seed}")

    progress(0, 100 * total, text)
    return sweep(
        grid,
        config,
        jobs=JOBS,
        show=lambda trial, at: shown(trial, (at.epoch + (at.batch + 1) / at.batches) / at.epochs),
        report=lambda found, done, total: shown(found.trial, 1.0),
    )


def _extract(modality: str, config: Config, progress: Callable[..., None]) -> Path:
    """Extract one modality; returns the folder of its store."""
    dataset = the_dataset(config)
    prepared = prepare(modality, dataset, config)
    extraction = run_extraction(
        prepared.extractor,
        prepared.sources,
        cache=config.cache.resolve(),
        collection=dataset.collection,
        settings=Settings(shard_samples=EXTRACTORS[modality].shard_samples, threads=1),
        current=prepared.current,
        progress=lambda done, total: progress(done, total, f"extract {modality}"),
    )
    save_manifest(dataset, config.cache.resolve())
    return Path(extraction.store)
