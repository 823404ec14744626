import pytest
import torch

from lorakit.lowrank.certified import Wanted
from lorakit.lowrank.randomised import SHARE, leading
from tests.lowrank.matrices import fine_tuned, optimum, with_values

SHAPES = [(320, 320), (320, 2880), (1500, 400)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_proven_and_the_proof_is_true(shape, seed):
    delta = fine_tuned(*shape, seed=seed)
    found = leading(delta, shape, Wanted(32), seed)
    best = optimum(delta, 32)
    held = float(found.s.double().square().sum())
    residual = float((delta - (found.u * found.s) @ found.vh).double().square().sum())
    assert held >= SHARE * best and found.of_optimum(32) >= SHARE
    assert found.of_optimum(32) <= held / best * (1 + 1e-6)  # the proof claims no more than is so
    assert found.best[31] >= best * (1 - 1e-6)
    assert found.total - held == pytest.approx(residual, rel=1e-4)
    true = residual**0.5 - (found.total - best) ** 0.5
    assert true / found.total**0.5 <= found.excess(32) + 1e-6 <= 1e-3


def test_low_rank_is_found_exactly():
    delta = with_values(400, 600, [3.0, 2.0, 1.0, 0.5])
    found = leading(delta, (400, 600), Wanted(8))
    torch.testing.assert_close((found.u * found.s) @ found.vh, delta, rtol=0, atol=1e-6)
    assert found.excess(4) < 1e-3


@pytest.mark.parametrize("share", [0.5, 0.8, 0.89])
def test_it_grows_until_the_share_is_held(share):
    delta = fine_tuned(600, 800)
    found = leading(delta, (600, 800), Wanted(600, share=share))
    values = torch.linalg.svdvals(delta.double()).square().cumsum(0)
    least = 1 + int((values < share * values[-1]).sum())
    assert found is None or least <= len(found.s) <= least + 1


def test_a_floor_is_seen_from_above_and_below():
    delta = with_values(400, 400, [5.0] * 10 + [1e-3] * 300)
    assert len(leading(delta, (400, 400), Wanted(400, floor=0.1)).s) == 10


def test_the_same_seed_gives_the_same_bits():
    delta = fine_tuned(320, 320)
    a, b = (leading(delta, (320, 320), Wanted(16), 5) for _ in range(2))
    assert torch.equal(a.u, b.u) and torch.equal(a.vh, b.vh) and a.best == b.best


def test_it_hands_over_what_it_cannot_prove():
    flat = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    assert leading(flat, (400, 400), Wanted(32)) is None  # no value stands out
    assert leading(flat, (400, 400), Wanted(300)) is None  # more work than a whole decomposition
