"""Every dataset known to the program, by name: the package's own and those of plug-ins."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from unialign.errors import CorruptInput, UsageError
from unialign.plugins import Table, called, imported, is_reference
from unialign.stages.datasets.base import Dataset


@dataclass(frozen=True)
class DatasetRow:
    """One dataset; docs/datasets.md has an example.

    load: a function that returns a `Dataset`, or its location, "package.module:function", which is imported on first
    use. It gets the data root, an absolute path, and whichever of these arguments it accepts: `name`, the name of the
    row; `roots`, other folders that links and absolute paths in lists may point into; `labels`, the file of `--labels`.
    title: a short description.
    root: what the data root is. labels: what the file of `--labels` holds; empty if the dataset takes none.
    sizes: published number of samples, by protocol and part.
    """

    load: str | Callable[..., Dataset]
    title: str
    root: Literal["folder", "file"] = "folder"
    labels: str = ""
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


_HERE = "unialign.stages.datasets"
CLASS_NAMES = "text with one class name per line"
DATASETS: Table[DatasetRow] = Table(
    "unialign.datasets",
    DatasetRow,
    {
        # Without missing skeletons; videos are 40,320 / 16,560 (xsub) and 37,920 / 18,960 (xview). Zero-shot splits:
        # counted in CTR-GCN's list of samples with skeletons.
        "ntu60": DatasetRow(
            f"{_HERE}.ntu:load_ntu",
            "NTU RGB+D 60",
            sizes={
                "xsub": {"train": 40_091, "test": 16_487},
                "xview": {"train": 37_646, "test": 18_932},
                "synse-55-5": {"train": 36_758, "test": 1_368},
                "synse-48-12": {"train": 32_070, "test": 3_291},
                "smie-1": {"train": 36_745, "test": 1_374},
                "smie-2": {"train": 36_750, "test": 1_374},
                "smie-3": {"train": 36_759, "test": 1_370},
            },
        ),
        "ntu120": DatasetRow(
            f"{_HERE}.ntu:load_ntu",
            "NTU RGB+D 120",
            sizes={
                "xsub": {"train": 63_026, "test": 50_919},
                "xset": {"train": 54_468, "test": 59_477},
                "synse-110-10": {"train": 57_767, "test": 4_249},
                "synse-96-24": {"train": 50_141, "test": 9_892},
                "smie-4": {"train": 57_768, "test": 4_236},
                "smie-5": {"train": 57_484, "test": 3_943},
                "smie-6": {"train": 57_475, "test": 3_949},
            },
        ),
        # Lines of the lists v1.1.
        "gym99": DatasetRow(
            f"{_HERE}.finegym:load_finegym",
            "FineGym99, trimmed clips",
            sizes={"official": {"train": 26_320, "val": 8_521}},
        ),
        "gym288": DatasetRow(
            f"{_HERE}.finegym:load_finegym",
            "FineGym288, trimmed clips",
            sizes={"official": {"train": 29_334, "val": 9_646}},
        ),
        "diving48": DatasetRow(
            f"{_HERE}.diving48:load_diving48", "Diving48 V2", sizes={"official": {"train": 15_027, "test": 1_970}}
        ),
        # Of the copies described by mmaction2; the official lists are longer than what can still be downloaded.
        "k400": DatasetRow(
            f"{_HERE}.kinetics:load_kinetics", "Kinetics-400", sizes={"official": {"train": 240_436, "val": 19_796}}
        ),
        "k600": DatasetRow(
            f"{_HERE}.kinetics:load_kinetics", "Kinetics-600", sizes={"official": {"train": 383_393, "val": 27_910}}
        ),
        "k700": DatasetRow(
            f"{_HERE}.kinetics:load_kinetics", "Kinetics-700", sizes={"official": {"train": 542_357, "val": 34_824}}
        ),
        "ssv2": DatasetRow(
            f"{_HERE}.something:load_ssv2",
            "Something-Something V2",
            sizes={"official": {"train": 168_913, "val": 24_777}},
        ),
        "ucf101": DatasetRow(
            f"{_HERE}.ucf101:load_ucf101",
            "UCF101",
            sizes={
                "split1": {"train": 9_537, "test": 3_783},
                "split2": {"train": 9_586, "test": 3_734},
                "split3": {"train": 9_624, "test": 3_696},
            },
        ),
        "hmdb51": DatasetRow(
            f"{_HERE}.ucf101:load_hmdb51",
            "HMDB51",
            sizes={f"split{number}": {"train": 3_570, "test": 1_530} for number in (1, 2, 3)},
        ),
        "penn-action": DatasetRow(
            f"{_HERE}.penn_action:load_penn_action",
            "Penn Action, annotated joints",
            sizes={"official": {"train": 1_258, "test": 1_068}},
        ),
        "jhmdb": DatasetRow(
            f"{_HERE}.jhmdb:load_jhmdb",
            "J-HMDB, annotated joints",
            sizes={"split1": {"train": 660, "test": 268}},
        ),
        # As papers use them (CrosSCLR, AimCLR): together the 21,545 instances of the release, four of them unusable.
        "pku-mmd": DatasetRow(
            f"{_HERE}.pku_mmd:load_pku_mmd",
            "PKU-MMD phase 1, cut to instances",
            sizes={"xsub": {"train": 18_841, "test": 2_704}, "xview": {"train": 14_357, "test": 7_188}},
        ),
        "pku-mmd-2": DatasetRow(f"{_HERE}.pku_mmd:load_pku_mmd", "PKU-MMD phase 2, cut to instances"),
        "utd-mhad": DatasetRow(
            f"{_HERE}.utd_mhad:load_utd_mhad",
            "UTD-MHAD",
            labels=CLASS_NAMES,
            sizes={"subject-odd": {"train": 431, "test": 430}},
        ),
        "folder": DatasetRow(f"{_HERE}.folder:load_folder", "your own videos", labels="CSV of path,label"),
        "skeletons": DatasetRow(
            f"{_HERE}.own_skeletons:load_own_skeletons", "your own skeletons, an npz file", root="file"
        ),
        "skeleton-files": DatasetRow(
            f"{_HERE}.skeleton_folders:load_skeleton_files",
            "skeletons of OpenPose, AlphaPose, MediaPipe or in CSV files",
            labels="CSV of path,label",
        ),
        "kinetics-skeleton": DatasetRow(
            f"{_HERE}.skeleton_folders:load_kinetics_skeleton",
            "Kinetics-400 poses released with ST-GCN",
            sizes={"official": {"train": 240_436, "val": 19_796}},
        ),
        "ctr-gcn": DatasetRow(f"{_HERE}.ctr_gcn:load_ctr_gcn", "npz file of CTR-GCN", root="file"),
        "pyskl": DatasetRow(
            f"{_HERE}.pyskl:load_pyskl", "annotation pickle of pyskl or mmaction2", root="file", labels=CLASS_NAMES
        ),
        "demo": DatasetRow(f"{_HERE}.demo:load_demo", "what `unialign demo` renders"),
    },
)


def load_dataset(name: str, root: Path, labels: Path | None = None, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset with that name, a key of `DATASETS` or "package.module:function", read from `root`.

    roots: other folders that links, and absolute paths in lists, may point into. labels: see `DatasetRow`.
    Raises `UsageError` for an unknown name, a root that does not exist or holds no samples, two files for one sample,
    labels that cannot be read, and third-party functions that cannot be imported, fail, or return something else;
    `CorruptInput` for a broken or unsafe pickle.
    """
    if name in DATASETS:
        row = DATASETS[name]
        load = imported(row.load) if isinstance(row.load, str) else row.load
        if not (root.is_file() if row.root == "file" else root.is_dir()):
            raise UsageError(
                f"{root} is not a {row.root}, but the data root of {name} ({row.title}) must be one; give it with "
                "--root, UNIALIGN_DATA or `data:` in unialign.yaml."
            )
    elif is_reference(name):
        load = imported(name)
        if not root.exists():
            raise UsageError(f"{root} does not exist; give the data root with --root, UNIALIGN_DATA or `data:`.")
    else:
        raise UsageError(
            f"unknown dataset {name!r}; known are {', '.join(DATASETS)}, and package.module:function for one of your "
            "own."
        )
    wanted = inspect.signature(load).parameters
    if labels is not None and "labels" not in wanted:
        raise UsageError(f"dataset {name} brings its own labels; leave out {labels}.")
    given = {"name": name, "roots": roots} | ({} if labels is None else {"labels": labels})
    try:
        found = called(load, f"dataset {name}", root, **{each: given[each] for each in given if each in wanted})
    except CorruptInput as error:
        # It is not one sample of many that is at fault, but the input as a whole.
        error.exit_code = UsageError.exit_code
        raise
    if not isinstance(found, Dataset):
        raise UsageError(f"dataset {name}: the function returned a {type(found).__name__}, not a unialign.Dataset.")
    if not found.samples:
        raise UsageError(f"dataset {name} has no samples in {root}; check the data root.")
    return replace(found, name=name)
