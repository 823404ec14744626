"""Rates, gradients, loss scaling, averages, number formats."""

import pytest
import torch

from lorakit.errors import InputError, UsageError
from lorakit.training.ema import Ema
from lorakit.training.gradients import Scaler, clip
from lorakit.training.precision import precision
from lorakit.training.rates import SCHEDULES, rate

CPU = torch.device("cpu")


def test_rates_are_worked_out():
    def at(step, schedule, **options):
        return rate(step, 100, 2.0, schedule, 0, floor=0.0, **options)

    assert at(25, "constant") == 2.0 and at(25, "linear") == 1.5
    assert at(50, "cosine") == pytest.approx(1.0) and at(25, "cosine") == pytest.approx(1 + 0.5**0.5)
    assert at(50, "polynomial") == 0.5 and at(50, "polynomial", power=1.0) == 1.0
    assert [at(s, "cosine-restarts", cycles=4) for s in (0, 25, 50, 75)] == [2.0] * 4
    assert at(24, "cosine-restarts", cycles=4) < 0.01
    assert rate(100, 100, 2.0, "cosine", 0) == pytest.approx(0.4)  # a fifth is left


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_depends_on_its_step_alone_and_warms_up(schedule):
    whole = [rate(s, 60, 1e-3, schedule, 9) for s in range(60)]
    assert whole[37] == rate(37, 60, 1e-3, schedule, 9)
    assert all(0 < value <= 1e-3 for value in whole)
    rising = [value / rate(s, 60, 1e-3, schedule, 0) for s, value in enumerate(whole)]
    assert rising[:10] == pytest.approx([(s + 1) / 10 for s in range(10)]) and rising[10:] == [1.0] * 50


def test_an_unknown_schedule_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        rate(0, 10, 1.0, "cosin", 0)


def test_gradients_are_cut_to_the_limit_and_shorter_ones_keep_their_bits():
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0, 0.0]])]
    kept = [g.clone() for g in gradients]
    assert clip(gradients, 6.0) == 5.0 and all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))
    assert clip(gradients, 0.0) == 5.0 and torch.equal(gradients[0], kept[0])
    assert clip(gradients, 1.0) == 5.0
    torch.testing.assert_close(gradients, [torch.tensor([0.6]), torch.tensor([[0.8, 0.0]])])
    assert clip([torch.zeros(3)], 1.0) == 0.0


def test_a_gradient_that_is_not_finite_is_left_to_be_found():
    gradients = [torch.tensor([1.0, float("nan")]), torch.tensor([2.0])]
    assert clip(gradients, 1.0).isnan() and gradients[1] == 2.0


def test_scaling_is_exact_halves_at_infinity_and_doubles_after_an_interval():
    scaler, gradients = Scaler(first=4.0, interval=2), [torch.tensor([0.3]), torch.tensor([1.7])]
    kept = [g.clone() for g in gradients]
    assert scaler.scaled(torch.tensor(0.5)) == 2.0
    scaled = [g * scaler.factor for g in gradients]
    assert scaler.unscale(scaled) and all(torch.equal(a, b) for a, b in zip(scaled, kept, strict=True))
    assert scaler.factor == 4.0 and scaler.unscale([torch.ones(1)]) and scaler.factor == 8.0
    assert not scaler.unscale([torch.ones(1), torch.tensor([float("inf")])]) and scaler.factor == 4.0
    for _ in range(5):
        scaler.unscale([torch.tensor([float("nan")])])
    assert scaler.factor == 1.0 and scaler.exhausted


def test_the_scaler_goes_on_from_its_state():
    one, other = Scaler(first=8.0, interval=3), Scaler(interval=3)
    for _ in range(2):
        one.unscale([torch.ones(1)])
    other.restore(one.state())
    assert other.unscale([torch.ones(1)]) and one.unscale([torch.ones(1)]) and one.factor == other.factor == 16.0
    with pytest.raises(InputError, match="scaler"):
        other.restore({})


def test_averages_are_worked_out_and_change_nothing_trained():
    p = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema({"p": p}, 0.9)
    with torch.no_grad():
        p.fill_(12.0)
    ema.update()  # the first step's decay is 2 / 11
    torch.testing.assert_close(ema.averages["p"], torch.tensor([10.0]))
    with ema.used():
        assert p == ema.averages["p"]
    assert p == 12.0
    long = Ema({"p": p}, 0.5)
    with torch.no_grad():
        p.fill_(0.0)
    for _ in range(20):
        long.update()
    assert long.steps == 20 and 0 < float(long.averages["p"]) < 1e-3


def test_averages_go_on_from_their_state_to_the_bit_and_not_without_any_of_it():
    def walk(ema, p, steps):
        for step in steps:
            with torch.no_grad():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
            ema.update()

    whole, half = (torch.nn.Parameter(torch.zeros(5)) for _ in range(2))
    one, other = Ema({"p": whole}), Ema({"p": half})
    walk(one, whole, range(6))
    walk(other, half, range(3))
    state = {key: x.clone() for key, x in other.state().items()}
    again = Ema({"p": half})
    again.restore(state)
    walk(again, half, range(3, 6))
    assert torch.equal(one.averages["p"], again.averages["p"]) and one.steps == again.steps
    for key in state:
        with pytest.raises(InputError, match=key):
            again.restore({k: v for k, v in state.items() if k != key})


def test_number_formats():
    adapter, whole = (precision("bfloat16", CPU, whole=w) for w in (False, True))
    assert (adapter.base, adapter.master, adapter.compute) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert (whole.base, whole.master, whole.compute) == (torch.float32, torch.float32, torch.bfloat16)
    assert not adapter.scaled and precision("float16", CPU, whole=True).scaled
    plain = precision("auto", CPU, whole=False)
    assert plain.base == plain.compute == torch.float32
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with plain.autocast():
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    with whole.autocast():
        assert layer(x).dtype == torch.bfloat16


def test_a_short_run_rises_over_its_first_half_where_nothing_is_said():
    whole = [rate(s, 8, 1.0, "constant", None) for s in range(8)]
    assert whole == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert [rate(s, 100, 1.0, "constant", None) for s in range(12)] == [
        rate(s, 100, 1.0, "constant", 10) for s in range(12)
    ]
    assert rate(0, 1, 1.0, "constant", None) == 1.0


def test_cosine_restarts_goes_back_to_the_peak():
    whole = [rate(s, 30, 1.0, "cosine-restarts", 0) for s in range(30)]
    assert [s for s in range(1, 30) if whole[s] > whole[s - 1]] == [10, 20]
