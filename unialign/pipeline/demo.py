"""The demo: both stages and an ablation on a small collection that it renders itself, offline."""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unialign.cache.atomic import write_file, write_text
from unialign.pipeline.ablation.grid import Grid, Row
from unialign.pipeline.ablation.results import Ablation
from unialign.pipeline.ablation.sweep import sweep
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.gallery import draw_run
from unialign.pipeline.extraction.extract import Settings, run_extraction
from unialign.pipeline.extraction.extractors import EXTRACTORS, prepare
from unialign.pipeline.extraction.hardware import limit_threads
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.training.from_config import train_from_config
from unialign.stages.demo.render import render_collection
from unialign.types import Json

# Small enough for two cores without a GPU: a few minutes for the twelve training runs of the ablation.
MODEL = {"backbone": "tsm-tiny-difference", "num_frames": 8, "image_size": 48, "width": 128, "dropout": 0.2}
MODEL |= {"momentum": 0.99}
TRAINING = {"epochs": 10, "batch_size": 8, "optimizer": "adamw", "lr": 0.003, "schedule": "cosine", "eval_every": 10}
TRAINING |= {"warmup_epochs": 1.0, "weight_decay": 0.05, "checkpoint_every": 10}
TRAINING |= {"crop_scale": [0.8, 1.0], "crop_ratio": [0.9, 1.1]}
ENCODER = {"width": 12, "clip_len": 32}
ENCODER_TRAINING = TRAINING | {"epochs": 14, "batch_size": 16, "lr": 0.006, "eval_every": 14, "checkpoint_every": 14}
ROWS = {"video": ["video"], "video + text": ["video", "text"], "video + pose": ["video", "pose"]}
ROWS |= {"video + pose + text": ["video", "pose", "text"]}
SEEDS = (0, 1, 2)
JOBS = 2


@dataclass(frozen=True)
class Demo:
    """Results of the demo. pictures: of the first full run. encoder_top1: of the pose encoder alone, on test clips."""

    folder: Path
    ablation: Ablation
    encoder_top1: float
    pictures: tuple[Path, ...]
    seconds: float
    peak_memory_mb: float

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            "folder": str(self.folder),
            "rows": self.ablation.result()["rows"],
            "extracted": self.ablation.extracted,
            "encoder_top1": self.encoder_top1,
            "pictures": [str(path) for path in self.pictures],
            "seconds": round(self.seconds, 1),
            "peak_memory_mb": round(self.peak_memory_mb),
        }

    def words(self) -> list[str]:
        """Explains the table, and how the demo differs from a real run."""
        rows = {str(row["row"]): row for row in self.ablation.rows()}
        full, video = rows["video + pose + text"], rows["video"]
        best = max(rows, key=lambda name: rows[name]["top1"])
        gain = 100 * (full["top1"] - video["top1"])
        spread = 100 * max(full["top1_std"], video["top1_std"])
        verdict = "does not beat" if gain <= 0 else "is within one deviation of" if gain <= spread else "beats"
        return [
            f"Full UniAlign {verdict} video only: {gain:+.1f} points of top-1 over {len(SEEDS)} seeds "
            f"(largest deviation {spread:.1f}). The pose encoder alone reaches {100 * self.encoder_top1:.1f}.",
            "No other set of modalities does better."
            if best == "video + pose + text"
            else f"But {best} does better still ({100 * rows[best]['top1']:.1f}): adding the rest does not help here.",
            "Embedded defaults of the demo: rendered clips; skeletons that come with them (a real run: `extract poses` "
            "with a pose network); a small sentence encoder (a real run: an OpenCLIP text tower); a tiny backbone "
            "trained from scratch (a real run: a pretrained one).",
            f"Pictures: {self.pictures[0].parent}" if self.pictures else "No pictures.",
            f"{self.seconds:.0f} s, peak memory {self.peak_memory_mb:.0f} MB; everything is in {self.folder}.",
        ]


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
    # One thread: the networks are so small that two threads would wait for each other, and the sweep trains two in
    # parallel.
    limit_threads(1)
    config = demo_config(folder)
    say("1/5 render clips of articulated figures, with skeletons")
    render_collection(folder / "data", progress=lambda done, total: progress(done, total, "render"))
    for modality in ("frames", "poses", "text"):
        say(f"2/5 extract {modality}")
        _extract(modality, config, progress)
    say("3/5 train the pose encoder on cached poses (training performers only), extract pose features")
    encoder = train_from_config(
        with_values(config, {"train.model": "stgcn++", "train.settings": ENCODER_TRAINING}),
        show=lambda at: progress(
            at.epoch * at.batches + at.batch + 1, at.epochs * at.batches, "train the pose encoder"
        ),
    )
    config = with_values(config, {"extract.pose_features.weights": encoder.exported})
    _extract("pose-features", config, progress)
    say(f"4/5 train UniAlign: {len(ROWS)} sets of modalities x {len(SEEDS)} seeds, from the cache alone")
    progress(0, len(ROWS) * len(SEEDS), "train")
    ablation, tables = sweep(
        demo_grid(),
        config,
        jobs=JOBS,
        report=lambda found, done, total: progress(done, total, f"train: {found.trial.row}"),
    )
    say("5/5 draw")
    full = next(found for found in ablation.results if found.trial.row == "video + pose + text")
    pictures = draw_run(Path(full.run), the_dataset(config), config.cache.resolve())
    demo = Demo(
        folder=folder,
        ablation=ablation,
        encoder_top1=encoder.metrics["top1"],
        pictures=tuple(pictures),
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
            "train.settings": TRAINING,
            "train.encoder": ENCODER,
            # Only the last epoch is evaluated, so there is no epoch to select: train on all five performers.
            "train.val_share": 0.0,
        },
    )


def demo_grid() -> Grid:
    """The modality ablation of the demo."""
    rows = tuple(Row(name=name, set={"train.unialign.modalities": chosen}) for name, chosen in ROWS.items())
    return Grid(name="modalities", seeds=SEEDS, rows=rows)


def peak_memory_mb() -> float:
    """Peak resident memory so far of this process or of any one child that has ended, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit / 1e6


def _extract(modality: str, config: Config, progress: Callable[..., None]) -> None:
    dataset = the_dataset(config)
    prepared = prepare(modality, dataset, config)
    run_extraction(
        prepared.extractor,
        prepared.sources,
        cache=config.cache.resolve(),
        collection=dataset.collection,
        settings=Settings(shard_samples=EXTRACTORS[modality].shard_samples, threads=1),
        current=prepared.current,
        progress=lambda done, total: progress(done, total, f"extract {modality}"),
    )
    save_manifest(dataset, config.cache.resolve())
