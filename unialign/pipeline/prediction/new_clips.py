"""What a new clip is for a model, from the keys of its stores: a video, a skeleton file, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unialign.errors import UsageError
from unialign.pipeline.prediction.as_trained import sees_frames
from unialign.pipeline.prediction.trained import Trained
from unialign.stages.datasets.keypoint_files import KEYPOINT_FORMATS, read_keypoints
from unialign.stages.datasets.skeleton_formats import SkeletonFormat
from unialign.stages.skeleton_layouts import layout_from
from unialign.stages.video_containers import VIDEO_SUFFIXES
from unialign.types import Json

# Formats of one clip a file, and how such files end. "ntu" is that of keys without a format.
NTU = "ntu"
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    NTU: (".skeleton",),
    "utd-mhad": (".mat",),
    "json": (".json",),
    "csv": (".csv",),
}
# Ends of names by which NTU RGB+D and UTD-MHAD tell a clip's video from its skeletons.
OF_VIDEOS, OF_SKELETONS = ("_rgb", "_color"), ("", "_skeleton")
# The folder beside that of the videos in which `unialign demo` and others keep skeletons.
SKELETON_FOLDER = "skeletons"


@dataclass(frozen=True)
class ClipKind:
    """What the model reads of a clip. videos: its video. skeletons: the format of its skeleton file, None without.

    suffixes: of the files that clips are named by.
    """

    videos: bool
    skeletons: str | SkeletonFormat | None
    suffixes: tuple[str, ...]
    _of_skeletons: tuple[str, ...] = ()

    def files(self, path: Path) -> dict[str, Path]:
        """The files of a clip, as in `Sample.files`.

        Raises `UsageError` for a video without the skeleton file that the model needs.
        """
        if self.skeletons is None:
            return {"video": path}
        return {"video": path, "skeleton": self._beside(path)} if self.videos else {"skeleton": path}

    def _beside(self, video: Path) -> Path:
        stems = [video.stem, *(video.stem.removesuffix(end) for end in OF_VIDEOS if video.stem.endswith(end))]
        names = [f"{stem}{end}{suffix}" for stem in stems for end in OF_SKELETONS for suffix in self._of_skeletons]
        for folder in (video.parent, video.parent.parent / SKELETON_FOLDER):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise UsageError(
            f"{video} has no skeleton file: the model reads frames and poses from such files, so it needs {names[0]} "
            f"beside the video, or in {video.parent.parent / SKELETON_FOLDER}."
        )


def clip_kind(trained: Trained) -> ClipKind:
    """What new clips of a model are. Raises `UsageError` if poses came from files that hold a whole dataset."""
    poses = trained.keys.get("poses")
    videos = tuple(sorted(VIDEO_SUFFIXES))
    if poses is None or sees_frames(poses):
        return ClipKind(True, None, videos)
    form, endings = _format_of(poses, trained.where)
    both = "frames" in trained.keys
    return ClipKind(both, form, videos if both else endings, endings)


def _format_of(poses: Mapping[str, Json], where: str) -> tuple[str | SkeletonFormat, tuple[str, ...]]:
    name = str(poses.get("format") or (NTU if poses.get("extractor") == "skeleton" else poses.get("extractor")))
    if name not in SUFFIXES:
        raise UsageError(
            f"{where} was trained on poses in the format {name}, which has no file for a single clip; predict takes "
            f"skeleton files of {', '.join(SUFFIXES)}, or videos for a model of poses from videos."
        )
    if name not in KEYPOINT_FORMATS:
        return name, SUFFIXES[name]
    layout, title = layout_from(str(poses["layout"]), where), KEYPOINT_FORMATS[name].title
    return SkeletonFormat(name, layout, str(poses["unit"]), read_keypoints, source=title), SUFFIXES[name]
