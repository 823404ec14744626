"""The loop over two numbers: groups that take turns, rates, clipping, and what is not finite."""

import pytest
import torch
from torch import nn

from lorakit.training.loop import Descent, Diverged, ParameterGroup, optimizer_of, train


def _torch(kind, inner, **settings):
    return kind([{"params": [*g.parameters.values()], "factor": g.factor} for g in inner], lr=0.0, **settings)


def run(groups, steps, descend=None, **more):
    optimizer = optimizer_of(groups, lambda inner: _torch(torch.optim.SGD, inner))

    def slope(step, parameters):
        one = torch.ones(1)
        return Descent(
            loss=torch.tensor(float(step)),
            gradients=[one.clone() for _ in parameters],
            samples=["data/0"],
            timesteps=torch.zeros(1),
            errors=one,
        )

    return list(train(optimizer, groups, descend or slope, steps, **more))


def test_groups_learn_at_their_own_steps_and_rates():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [
        ParameterGroup(name="a", parameters={"a": a}, rate=lambda step: 0.5, learns=lambda step: step % 2 == 0),
        ParameterGroup(
            name="b", parameters={"b": b}, rate=lambda step: 0.25 * step, learns=lambda step: step % 2 == 1, weight=2.0
        ),
    ]
    steps = run(groups, 4)
    assert a.item() == -1.0  # steps 0 and 2, 0.5 each
    assert b.item() == -(0.25 * 1 + 0.25 * 3) * 2
    assert [list(step.rates) for step in steps] == [["a"], ["b"], ["a"], ["b"]]


def test_parameters_at_rest_do_not_change_by_a_bit_even_under_weight_decay():
    a, b = nn.Parameter(torch.full((1,), 0.3)), nn.Parameter(torch.full((1,), 0.7))
    groups = [
        ParameterGroup(name="a", parameters={"a": a}, rate=lambda step: 0.1, learns=lambda step: step < 2),
        ParameterGroup(name="b", parameters={"b": b}, rate=lambda step: 0.1),
    ]
    optimizer = optimizer_of(groups, lambda inner: _torch(torch.optim.AdamW, inner, weight_decay=0.5))
    seen = []

    def slope(step, parameters):
        ones = [torch.ones(1) for _ in parameters]
        return Descent(
            loss=torch.zeros(()), gradients=ones, samples=[], timesteps=torch.zeros(0), errors=torch.zeros(0)
        )

    for _ in train(optimizer, groups, slope, 5):
        seen.append(a.item())
    assert seen[1] == seen[2] == seen[4] != seen[0]


def test_factors_of_a_rate_reach_their_parameters():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    run([ParameterGroup(name="x", parameters={"a": a, "b": b}, rate=lambda step: 0.1, factors={"b": 16.0})], 1)
    assert a.item() == pytest.approx(-0.1) and b.item() == pytest.approx(-1.6)


def test_gradients_are_scaled_down_to_the_norm():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    (step,) = run([ParameterGroup(name="x", parameters={"a": a, "b": b}, rate=lambda step: 1.0)], 1, max_norm=0.5)
    assert step.norm.item() == pytest.approx(2**0.5)
    assert (a.item() ** 2 + b.item() ** 2) ** 0.5 == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_parameters_change(bad):
    a = nn.Parameter(torch.ones(1))

    def slope(step, parameters):
        odd = float("nan") if step == 2 else 1.0
        loss, gradient = (odd, 1.0) if bad == "loss" else (1.0, odd)
        return Descent(
            loss=torch.tensor(loss),
            gradients=[torch.tensor([gradient])],
            samples=["data/3"],
            timesteps=torch.tensor([7]),
            errors=torch.ones(1),
        )

    with pytest.raises(Diverged) as raised:
        run([ParameterGroup(name="x", parameters={"a": a}, rate=lambda step: 0.25)], 5, slope)
    assert a.item() == 0.5 and raised.value.step.number == 3 and raised.value.step.samples == ["data/3"]


def test_steps_before_the_first_are_left_out():
    a = nn.Parameter(torch.zeros(1))
    steps = run([ParameterGroup(name="x", parameters={"a": a}, rate=lambda step: 0.0)], 5, first=3)
    assert [step.number for step in steps] == [4, 5]
