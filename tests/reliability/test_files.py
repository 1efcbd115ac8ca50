"""R8: every file of a store deleted, emptied, cut, longer, swapped, foreign, a folder, a link, one too many.

`verify` names the unit, opening rejects what is missing or of another length, reads raise or give the exact arrays.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.made_extractor import Spectrum
from tests.reliability.conftest import Report
from tests.reliability.damage import INDEX, Mutation, mutations
from tests.reliability.scenes import Scene, blind, kept, make_scene, read_everything, sized, unit_of
from unialign.cache.reader import StoreReader
from unialign.cache.verify import verify_store
from unialign.errors import CacheProblem


def check_named(store: Path, mutation: Mutation) -> None:
    """Fails unless `verify` names every hit file, or something of its unit. A store without its index is whole."""
    if (mutation.kind, mutation.hit) == ("delete", (INDEX,)):
        return
    try:
        found = verify_store(store)
    except CacheProblem:
        assert mutation.hit == ("zarr.json",), f"verify gave up after {mutation.name}"
        return
    for name in mutation.hit:
        unit = unit_of(name)
        named = [
            each
            for each in found
            if each.file.split("/")[: len(name.split("/"))] == name.split("/")
            or (unit is not None and unit in (each.shard, unit_of(each.file)))
        ]
        assert named, f"verify does not name {mutation.name}: {found}"


def check_mutation(scene: Scene, mutation: Mutation) -> bool:
    """Apply it, verify, open, read everything; returns whether a read was rejected. The store is put back."""
    with kept(scene.store):
        mutation.apply()
        check_named(scene.store, mutation)
        if mutation.refused_at_opening:
            try:
                StoreReader(scene.store)
            except CacheProblem:
                pass
            else:
                raise AssertionError(f"opened after {mutation.name}")
        return read_everything(scene.store, scene.expected, mutation.name) > 0


def two_scenes(folder: Path, number: int) -> tuple[Scene, Scene]:
    """Two stores of the same layout and ids: the same files by another recipe."""
    other = make_scene(folder / "other", number, (2,), Spectrum(scale=0.5))
    return make_scene(folder, number, (2,)), other


@pytest.mark.timeout(1800)
def test_every_mutated_file_is_found(memory: Path, report: Report) -> None:
    scene, other = two_scenes(memory, sized(8, 96))
    kinds: Counter[str] = Counter()
    refused = 0
    for mutation in mutations(scene.store, other.store, memory / "outside"):
        refused += check_mutation(scene, mutation)
        kinds[mutation.kind] += 1
    assert len(kinds) == 11, kinds
    assert read_everything(scene.store, scene.expected) == 0
    report("R8", mutations=kinds.total(), detected=kinds.total(), refused_by_reads=refused, silent=0)


def test_meta_without_the_size_check_a_cut_file_is_opened(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, other = two_scenes(memory, 8)
    found = [each for each in mutations(scene.store, other.store, memory / "outside") if each.refused_at_opening]
    monkeypatch.setattr("unialign.cache.reader.check_sizes", lambda *_: None)
    with pytest.raises(AssertionError, match="opened after"):
        check_mutation(scene, next(each for each in found if each.kind == "append"))


def test_meta_without_checksums_a_foreign_file_is_served(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    scene, other = two_scenes(memory, 8)
    foreign = [each for each in mutations(scene.store, other.store, memory / "outside") if each.kind == "foreign"]
    shard = next(each for each in foreign if "/c/" in each.name and not each.sized)
    with pytest.raises(AssertionError, match="verify does not name"):
        check_mutation(scene, shard)
    monkeypatch.setattr("tests.reliability.test_files.check_named", lambda *_: None)
    with pytest.raises(AssertionError, match="silently differs"):
        check_mutation(scene, shard)
