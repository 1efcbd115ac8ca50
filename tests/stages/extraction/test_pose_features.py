"""Contract of the extraction of pose features: from a real store, per view, independent of who else is asked for."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import made_published
from tests.made_encoder import write_encoder
from tests.made_stores import made_dataset, poses_store
from unialign.cache.arrays import ArraySpec
from unialign.cache.keys import Key
from unialign.cache.records import Entry
from unialign.cache.shards import check_sample
from unialign.cache.store import Store, create_store, grow_store, write_shard
from unialign.errors import MissingCache, StaleCache, UsageError
from unialign.pipeline.extraction.extract import Extraction
from unialign.pipeline.extraction.extractors import EXTRACTORS
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.pose_encoder import Encoder, load_encoder
from unialign.stages.extraction.pose_features import PoseFeatures
from unialign.stages.extraction.published_encoders import AS_NAMED, Reading
from unialign.stages.models.skeleton.stgcnpp import STGCNPlusPlus
from unialign.stages.skeleton_layouts import LAYOUTS

IDS = ("a", "b", "c", "d", "e")
BROKEN, EMPTY = "broken", "empty"


def poses(seed: int) -> dict[str, np.ndarray]:
    """Pixels of one or two persons in frames of 640 x 360, some of them absent for a while."""
    generator = np.random.default_rng(seed)
    num_frames = int(generator.integers(5, 40))
    keypoints = generator.uniform((0, 0, 0.2), (640, 360, 1), (num_frames, 2, 17, 3))
    keypoints[: num_frames // 2, seed % 2] = np.nan
    if seed % 3 == 0:
        keypoints[:, 1] = np.nan
    return {"keypoints": keypoints.astype("float16"), "frame_size": np.array([360, 640], dtype="int32")}


def make_poses(cache: Path, joints: list[str]) -> Path:
    dims = ("frame", "person", "joint", "coordinate")
    arrays = (
        ArraySpec("keypoints", "float16", (64, 2, 17, 3), dims, ragged=True, chunk=16, attributes={"joints": joints}),
        ArraySpec("frame_size", "int32", (2,), ("axis",), attributes={"axes": ["height", "width"]}),
    )
    store = create_store(Store(cache / "poses.zarr", "made", "poses", Key({"extractor": "made"}), arrays, 16, {}))
    grow_store(store, 1)
    empty = poses(1)
    empty["keypoints"][:] = np.nan
    entries = [Entry(name, "ok", f"sha256:{name}") for name in (*IDS, EMPTY)]
    values = [*(poses(seed) for seed in range(len(IDS))), empty]
    write_shard(store, 0, [*entries, Entry(BROKEN, "truncated", "sha256:x")], [*values, {}])
    return store.path


def make_weights(path: Path) -> str:
    torch.manual_seed(5)
    config = {"layout": "coco-17", "num_classes": 3, "width": 6}
    network = STGCNPlusPlus(**config)
    network(torch.randn(4, 2, 16, 17, 3), torch.ones(4, 2).bool())  # batch statistics unlike those of a new network
    made = {"classes": ("x", "y", "z"), "protocol": "made", "dataset": "made"}
    encoder = Encoder("stgcn++", network, config, LAYOUTS["coco-17"], "pyskl-2d", 16, network.width, **made)
    write_encoder(path, encoder)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> PoseFeatures:
    folder = tmp_path_factory.mktemp("pose-features")
    digest = make_weights(folder / "encoder.pt")
    store = make_poses(folder, list(LAYOUTS["coco-17"].joints))
    return PoseFeatures("stgcn++", store, "poses-key", folder / "encoder.pt", digest, num_offsets=2, batch_size=8)


def extract(extractor: PoseFeatures, ids: tuple[str, ...]) -> dict[str, Outcome]:
    outcomes = list(extractor.run([Source(name) for name in ids]))
    assert [outcome.id for outcome in outcomes] == list(ids)
    return {outcome.id: outcome for outcome in outcomes}


def same(first: Outcome, second: Outcome) -> bool:
    return all(np.array_equal(first.arrays[name], second.arrays[name]) for name in ("tokens", "feature"))


def test_outcomes_fit_the_declared_arrays_and_name_their_poses(extractor: PoseFeatures):
    specs = {spec.name: spec for spec in extractor.arrays()}
    assert specs["tokens"].shape == (4, 4, 24)
    assert specs["tokens"].attributes["views"][3] == {"offset": 1, "num_offsets": 2, "flip": True}
    for name, outcome in extract(extractor, IDS).items():
        assert outcome.status == "ok"
        assert outcome.source == f"sha256:{name}"
        assert outcome.arrays.keys() == specs.keys()
        for array, value in outcome.arrays.items():
            check_sample(specs[array], value)
            assert np.isfinite(value).all()
        mean = outcome.arrays["tokens"].astype(float).mean(axis=1)
        np.testing.assert_allclose(outcome.arrays["feature"], mean, rtol=2e-3, atol=1e-3)
        assert len(np.unique(outcome.arrays["feature"], axis=0)) == 4


def test_features_do_not_depend_on_the_other_samples(extractor: PoseFeatures):
    together = extract(extractor, IDS)
    backwards = extract(extractor, IDS[::-1])
    for name in IDS:
        assert same(together[name], backwards[name])
        assert same(together[name], extract(extractor, (name,))[name])


def test_another_batch_size_changes_at_most_the_last_bits(extractor: PoseFeatures):
    together, other = extract(extractor, IDS), extract(replace(extractor, batch_size=3), IDS)
    for name in IDS:
        first, second = together[name].arrays["feature"], other[name].arrays["feature"]
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_poses_without_anybody_are_a_status_and_end_nothing(extractor: PoseFeatures):
    outcomes = extract(extractor, ("a", EMPTY, "b"))
    assert outcomes[EMPTY].status == "no-person"
    assert outcomes[EMPTY].arrays == {}
    assert same(outcomes["b"], extract(extractor, ("b",))["b"])


def test_quarantined_poses_keep_their_status_and_end_nothing(extractor: PoseFeatures):
    outcomes = extract(extractor, ("a", BROKEN, "b"))
    assert (outcomes[BROKEN].status, outcomes[BROKEN].source) == ("truncated", "poses:truncated")
    assert outcomes[BROKEN].arrays == {}
    assert same(outcomes["b"], extract(extractor, ("b",))["b"])


def test_samples_that_were_never_extracted_are_an_error(extractor: PoseFeatures):
    with pytest.raises(MissingCache, match="never seen"):
        extract(extractor, ("never seen",))


def test_key_has_what_decides_the_bytes_and_nothing_else(extractor: PoseFeatures):
    key = Key(extractor.key()).digest
    for change in (
        {"poses_key": "other"},
        {"weights_digest": "0" * 64},
        {"num_offsets": 3},
        {"flips": False},
        {"clip_len": 32},
        {"name": "shift-gcn"},
    ):
        assert Key(replace(extractor, **change).key()).digest != key, change
    for change in ({"poses": Path("x")}, {"weights": Path("y")}, {"device": "cpu"}, {"batch_size": 64}):
        assert Key(replace(extractor, **change).key()).digest == key, change


def test_extractor_travels_to_another_process(extractor: PoseFeatures):
    assert pickle.loads(pickle.dumps(extractor)) == extractor


def test_poses_with_other_joints_are_rejected(extractor: PoseFeatures, tmp_path: Path):
    other = replace(extractor, poses=make_poses(tmp_path, [str(number) for number in range(17)]))
    with pytest.raises(UsageError, match="needs coco-17"):
        extract(other, ("a",))


def test_replaced_or_misnamed_weights_are_rejected(extractor: PoseFeatures):
    with pytest.raises(StaleCache, match="was replaced"):
        replace(extractor, weights_digest="0" * 64).arrays()
    with pytest.raises(UsageError, match=r"holds the encoder stgcn\+\+, not shift-gcn"):
        replace(extractor, name="shift-gcn").arrays()


def test_attributes_say_what_the_encoder_was_trained_on(extractor: PoseFeatures):
    attributes = extractor.attributes()
    assert attributes["trained_on"] == {"dataset": "made", "protocol": "made", "classes": ["x", "y", "z"]}
    assert attributes["recipe"] == "pyskl-2d"


def test_the_summary_says_how_the_encoder_read_the_poses(extractor: PoseFeatures, tmp_path: Path):
    key = Key(dict(extractor.key()))
    path = tmp_path / "pose-features.zarr"
    create_store(Store(path, "made", "pose-features", key, extractor.arrays(), 1, dict(extractor.attributes())))
    done = Extraction("pose-features", key, path, 1, 1, 1, 0, {}, 0.0)
    told = EXTRACTORS["pose-features"].told
    assert told is not None
    assert told(done, ()) == {"encoder": "stgcn++, coco-17, pyskl-2d, 16 frames, trained on made made"}


def test_what_a_published_file_does_not_say_is_part_of_the_key(extractor: PoseFeatures, tmp_path: Path):
    """The poses of a YOLO network (COCO-17, with scores) by PYSKL's ST-GCN++, as joints and as bones."""
    weights = made_published.checkpoint(tmp_path / "stgcnpp_ntu60_xsub_hrnet" / "j.pth", "stgcn++")
    digest, found = hashlib.sha256(weights.read_bytes()).hexdigest(), {}
    for asked in (AS_NAMED, Reading(stream="bone")):
        reading = load_encoder(weights, asked).reading
        made = replace(
            extractor, weights=weights, weights_digest=digest, reading=reading, num_offsets=1, flips=False, batch_size=2
        )
        assert made.attributes()["trained_on"]["dataset"] == "ntu60"
        assert made.arrays()[0].shape == (1, 25, 256)
        found[made.attributes()["recipe"]] = (made.key(), extract(made, ("a", "b")))
    (joint, of_joints), (bone, of_bones) = found["pyskl-2d"], found["pyskl-2d-bone"]
    assert joint["reading"] == {"stream": "joint", "layout": "coco-17", "recipe": "pyskl-2d", "clip_len": 100}
    assert joint["weights"] == bone["weights"]
    assert joint != bone
    assert not same(of_joints["a"], of_bones["a"])
    assert "reading" not in extractor.key(), "the keys of stores that exist stay as they are"


