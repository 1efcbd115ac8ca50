"""Contract of ST-GCN++: the graph convolution is its definition, all parameters learn, absent persons take no part."""

import pytest
import torch

from unialign.stages.models.skeleton.graph import spatial_partition
from unialign.stages.models.skeleton.stgcnpp import GraphConvolution, STGCNPlusPlus
from unialign.stages.skeleton_layouts import LAYOUTS


def small(layout: str = "coco-17", **changes: object) -> STGCNPlusPlus:
    torch.manual_seed(3)
    return STGCNPlusPlus(**{"layout": layout, "num_classes": 5, "width": 8, **changes})


def test_shapes_and_feature_is_the_mean_of_tokens():
    for layout, definition in LAYOUTS.items():
        network = small(layout).eval()
        with torch.no_grad():
            out = network(torch.randn(2, 2, 18, len(definition.joints), 3), torch.tensor([[1, 1], [1, 0]]).bool())
        assert out["tokens"].shape == (2, 5, 32)
        assert out["logits"].shape == (2, 5)
        torch.testing.assert_close(out["feature"], out["tokens"].mean(1))


def test_every_parameter_gets_a_gradient():
    # In training, batch normalization takes away the effect of the biases in front of it. Wide enough that no branch is
    # a single channel that happens to be dead.
    network = small(width=36).eval()
    keypoints = torch.randn(4, 2, 16, 17, 3)
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]]).bool()
    out = network(keypoints, present)
    (out["logits"].square().sum() + out["tokens"].square().sum()).backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_training_reaches_every_parameter():
    network = small().train()
    network(torch.randn(3, 2, 16, 17, 3), torch.tensor([[1, 1], [1, 0], [0, 1]]).bool())["logits"].sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


def test_graph_convolution_is_the_literal_sum():
    torch.manual_seed(0)
    block = GraphConvolution(3, 4, torch.from_numpy(spatial_partition(LAYOUTS["coco-17"]))).double()
    with torch.no_grad():
        block.graph += torch.randn_like(block.graph) * 0.1
    rows = torch.randn(2, 3, 5, 17, dtype=torch.float64)
    weight = block.project.weight.view(3, 4, 3)
    bias = block.project.bias.view(3, 4)
    expected = torch.zeros(2, 4, 5, 17, dtype=torch.float64)
    with torch.no_grad():
        for subset in range(3):
            for target in range(17):
                for joint in range(17):
                    projected = torch.stack([weight[subset] @ row[:, :, joint] for row in rows]) + bias[subset][:, None]
                    expected[..., target] += projected * block.graph[subset, joint, target]
        torch.testing.assert_close(block.mix(rows), expected, rtol=1e-12, atol=1e-12)


def test_absent_persons_change_nothing_in_evaluation():
    network = small().eval()
    keypoints = torch.randn(2, 2, 16, 17, 3)
    present = torch.tensor([[1, 1], [1, 0]]).bool()
    changed = keypoints.clone()
    changed[1, 1] = float("nan")
    with torch.no_grad():
        before, after = network(keypoints, present), network(changed, present)
        alone = network(keypoints[1:, :1], present[1:, :1])
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        torch.testing.assert_close(value[1:], alone[name])


def test_absent_persons_stay_out_of_the_batch_statistics():
    keypoints = torch.randn(3, 2, 16, 17, 3)
    present = torch.tensor([[1, 1], [1, 0], [0, 1]]).bool()
    first, second = small().train(), small().train()
    first(keypoints, present)
    second(keypoints.masked_fill(~present[:, :, None, None, None], 1e6), present)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_order_of_persons_does_not_matter():
    network = small().eval()
    keypoints, present = torch.randn(2, 2, 16, 17, 3), torch.ones(2, 2, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(network(keypoints, present), network(keypoints.flip(1), present))


def test_clip_without_anybody_is_not_a_number():
    with torch.no_grad():
        out = small().eval()(torch.randn(1, 2, 16, 17, 3), torch.zeros(1, 2, dtype=torch.bool))
    assert out["feature"].isnan().all()


def test_too_narrow_a_network_is_rejected():
    with pytest.raises(ValueError, match="branches"):
        small(width=5)


def test_published_size_has_about_1_4_million_parameters():
    # PYSKL gives about 1.4 M for 60 classes.
    count = sum(value.numel() for value in small("ntu-25", width=64, num_classes=60).parameters())
    assert 1.35e6 < count < 1.45e6
