"""Contract of the streams and of both graph networks: shapes, what absent persons do, what each stream reads."""

import pytest
import torch

from unialign.errors import UsageError
from unialign.stages.models.skeleton.ctr_gcn import CTRGCN, RefinedGraphConvolution
from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.models.skeleton.streams import NETWORKS, SkeletonStreams
from unialign.stages.skeleton_layouts import LAYOUTS


def clips(coordinates: int = 2, layout: str = "coco-17") -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    keypoints = torch.randn(3, 2, 12, len(LAYOUTS[layout].joints), 2 * coordinates + 1)
    present = torch.tensor([[True, True], [True, False], [True, True]])
    return keypoints * present[:, :, None, None, None], present


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("fusion", "networks"), [("early", 1), ("late", 3)])
def test_tokens_feature_and_logits_of_every_network(network: str, fusion: str, networks: int) -> None:
    model = SkeletonStreams(layout="coco-17", num_classes=4, coordinates=2, network=network, width=8, fusion=fusion)
    keypoints, present = clips()
    found = model(keypoints, present)
    assert found["tokens"].shape == (3, 3, 32 * networks)
    assert found["feature"].shape == (3, model.width) == (3, 32 * networks)
    assert found["logits"].shape == (3, 4)
    assert found["stream_logits"].shape == (networks, 3, 4)
    assert torch.allclose(found["feature"], found["tokens"].mean(dim=1), atol=1e-6)
    found["logits"].logsumexp(dim=1).sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("network", NETWORKS)
def test_absent_persons_change_nothing(network: str) -> None:
    model = SkeletonStreams(layout="utd-20", num_classes=4, coordinates=3, network=network, width=8).eval()
    keypoints, present = clips(3, "utd-20")
    other = keypoints.clone()
    other[1, 1] = 7.0
    with torch.inference_mode():
        assert torch.equal(model(keypoints, present)["logits"], model(other, present)["logits"])


def test_bones_end_at_their_parents_and_motion_has_the_way_of_the_body() -> None:
    model = SkeletonStreams(layout="penn-13", num_classes=2, coordinates=2, width=8, fusion="late")
    keypoints, _ = clips(layout="penn-13")
    joint, bone, motion = model.split(keypoints)
    child, parent = LAYOUTS["penn-13"].bones[3]
    assert torch.equal(joint, keypoints[..., :3])
    assert torch.equal(bone[..., child, :], keypoints[..., child, :2] - keypoints[..., parent, :2])
    assert (bone[..., LAYOUTS["penn-13"].center, :] == 0).all()
    place = keypoints[..., :2] + keypoints[..., 3:]
    assert torch.allclose(motion[:, :, 5], place[:, :, 5] - place[:, :, 4])
    assert (motion[:, :, 0] == 0).all()


def test_the_refined_graph_starts_as_the_shared_one_and_then_differs_by_channel_and_clip() -> None:
    partition = torch.from_numpy(spatial_partition(LAYOUTS["coco-17"]))
    layer = RefinedGraphConvolution(4, 6, partition)
    rows = torch.randn(2, 4, 5, 17)
    assert torch.allclose(layer.graphs(rows, 1), partition[1].expand(2, 6, 17, 17))
    torch.nn.init.ones_(layer.strength)
    graphs = layer.graphs(rows, 1)
    assert not torch.allclose(graphs[0, 0], graphs[0, 1])
    assert not torch.allclose(graphs[0, 0], graphs[1, 0])


def test_ctr_gcn_has_the_published_size() -> None:
    # The paper gives 1.46 M parameters of a single stream.
    count = sum(value.numel() for value in CTRGCN(layout="ntu-25", num_classes=120).parameters())
    assert 1.2e6 < count < 1.7e6


@pytest.mark.parametrize("wrong", [{"network": "gcn"}, {"streams": []}, {"streams": ["bones"]}, {"fusion": "none"}])
def test_unknown_parts_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="known are"):
        SkeletonStreams(layout="coco-17", num_classes=2, coordinates=2, **wrong)  # type: ignore[arg-type]
