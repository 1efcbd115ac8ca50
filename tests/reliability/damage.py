"""Damage to whole files of a store: each kind, for each file, with what it hits."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.scenes import files_of, unit_of

# Made from the records, and made again when it is missing.
INDEX = "records/index.bin"
SHARES = (0.25, 0.5, 0.9)


@dataclass(frozen=True)
class Mutation:
    """One change to a store.

    hit: the files that are not what was written afterwards, by their path inside the store. sized: whether one of them
    is missing or has another length, so that opening the store must reject if it is a shard's.
    """

    kind: str
    hit: tuple[str, ...]
    sized: bool
    apply: Callable[[], object]

    @property
    def name(self) -> str:
        return f"{self.kind} {' and '.join(self.hit)}"

    @property
    def units(self) -> set[int]:
        """The work units whose shard files or records were hit; a file too many hits none."""
        return {unit for unit in map(unit_of, self.hit) if unit is not None and self.kind != "stray"}

    @property
    def refused_at_opening(self) -> bool:
        """Whether a shard's file is missing or of another length."""
        return self.sized and any("/c/" in name for name in self.hit)


def cut(path: Path, share: float) -> None:
    """Keep that share of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def swap(first: Path, second: Path) -> None:
    """Exchange two files."""
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def to_folder(path: Path) -> None:
    """In place of a file, a folder of the same name with a file in it."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def to_link(path: Path, outside: Path) -> None:
    """A link to the same bytes elsewhere: whoever owns that place can change them later."""
    target = outside / f"link-{path.name}"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


def mutations(store: Path, other: Path, outside: Path) -> Iterator[Mutation]:
    """Every kind for every file of a store.

    other: a store of the same layout and ids with other features. outside: a folder for what links lead to.
    """
    outside.mkdir(exist_ok=True)
    files = files_of(store)
    for path in files:
        name = path.relative_to(store).as_posix()
        data, foreign = path.read_bytes(), other / name

        def one(kind: str, sized: bool, apply: Callable[[], object], name: str = name) -> Mutation:
            return Mutation(kind, (name,), sized, apply)

        yield one("delete", True, path.unlink)
        yield one("empty", True, lambda path=path: path.write_bytes(b""))  # type: ignore[misc]
        for share in SHARES:
            yield one(f"cut at {share}", True, lambda path=path, share=share: cut(path, share))  # type: ignore[misc]
        yield one("append", True, lambda path=path, data=data: path.write_bytes(data + b"\0"))  # type: ignore[misc]
        yield one("to folder", True, lambda path=path: to_folder(path))  # type: ignore[misc]
        yield one("to link", True, lambda path=path: to_link(path, outside))  # type: ignore[misc]
        stray = path.with_name(path.name + "x")
        yield Mutation(
            "stray",
            (stray.relative_to(store).as_posix(),),
            False,
            lambda path=path, stray=stray: shutil.copy(path, stray),  # type: ignore[misc]
        )
        if foreign.is_file() and foreign.read_bytes() != data:
            sized = foreign.stat().st_size != len(data)
            yield one("foreign", sized, lambda path=path, foreign=foreign: shutil.copy(foreign, path))  # type: ignore[misc]
        for sibling in files[files.index(path) + 1 :]:
            if sibling.suffix == path.suffix and sibling.parts[-3:-2] and sibling.read_bytes() != data:
                second = sibling.relative_to(store).as_posix()
                if len(second.split("/")) == len(name.split("/")) and unit_of(second) != unit_of(name):
                    sized = sibling.stat().st_size != len(data)
                    yield Mutation(
                        "swap",
                        (name, second),
                        sized,
                        lambda path=path, sibling=sibling: swap(path, sibling),  # type: ignore[misc]
                    )
