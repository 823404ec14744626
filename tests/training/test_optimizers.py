"""Steps worked out by hand, and ours beside the packages that others use."""

import pytest
import torch

from lorakit.errors import UsageError
from lorakit.runtime.extras import need
from lorakit.training.optimizers import OptimizerGroup, averaged, groups_of, make, set_rates


def parameters(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.nn.Parameter(torch.randn(6, 5, generator=g)), "b": torch.nn.Parameter(torch.zeros(4, 6))}


def walk(named, optimizer, steps=12):
    for step in range(steps):
        for i, p in enumerate(named.values()):
            p.grad = p.detach() - 1 + torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i))
        optimizer.step()


def lists(named):
    return list(named.values())


def test_lion_takes_the_sign():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = make("lion", [OptimizerGroup({"p": p})], 0.1, ["weight_decay=0.5", "betas=0.9,0.99"])
    p.grad = torch.tensor([3.0, -0.001, 0.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.85, 1.05, 0.95]))
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.tensor([0.03, -0.00001, 0.0]))
    p.grad = torch.tensor([-0.1, 0.0, 0.0])  # 0.9 * 0.03 - 0.1 * 0.1 is above zero still
    optimizer.step()
    assert float(p.detach()[0]) == pytest.approx(0.85 * 0.95 - 0.1)


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1}, {"use_bias_correction": True, "safeguard_warmup": True}]
)
def test_prodigy_takes_the_packages_steps(settings):
    package = pytest.importorskip("prodigyopt")
    mine, theirs = parameters(), parameters()
    names = {"use_bias_correction": "bias_correction"}
    ours = make("prodigy", [OptimizerGroup(mine)], 1.0, [f"{names.get(k, k)}={v}" for k, v in settings.items()])
    reference = package.Prodigy(lists(theirs), lr=1.0, **settings)
    walk(mine, ours, 30)
    walk(theirs, reference, 30)
    for a, b in zip(lists(mine), lists(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert float(ours.param_groups[0]["d"]) == pytest.approx(reference.param_groups[0]["d"], rel=1e-4)
    assert float(ours.param_groups[0]["d"]) > 2e-6


def test_prodigy_takes_rates_by_group():
    named = parameters()
    optimizer = make("prodigy", groups_of(named, {"b": 4.0}), 1.0)
    walk(named, optimizer, 3)
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 4.0] and bool(named["b"].isfinite().all())


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_schedule_free_takes_the_packages_steps(decay):
    package = pytest.importorskip("schedulefree")
    mine, theirs = parameters(), parameters()
    ours = make("schedulefree", [OptimizerGroup(mine)], 0.02, [f"weight_decay={decay}"])
    reference = package.AdamWScheduleFree(lists(theirs), lr=0.02, betas=(0.9, 0.99), weight_decay=decay)
    reference.train()
    walk(mine, ours)
    walk(theirs, reference)
    for a, b in zip(lists(mine), lists(theirs), strict=True):
        torch.testing.assert_close(a, b)
    reference.eval()
    with averaged(ours):
        for a, b in zip(lists(mine), lists(theirs), strict=True):
            torch.testing.assert_close(a, b)


def test_adafactor_moves_a_factor_that_starts_at_zero():
    named = parameters()
    walk(named, make("adafactor", [OptimizerGroup(named)], 0.01), 1)
    torch.testing.assert_close(named["b"].detach().abs().mean(), torch.tensor(0.01), rtol=0.3, atol=0)


def test_adamw_in_one_kernel_and_in_lists_agree():
    one, other = parameters(), parameters()
    walk(one, make("adamw", [OptimizerGroup(one)], 0.01))
    walk(other, make("adamw", [OptimizerGroup(other)], 0.01, ["fused=false"]))
    for a, b in zip(lists(one), lists(other), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_follow_their_factors():
    named = parameters()
    groups = groups_of(named, {"b": 16.0})
    assert [(tuple(g.parameters), g.factor) for g in groups] == [(("a",), 1.0), (("b",), 16.0)]
    optimizer = make("adamw", groups, 1e-4)
    set_rates(optimizer, 1e-3)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 16e-3]


def test_what_is_not_there_is_said_in_one_sentence():
    groups = [OptimizerGroup(parameters())]
    with pytest.raises(UsageError, match="did you mean 'adamw'"):
        make("adamww", groups, 1e-4)
    with pytest.raises(UsageError, match=r"--optimizer nowhere:Thing: No module"):
        make("nowhere:Thing", groups, 1e-4)
    with pytest.raises(UsageError, match="no torch optimizer"):
        make("collections:OrderedDict", groups, 1e-4)
    with pytest.raises(UsageError, match="expected key=value"):
        make("adamw", groups, 1e-4, ["betas"])
    with pytest.raises(UsageError, match=r"--optimizer torch\.optim:SGD"):
        make("torch.optim:SGD", groups, 1e-4, ["nesterov=true"])
    with pytest.raises(UsageError, match=r"--optimizer x needs no_such_package: pip install 'lorakit\[8bit\]'"):
        need("no_such_package", "8bit", "--optimizer x")


def test_settings_reach_an_imported_class():
    optimizer = make("torch.optim:SGD", [OptimizerGroup(parameters())], 0.1, ["momentum=0.9", "nesterov=true"])
    assert optimizer.param_groups[0]["momentum"] == 0.9 and optimizer.param_groups[0]["nesterov"] is True