def test_without_weights_features_are_of_the_joints_themselves(tmp_path: Path):
    dataset = made_dataset()
    poses = poses_store(tmp_path, dataset)
    extractor = PoseFeatures("motion", poses.path, "poses-key", None, "", num_offsets=2)
    specs = {spec.name: spec for spec in extractor.arrays()}
    assert specs["feature"].shape == (4, 4 * 2 * 17 * 2)
    assert specs["tokens"].shape == (4, 8, 4 * 2 * 17 * 2)
    found = extract(extractor, tuple(sample.id for sample in dataset.samples[:3]))
    for outcome in found.values():
        for array, value in outcome.arrays.items():
            check_sample(specs[array], value)
    first, mirrored = next(iter(found.values())).arrays["feature"][:2].reshape(2, 4, 2, 17, 2)
    # The mean place of a left joint is, mirrored, that of the right one on the other side.
    layout = LAYOUTS["coco-17"]
    np.testing.assert_allclose(mirrored[0, 0, :, 0], -first[0, 0, list(layout.mirror), 0], atol=1e-5)
    assert not first[:, 1].any()  # there is one person
    assert extractor.attributes()["trained_on"] == {"dataset": "", "protocol": "", "classes": []}
    assert Key(extractor.key()).digest != Key(replace(extractor, num_offsets=1).key()).digest
