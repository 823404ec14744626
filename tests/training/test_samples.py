import torch

from lorakit.config import TrainConfig
from lorakit.diffusion.timesteps import uniform
from lorakit.training.samples import Ahead, Draws, TrainingSource
from tests.support.cached import cached


def draws(**options: object) -> Draws:
    means = [torch.full((4, 2, 2), float(i)) for i in range(4)]
    config = TrainConfig(**options).suited()  # type: ignore[arg-type]
    return Draws(
        [TrainingSource(name="data", cached=cached(means), captions=[("a", "b")] * 4, batch=4)], config, uniform(1000)
    )


def test_strata_put_a_steps_timesteps_into_a_part_each():
    spread = draws(stratify=True)
    parts = [sorted(sample.timestep // 250 for sample in spread.at(step)) for step in range(20)]
    assert parts == [[0, 1, 2, 3]] * 20
    assert len({tuple(sample.timestep // 250 for sample in spread.at(step)) for step in range(20)}) > 5
    apart = draws()
    assert any(sorted(sample.timestep // 250 for sample in apart.at(step)) != [0, 1, 2, 3] for step in range(20))


def test_what_is_drawn_ahead_is_what_is_drawn_at_once():
    ahead, at_once = Ahead(draws(), 9), draws()
    for step in (0, 1, 2, 0, 1, 7, 8, 3):
        found, wanted = ahead.at(step), at_once.at(step)
        assert [(s.name, s.caption, s.timestep) for s in found] == [(s.name, s.caption, s.timestep) for s in wanted]
        assert all(torch.equal(a.noise, b.noise) for a, b in zip(found, wanted, strict=True))
