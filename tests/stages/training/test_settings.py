"""Contract of the settings: checked once, with a message that names the field; the rate is a function of the moment."""

from typing import Any

import pytest

from unialign.errors import UsageError
from unialign.stages.training.settings import TrainSettings, learning_rate, settings_from


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lion"}, r"train.settings.optimizer is 'lion'; it is one of sgd, adamw"),
        ({"schedule": "poly"}, r"train.settings.schedule is 'poly'"),
        ({"precision": "int8"}, r"train.settings.precision is 'int8'"),
        ({"epochs": 0}, r"train.settings.epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, r"train.settings.batch_size is 0"),
        ({"lr": 0.0}, r"train.settings.lr is 0.0"),
        ({"lr": float("nan")}, r"train.settings.lr is nan"),
        ({"momentum": -0.1}, r"train.settings.momentum is -0.1"),
        ({"keep": 1}, r"train.settings.keep is 1; at least 2"),
        ({"flip": 1.5}, r"train.settings.flip is 1.5"),
        ({"colour": 1.0}, r"train.settings.colour is 1.0"),
        ({"crop_scale": (0.9, 0.2)}, r"train.settings.crop_scale is \[0.9, 0.2\]"),
        ({"crop_scale": (0.5, 1.2)}, r"train.settings.crop_scale"),
        ({"test_crops": 2}, r"train.settings.test_crops is 2"),
        ({"epochs": 3, "warmup_epochs": 3.0}, r"train.settings.warmup_epochs is 3.0"),
        ({"checkpoint_batches": -1}, r"train.settings.checkpoint_batches is -1"),
        ({"pose_test": "last"}, r"train.settings.pose_test is 'last'"),
        ({"epoch": 3}, r"unknown key train.settings.epoch; known: epochs, batch_size"),
        ({"epochs": "ten"}, r"train.settings.epochs is 'ten'; it must be of type int"),
        ({"epochs": True}, r"train.settings.epochs is True"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_from(values)


def test_plain_values_make_the_same_settings_again() -> None:
    settings = settings_from({"crop_scale": [0.5, 1], "lr": 1, "epochs": 3}, TrainSettings(seed=4))
    assert settings == TrainSettings(crop_scale=(0.5, 1), lr=1.0, epochs=3, seed=4)
    assert settings_from(settings.plain()) == settings


def test_identity_leaves_out_what_changes_no_result() -> None:
    assert TrainSettings(num_workers=3, keep=5, device="cpu", prefetch=9).identity() == TrainSettings().identity()
    assert TrainSettings(seed=1).identity() != TrainSettings().identity()


def test_the_step_schedule_is_arts() -> None:
    settings = TrainSettings(epochs=50, lr=0.01)
    rates = [learning_rate(settings, epoch + 0.5) for epoch in range(50)]
    assert rates[:20] == [0.01] * 20
    assert rates[20:40] == pytest.approx([0.001] * 20)
    assert rates[40:] == pytest.approx([0.0001] * 10)


def test_the_cosine_schedule_rises_then_falls_to_nothing() -> None:
    settings = TrainSettings(epochs=10, lr=1.0, schedule="cosine", warmup_epochs=2.0)
    assert learning_rate(settings, 0) == pytest.approx(0.01)
    assert learning_rate(settings, 1) == pytest.approx(0.5)
    assert learning_rate(settings, 2) == pytest.approx(1.0)
    assert learning_rate(settings, 6) == pytest.approx(0.5)
    assert learning_rate(settings, 10) == pytest.approx(0.0)
    falling = [learning_rate(settings, 2 + part / 10) for part in range(81)]
    assert falling == sorted(falling, reverse=True)
