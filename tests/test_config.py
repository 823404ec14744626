"""What a run takes where its user names nothing."""

import pytest

from lorakit.config import RATES, TrainConfig
from lorakit.registry import OPTIMIZERS


def rates(**options: object) -> list[float]:
    config = TrainConfig(**options).suited()  # type: ignore[arg-type]
    return [getattr(config, name) for name in RATES]


def test_an_optimizer_that_finds_its_rate_is_told_its_own_for_everything():
    assert rates(optimizer="prodigy") == rates(optimizer="prodigy", model="sd15", mode="full") == [1.0] * 3
    assert rates(optimizer="prodigy", lr_text=0.5) == [1.0, 0.5, 1.0]


def test_rates_are_adamws_times_what_an_optimizers_own_is_to_its():
    assert rates(optimizer="lion", model="sd15") == pytest.approx([2e-5, 1e-5, 1e-4])  # a fifth
    assert rates(optimizer="lion") == pytest.approx([4e-4, 1e-4, 2e-3])
    assert rates(optimizer="schedulefree", model="sd15", mode="full")[0] == pytest.approx(6e-6)  # three times
    assert rates(optimizer="adamw8bit") == rates() == rates(optimizer="torch.optim:SGD") == [2e-3, 5e-4, 1e-2]


def test_it_is_told_what_each_number_follows_from():
    chosen = TrainConfig(optimizer="prodigy", lr=0.1, steps=7).chosen()
    assert chosen["lr_text"] == (1.0, "optimizer") and chosen["batch_size"] == (8, "model")
    assert chosen["alpha"] == (8.0, "rank") and "lr" not in chosen and "steps" not in chosen


def test_constants_are_read_as_they_would_be_imported():
    for name in OPTIMIZERS.names():
        assert OPTIMIZERS.stated(name, "RATE") == OPTIMIZERS[name].RATE
    assert OPTIMIZERS.stated("adamw", "FINDS_RATE", False) is False
