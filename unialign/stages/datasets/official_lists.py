"""What the adapters of published video datasets share: clips named by lists, found below the data root.

A list decides which clips belong to a dataset, their classes and their parts; the videos may be anywhere below the
root. Missing clips are left out and counted, since every copy of these datasets lacks some.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unialign.cache.bounded import parse_json
from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample, Span
from unialign.stages.datasets.class_names import spoken_names
from unialign.stages.datasets.scan import check_name, clip_at, clip_name, refuse_link_outside, walk_files
from unialign.stages.datasets.splits import by_part
from unialign.types import Json

# The list of Something-Something V2 is 30 MB, and so is that of Kinetics-700; a row has a path and a sentence.
MAX_BYTES, MAX_ROWS, MAX_ROW = 2**28, 2_000_000, 2**16

# Protocol: id: "train", "val" or "test".
Parts = Mapping[str, Mapping[str, str]]


def find_lists(root: Path, roots: Sequence[Path], wanted: Mapping[str, Callable[[str], bool]]) -> dict[str, list[Path]]:
    """The list files below `root` by kind. wanted: for each kind a predicate on the file name, in lower case.

    Raises `UsageError` for links out of the root.
    """
    found: dict[str, list[Path]] = {kind: [] for kind in wanted}
    for entry in walk_files(root, roots):
        for kind, is_one in wanted.items():
            if is_one(entry.name.lower()):
                if entry.is_symlink():
                    refuse_link_outside(Path(entry.path), root, roots)
                found[kind].append(Path(entry.path))
    return found


def the_list(found: Mapping[str, Sequence[Path]], kind: str, root: Path, named: str) -> Path:
    """The only list of a kind. named: its name in the release. Raises `UsageError` for none and for several."""
    paths = found[kind]
    if len(paths) != 1:
        what = f"{paths[0]} and {paths[1]} are both one" if paths else "there is none"
        raise UsageError(f"{root}: the official list {named} is needed below it, and {what}.")
    return paths[0]


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a UTF-8 list. Raises `UsageError` for a file that cannot be such a list."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes; this is no list of clips.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text at byte {error.start}.") from error
    if len(lines) > MAX_ROWS or max(map(len, lines), default=0) > MAX_ROW:
        raise UsageError(f"{path}: more than {MAX_ROWS} lines, or a line of more than {MAX_ROW} characters.")
    return [line for line in lines if line]


def read_json(path: Path) -> Json:
    """The value of a JSON list. Raises `UsageError` for a file that is not JSON or is larger than any list of clips."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes; this is no list of clips.")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON ({str(error)[:100]}).") from error


class NoClips(UsageError):
    """The lists are here, but none of their clips. name: of the dataset. listed: as `Dataset.listed`."""

    def __init__(self, message: str, name: str, listed: Parts) -> None:
        super().__init__(message)
        self.name, self.listed = name, listed


@dataclass(frozen=True)
class Cut:
    """Where a clip is in a whole video. video: name of that, without its ending. span: start and end in seconds."""

    video: str
    span: Span


def _clips_below(
    root: Path, roots: Sequence[Path], id_of: Callable[[Path], str], wanted: Container[str]
) -> tuple[dict[str, Path], int]:
    """The wanted videos and folders of images below the root by their ids, and how many others there are."""
    clips: dict[str, Path] = {}
    others: set[Path] = set()
    for entry in walk_files(root, roots):
        file = Path(entry.path)
        path = clip_at(file)
        if path is None:
            continue
        identifier = id_of(path)
        if identifier not in wanted:
            others.add(path)
            continue
        if entry.is_symlink():
            refuse_link_outside(file, root, roots)
        other = clips.setdefault(identifier, path)
        if other != path:
            raise UsageError(f"{other} and {path}: two videos of one clip; remove or move one of them.")
    return clips, len(others)


def listed_dataset(
    name: str,
    root: Path,
    roots: Sequence[Path],
    *,
    classes: Sequence[str],
    labels: Mapping[str, int],
    parts: Parts,
    id_of: Callable[[Path], str] = clip_name,
    cuts: Mapping[str, Cut] | None = None,
    mirror: bool = True,
    notes: Iterable[str] = (),
) -> Dataset:
    """A dataset of the clips that are listed and present.

    labels: class of each listed clip by id. id_of: the id of a video file or of a folder of images. cuts: where each
    clip is in which whole video, by id: it is cut from that where it is not here as a clip of its own. Raises
    `UsageError` if no listed clip is present, and for two files for one clip and links out of the root.
    """
    cuts = cuts or {}
    clips, unlisted = _clips_below(root, roots, id_of, {*labels, *(cut.video for cut in cuts.values())})
    videos = {each: clips[each] for each in labels if each in clips}
    spans = {each: cut.span for each, cut in cuts.items() if each not in videos and cut.video in clips}
    videos |= {each: clips[cuts[each].video] for each in spans if each in labels}
    if not videos:
        example = next(iter(labels), "")
        raise NoClips(
            f"{root}: none of the {len(labels)} listed clips is below it; the first is {example[:80]!r}.", name, parts
        )
    twice = next((each for each, count in Counter(classes).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{root}: two classes of {name} are called {twice[:80]!r}; the list is damaged.")
    samples = tuple(
        Sample(check_name(each, str(root)), labels[each], {"video": videos[each]}, span=spans.get(each))
        for each in sorted(videos)
    )
    missing = [
        f"{protocol}: {count:,} of {total:,} listed {part} clips are not here"
        for protocol, part_of in parts.items()
        for part, total in Counter(part_of.values()).items()
        if (count := sum(each not in videos for each, its in part_of.items() if its == part))
    ]
    more = [f"{unlisted:,} videos are in no list and are not used"] if unlisted else []
    more += [f"{len(spans):,} clips are cut from whole videos"] if spans else []
    return Dataset(
        name=name,
        collection=name,
        root=root,
        classes=spoken_names(classes, name),
        samples=samples,
        protocols={protocol: partial(by_part, part_of) for protocol, part_of in parts.items()},
        notes=(*notes, *missing, *more),
        published=True,
        mirror=mirror,
        listed=parts,
    )
