"""One picture of an ablation, for a README: clips with skeletons and answers beside the rows."""

from pathlib import Path

import numpy as np

from unialign.pipeline.ablation.charted import charted_baselines, charted_rows
from unialign.pipeline.ablation.results import Ablation
from unialign.pipeline.evaluation.pictures import write_pictures
from unialign.pipeline.evaluation.plots import draw_overview
from unialign.pipeline.evaluation.skeleton_frames import liveliest, skeleton_frames
from unialign.pipeline.pages.answers import read_answers
from unialign.pipeline.pages.sources import collection_of, picture_sources, run_stores
from unialign.words import counted

CLIPS, MOST_WRONG = 10, 2


def write_overview(stem: Path, run: Path, ablation: Ablation, cache: Path, *, keep: float = 0) -> Path | None:
    """Draw test clips of a finished run, at their liveliest frame, beside the rows of an ablation that it belongs to.

    stem: the file without its ending; returns the path of the PNG, None for a run whose stores have no frames. Up to
    two clips were answered wrongly; the rest are right ones of evenly spaced classes. keep: see `open_stores`.
    """
    answers = read_answers(run, 0, run.name)
    readers, _ = run_stores(answers.keys, cache, keep)
    sources = picture_sources(readers, cache, collection_of(answers.keys))
    frames = sources.frames
    if frames is None:
        return None
    right = answers.guesses == answers.labels
    there = np.array([name in frames for name in answers.ids])
    chosen = np.flatnonzero(~right & there)[:MOST_WRONG].tolist()
    first = [np.flatnonzero(right & there & (answers.labels == label))[:1] for label in np.unique(answers.labels)]
    good = np.concatenate(first) if first else np.empty(0, np.int64)
    if len(good):
        spaced = np.unique(np.linspace(0, len(good) - 1, CLIPS - len(chosen)).round().astype(int))
        chosen += good[spaced].tolist()
    clips = []
    for place in sorted(chosen, key=lambda place: (int(answers.labels[place]), place)):
        name = answers.ids[place]
        drawn = skeleton_frames(frames, sources.poses, name, [liveliest(frames, sources.poses, name)])
        truth, guess = (answers.classes[int(values[place])] for values in (answers.labels, answers.guesses))
        words = f"{truth}" if right[place] else f"{truth}, taken for {guess}"
        clips.append((drawn.images[0], f"{'✓' if right[place] else '✗'} {words}", bool(right[place])))
    rows = [row for row in ablation.rows() if row["seeds"]]
    title = (
        f"{answers.result['dataset']}: {counted(len(answers.labels), 'test clip')} of "
        f"{counted(len(answers.classes), 'class', 'classes')}; answers of “{answers.config.get('name') or run.name}”"
    )
    return write_pictures(stem, draw_overview(clips, charted_rows(rows, ablation), charted_baselines(ablation), title))
