import pytest
import torch

from lorakit.lowrank import noise
from tests.lowrank.matrices import with_values

TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def pair(dtype, rank, seed=0, size=(512, 640)):
    """(tuned, base) as files hold them: a base rounded to `dtype`, tuned from there."""
    draw = torch.Generator().manual_seed(seed)
    base = (torch.randn(*size, generator=draw) * 0.03).to(dtype).float()
    change = with_values(*size, torch.linspace(1, 0.2, rank), seed + 1) if rank else torch.zeros(size)
    return (base + change).to(dtype).float(), base


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_alone_is_below_the_floor_and_fills_it(kind):
    draw = torch.Generator().manual_seed(1)
    exact = torch.randn(512, 640, generator=draw) * 0.03
    stored = exact.to(TYPES[kind]).float()
    top = float(torch.linalg.svdvals(stored - exact)[0])
    floor = noise.floor(stored, kind, exact, "F32")
    assert 0.7 * floor < top < floor


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rank", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_the_rank_of_the_change_is_what_is_above_the_floor(kind, rank, seed):
    tuned, base = pair(TYPES[kind], rank, seed)
    s = torch.linalg.svdvals(tuned - base)
    total = float(s.double().square().sum())
    floor = noise.floor(tuned, kind, base, kind, s, total)
    assert int((s > floor).sum()) == rank


@pytest.mark.parametrize("kind", TYPES)
def test_two_roundings_are_told_from_one(kind):
    draw = torch.Generator().manual_seed(3)
    exact = torch.randn(512, 640, generator=draw) * 0.03
    change = with_values(512, 640, [1.0, 0.5, 0.3])
    tuned, base = (x.to(TYPES[kind]).float() for x in (exact + change, exact))
    s = torch.linalg.svdvals(tuned - base)
    floor = noise.floor(tuned, kind, base, kind, s, float(s.double().square().sum()))
    assert int((s > floor).sum()) == 3
    assert floor > 1.3 * noise.floor(tuned, kind, base, kind)


def test_rows_of_other_sizes_count():
    draw = torch.Generator().manual_seed(4)
    exact = torch.randn(512, 640, generator=draw) * torch.logspace(-3, 0, 512)[:, None]
    stored = exact.bfloat16().float()
    assert float(torch.linalg.svdvals(stored - exact)[0]) < noise.floor(stored, "BF16", exact, "F32")


def test_full_precision_has_no_floor():
    x = torch.ones(3, 4)
    assert noise.floor(x, "F32", x, "F32") == 0


def test_a_step_is_that_of_the_type():
    rows, _ = noise.variances(torch.tensor([[1.0, 1.5, 2.0, 1e-7]]), "F16")  # 2^-10, 2^-10, 2^-9, 2^-24
    assert float(rows[0]) == pytest.approx((2 * 2.0**-20 + 2.0**-18 + 2.0**-48) / 12)
