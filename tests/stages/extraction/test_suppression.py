"""Contract: a batch's persons are those of Ultralytics' suppression, bit for bit, and come back in one copy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from unialign.stages.extraction.suppression import best_persons, first_persons, kept

IMAGES, ANCHORS, JOINTS, MOST = 4, 300, 17 * 3, 20
GPU = torch.device("cuda", 0)


def predictions(seed: int, classes: int = 1) -> torch.Tensor:
    """Raw predictions of crowds: many boxes around a few places, some scores equal, the last image empty."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(50, 600, (IMAGES, 2, 12))[..., rng.integers(0, 12, ANCHORS)]
    sides = rng.uniform(40, 120, (IMAGES, 2, 12))[..., rng.integers(0, 12, ANCHORS)]
    boxes = np.concatenate([places, sides], axis=1) + rng.normal(0, 4, (IMAGES, 4, ANCHORS))
    scores = np.round(rng.uniform(0, 1, (IMAGES, classes, ANCHORS)), 2)
    scores[-1] = 0.1
    found = np.concatenate([boxes, scores, rng.normal(300, 100, (IMAGES, JOINTS, ANCHORS))], axis=1)
    return torch.from_numpy(found.astype(np.float32))


@pytest.mark.parametrize(("seed", "classes", "most"), [(0, 1, 20), (1, 1, 3), (2, 1, 200), (3, 2, 20)])
def test_persons_are_those_of_ultralytics_bit_for_bit(seed: int, classes: int, most: int) -> None:
    pytest.importorskip("ultralytics")
    import torchvision  # noqa: F401  # non_max_suppression takes another path when this is not imported yet
    from ultralytics.utils.nms import non_max_suppression

    found = predictions(seed, classes)
    wanted = non_max_suppression(found.clone(), 0.25, 0.7, max_det=most, nc=classes)
    persons = best_persons(found, 0.25, 0.7, most, classes)
    assert [len(each) for each in persons] == [len(each) for each in wanted]
    assert max(map(len, persons)) > 2
    assert len(persons[-1]) == 0
    for one, other in zip(persons, wanted, strict=True):
        assert one.tobytes() == np.delete(other.numpy(), 5, axis=1).tobytes()


class Crossings(TorchDispatchMode):
    """Counts copies from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        devices = {each.device for each in (made, *args) if isinstance(each, torch.Tensor)}
        self.number += len(devices) > 1
        return made


def test_the_host_asks_the_device_for_nothing_and_one_copy_brings_all_persons() -> None:
    """On a simulated GPU, whose tensors have no values: whatever wants one on the way raises."""
    with FakeTensorMode(), Crossings() as crossings:
        found = torch.empty(IMAGES, 4 + 1 + JOINTS, ANCHORS, device=GPU)
        persons = kept(found, 0.25, 0.7, MOST)
        assert persons.shape == (IMAGES, MOST, 4 + 1 + JOINTS)
        assert persons.device == GPU
        assert crossings.number == 0
        persons.cpu()
        assert crossings.number == 1
        with pytest.raises(DataDependentOutputException):
            found.sum().item()


def test_a_network_that_suppresses_by_itself_is_cut_at_the_score() -> None:
    found = torch.zeros(2, 5, 6 + JOINTS)
    found[0, :3, 4] = torch.tensor([0.9, 0.8, 0.2])
    found[0, :, 5] = 7
    persons = first_persons(found, 0.25, 20)
    assert [each.shape for each in persons] == [(2, 5 + JOINTS), (0, 5 + JOINTS)]
    assert persons[0][:, 4].tolist() == pytest.approx([0.9, 0.8])
    assert [len(each) for each in first_persons(found, 0.25, 1)] == [1, 0]
