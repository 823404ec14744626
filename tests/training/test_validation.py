import math

import pytest
import torch

from lorakit.training.validation import compare


def test_the_first_is_the_best():
    verdict = compare(torch.ones(3, 8), None)
    assert verdict.better and verdict.mean == 1.0


def test_pairs_are_compared_and_not_means():
    """Pictures differ by 10, checkpoints by 0.01: only a paired comparison can tell."""
    best = torch.arange(20.0)[:, None].expand(20, 8)
    now = best + 0.01 + 1e-4 * torch.arange(20.0)[:, None]
    verdict = compare(now, best)
    assert verdict.above == pytest.approx(0.01 + 1e-4 * 9.5, rel=1e-4)
    assert verdict.surely_worse and not verdict.better


def test_the_interval_is_students():
    """Differences 1, 2, 3: mean 2, standard deviation 1, so t(2) = 4.303 times 1 / sqrt(3)."""
    best = torch.zeros(3, 8)
    now = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 8)
    assert compare(now, best).half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    five = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None].expand(5, 8)
    assert compare(five, torch.zeros(5, 8)).half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=5e-3)


def test_one_picture_proves_nothing():
    verdict = compare(torch.full((1, 8), 2.0), torch.ones(1, 8))
    assert not verdict.better and not verdict.surely_worse
