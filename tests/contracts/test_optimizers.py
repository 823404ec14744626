"""What every optimizer promises: it goes on to the bit from its saved state, and not without any part of it."""

import pytest
import torch

from lorakit.errors import InputError, UsageError
from lorakit.io import torch_files as files
from lorakit.registry import OPTIMIZERS
from lorakit.training.optimizers import averaged, groups_of, make, restore, set_rates, state

ELSEWHERE = ["torch.optim:NAdam", "torch.optim:SGD"]
every = pytest.mark.parametrize("name", [*OPTIMIZERS.names(), *ELSEWHERE])
SHAPES = {"a.down": (8, 640), "a.up": (40, 8), "b.down": (4, 6, 3, 3), "token": (7,)}  # one beyond 4096 numbers


@pytest.fixture(autouse=True)
def quiet(name):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")


def rate_of(name):
    return 0.01 if ":" in name else OPTIMIZERS[name].RATE * (1 if name == "prodigy" else 30)


def begin(name, settings=()):
    """Parameters, some zero as `up` is, in two groups."""
    g = torch.Generator().manual_seed(0)
    parameters = {
        key: torch.nn.Parameter(torch.zeros(shape) if key.endswith("up") else torch.randn(shape, generator=g))
        for key, shape in SHAPES.items()
    }
    factors = {key: 0.5 for key in parameters if key.endswith("up")}
    return parameters, make(name, groups_of(parameters, factors), rate_of(name), settings)


def walk(parameters, optimizer, steps, rate):
    for step in steps:
        set_rates(optimizer, rate * (1 + step) / 6)
        for place, p in enumerate(parameters.values()):
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + place))
            p.grad = (p.detach() - 1) + 0.1 * noise  # towards 1, noisily
        optimizer.step()


def kept(parameters, optimizer):
    return {key: p.detach().clone() for key, p in parameters.items()}, {
        k: v.clone() for k, v in state(optimizer).items()
    }


def resumed(name, values, tensors):
    parameters, optimizer = begin(name)
    with torch.no_grad():
        for key, p in parameters.items():
            p.copy_(values[key])
    restore(optimizer, tensors)
    return parameters, optimizer


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, other[key]) for key, x in one.items())


@every
def test_three_steps_saved_and_three_more_are_six(name):
    whole = begin(name)
    walk(*whole, range(6), rate_of(name))
    half = begin(name)
    walk(*half, range(3), rate_of(name))
    again = resumed(name, *kept(*half))
    walk(*again, range(3, 6), rate_of(name))
    for wanted, got in zip(kept(*whole), kept(*again), strict=True):
        assert same(wanted, got)
    assert all(not torch.equal(p, start) for p, start in zip(whole[0].values(), begin(name)[0].values(), strict=True))


@every
def test_what_is_restored_is_what_was_saved_part_by_part(name):
    """Compared with the optimizer itself, not with `state`: nothing it holds is left out."""
    half = begin(name)
    walk(*half, range(3), rate_of(name))
    other = resumed(name, *kept(*half))

    def flat(value):
        if isinstance(value, torch.Tensor):
            return (value.dtype, value.device, tuple(value.shape), value.tolist())
        if isinstance(value, dict):
            return {k: flat(v) for k, v in value.items() if k != "params"}
        return value

    assert [flat(g) for g in half[1].param_groups] == [flat(g) for g in other[1].param_groups]
    mine, theirs = ([flat(o.state[p]) for p in ps.values()] for ps, o in (half, other))
    assert mine == theirs and all(mine) == (name != "torch.optim:SGD")


@every
def test_without_any_one_tensor_it_does_not_go_on(name):
    half = begin(name)
    walk(*half, range(3), rate_of(name))
    values, tensors = kept(*half)
    assert len(tensors) > (len(SHAPES) if name != "torch.optim:SGD" else 0)
    for key in tensors:
        with pytest.raises(InputError, match=r"missing|not whole"):
            resumed(name, values, {k: v for k, v in tensors.items() if k != key})
    with pytest.raises(InputError, match="not whole"):
        resumed(name, values, {**tensors, "optimizer/stray": torch.ones(1)})


@every
def test_each_tensor_of_the_state_has_a_say(name):
    """A step from a state with one moment wiped is another step: so it must be kept."""
    half = begin(name)
    walk(*half, range(3), rate_of(name))
    values, tensors = kept(*half)
    right = resumed(name, values, tensors)
    walk(*right, range(3, 5), rate_of(name))
    idle = ("/gnorm_vec", "/RMS", "/qmap1", "/qmap2")  # scratch, a record, and tables that are constants
    for key, x in tensors.items():
        if key == "optimizer" or key.endswith(idle):
            continue
        wiped = resumed(name, values, {**tensors, key: torch.full_like(x, 1)})
        walk(*wiped, range(3, 5), rate_of(name))
        assert not same(kept(*right)[0], kept(*wiped)[0]), key


@every
def test_the_state_goes_through_a_file(name, tmp_path):
    half = begin(name)
    walk(*half, range(2), rate_of(name))
    tensors = state(half[1])
    files.save(tmp_path / "state.safetensors", tensors, {}, hashed=False)
    assert same({k: v.clone() for k, v in tensors.items()}, files.read(tmp_path / "state.safetensors", "state")[0])


@every
def test_it_comes_nearer_to_the_least(name):
    parameters, optimizer = begin(name)
    before = sum(float((p.detach() - 1).square().sum()) for p in parameters.values())
    walk(parameters, optimizer, range(40), rate_of(name))
    with averaged(optimizer):
        after = sum(float((p.detach() - 1).square().sum()) for p in parameters.values())
    assert after < before * (0.999 if name == "prodigy" else 0.97)


@every
def test_a_group_with_no_rate_stands_still(name):
    parameters, optimizer = begin(name)
    walk(parameters, optimizer, range(2), rate_of(name))
    optimizer.param_groups[1]["factor"] = 0.0
    before = kept(parameters, optimizer)[0]
    walk(parameters, optimizer, range(2, 4), rate_of(name))
    assert torch.equal(parameters["a.up"], before["a.up"]) and not torch.equal(parameters["token"], before["token"])


@every
def test_the_average_leaves_what_is_trained_as_it_was(name):
    parameters, optimizer = begin(name)
    walk(parameters, optimizer, range(3), rate_of(name))
    before = kept(parameters, optimizer)
    with averaged(optimizer):
        inside = kept(parameters, optimizer)[0]
    assert same(before[0], kept(parameters, optimizer)[0]) and same(before[1], kept(parameters, optimizer)[1])
    assert same(before[0], inside) == (name != "schedulefree")


@every
def test_an_unknown_setting_is_named(name):
    with pytest.raises(UsageError, match="wieght_decay"):
        begin(name, ["wieght_decay=0.1"])
