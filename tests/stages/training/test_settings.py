"""Contract of the settings: checked once, with a message that names the field; the rate is a function of the moment."""

from typing import Any

import pytest

from unialign.errors import UsageError
from unialign.stages.training.settings import TrainSettings, learning_rate, settings_from


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lion"}, r"train.settings.optimizer: input should be 'sgd' or 'adamw', not 'lion'"),
        ({"schedule": "poly"}, r"train.settings.schedule: .* not 'poly'"),
        ({"precision": "int8"}, r"train.settings.precision: .* not 'int8'"),
        ({"epochs": 0}, r"train.settings.epochs: input should be greater than or equal to 1, not 0"),
        ({"batch_size": 0}, r"train.settings.batch_size: .* not 0"),
        ({"lr": 0.0}, r"train.settings.lr: .* greater than 0, not 0.0"),
        ({"lr": float("nan")}, r"train.settings.lr: .* finite number, not nan"),
        ({"momentum": -0.1}, r"train.settings.momentum: .* not -0.1"),
        ({"keep": 1}, r"train.settings.keep: .* equal to 2, not 1"),
        ({"flip": 1.5}, r"train.settings.flip: .* not 1.5"),
        ({"colour": 1.0}, r"train.settings.colour: .* not 1.0"),
        ({"crop_scale": (0.9, 0.2)}, r"train.settings.crop_scale: \[0.9, 0.2\] is not"),
        ({"crop_scale": (0.5, 1.2)}, r"train.settings.crop_scale"),
        ({"test_crops": 2}, r"train.settings.test_crops: .* 1 or 3, not 2"),
        ({"epochs": 3, "warmup_epochs": 3.0}, r"train.settings: warmup_epochs is 3; it must be below epochs \(3\)"),
        ({"checkpoint_batches": -1}, r"train.settings.checkpoint_batches: .* not -1"),
        ({"pose_test": "last"}, r"train.settings.pose_test: .* not 'last'"),
        ({"epoch": 3}, r"unknown key 'train.settings.epoch'; did you mean train.settings.epochs\?"),
        ({"epochs": "ten"}, r"train.settings.epochs: input should be a valid integer, not 'ten'"),
        ({"epochs": True}, r"train.settings.epochs: should be a number, not true"),
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
