import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.cli.ranks import parse, parse_size, rule
from lorakit.errors import UsageError
from lorakit.lowrank.decomposed import Decomposed, of_factors
from lorakit.lowrank.ranks import RankRule, allot


def spectrum(values, out=10, fan_in=6, total=None, floor=0.0):
    s = torch.tensor(values)
    k = len(values)
    whole = float(s.double().square().sum()) if total is None else total
    return Decomposed(
        u=torch.zeros(out, k), s=s, vh=torch.zeros(k, fan_in), shape=(out, fan_in), total=whole, floor=floor
    )


def ranks_of(values, rule, **more):
    return allot({"m": spectrum(values, **more)}, rule)["m"]


SQUARES_9_4_1 = [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("share", "rank"), [(0.01, 1), (9 / 14, 1), (0.65, 2), (13 / 14, 2), (0.93, 3), (0.9999999, 3), (1.0, 3)]
)
def test_energy_is_the_least_rank_that_holds_the_share(share, rank):
    assert ranks_of(SQUARES_9_4_1, RankRule("energy", share)) == rank


def test_energy_counts_what_the_triplets_do_not_hold():
    assert ranks_of(SQUARES_9_4_1, RankRule("energy", 0.5), total=20.0) == 2  # 9 / 20 is not half, 13 / 20 is
    assert ranks_of(SQUARES_9_4_1, RankRule("energy", 0.9), total=20.0) == 3  # out of reach: all there are


@pytest.mark.parametrize(
    "kind", [RankRule("full"), RankRule("energy", 1.0), RankRule("fixed", 9), RankRule("budget", 1e6)]
)
def test_numerical_zeros_are_never_kept_and_small_values_are(kind):
    assert ranks_of([1.0, 1e-6, 1e-17, 0.0], kind) == 2


@pytest.mark.parametrize(
    "kind", [RankRule("full"), RankRule("energy", 0.5), RankRule("fixed", 2), RankRule("auto"), RankRule("budget", 1e6)]
)
def test_a_delta_that_is_0_has_rank_0(kind):
    assert ranks_of([0.0, 0.0], kind) == 0 and ranks_of([], kind) == 0


def test_auto_stops_at_the_floor_and_at_float32s_rounding():
    assert ranks_of([1.0, 0.5, 0.01], RankRule("auto"), floor=0.02) == 2
    assert ranks_of([1.0, 1e-5, 1e-6], RankRule("auto")) == 2  # 10 rows x 2^-23 = 1.2e-6


@pytest.mark.parametrize(
    "kind",
    [RankRule("full", cap=1), RankRule("energy", 0.99, cap=1), RankRule("auto", cap=1), RankRule("budget", 1e6, cap=1)],
)
def test_a_cap_holds_whatever_the_rule(kind):
    assert ranks_of(SQUARES_9_4_1, kind) == 1


def test_a_budget_takes_the_largest_gain_a_byte():
    # A rank costs 4 * (2 + 2) = 16 bytes in a and 4 * (8 + 8) = 64 in b: gains 9, 4 and 16 / 4 = 4, 1 / 4 by 16 bytes.
    found = {"a": spectrum([3.0, 2.0], 2, 2), "b": spectrum([4.0, 1.0], 8, 8)}
    assert allot(found, RankRule("budget", 16)) == {"a": 1, "b": 0}
    assert allot(found, RankRule("budget", 95)) == {"a": 2, "b": 0}
    assert allot(found, RankRule("budget", 96)) == {"a": 2, "b": 1}
    assert allot(found, RankRule("budget", 96), bytes_a_number=2) == {"a": 2, "b": 2}
    assert allot(found, RankRule("budget", 15)) == {"a": 0, "b": 0}


def test_a_budget_pays_for_the_keys_of_each_module_once():
    found = {"a": spectrum([3.0, 2.0], 2, 2), "b": spectrum([2.5], 2, 2)}
    assert allot(found, RankRule("budget", 48), bytes_a_module=16) == {"a": 2, "b": 0}
    assert allot(found, RankRule("budget", 80), bytes_a_module=16) == {"a": 2, "b": 1}


spectra = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.tuples(st.lists(st.floats(0.015625, 9, width=32), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(spectra, st.integers(1, 6))
def test_a_budget_is_kept_and_no_worse_than_a_fixed_rank_but_for_the_last_piece(raw, fixed):
    found = {name: spectrum(sorted(s, reverse=True), out, fan_in) for name, (s, out, fan_in) in raw.items()}

    def cost(ranks):
        return sum(4 * found[name].numbers_a_rank * rank for name, rank in ranks.items())

    def gain(ranks):
        return sum(float(found[name].s[:rank].double().square().sum()) for name, rank in ranks.items())

    plain = allot(found, RankRule("fixed", fixed))
    spread = allot(found, RankRule("budget", cost(plain)))
    assert cost(spread) <= cost(plain)
    largest = max(float(one.s[0]) ** 2 for one in found.values())
    assert gain(spread) >= gain(plain) - largest - 1e-6
    if len({one.numbers_a_rank for one in found.values()}) == 1:
        assert gain(spread) >= gain(plain) * (1 - 1e-6)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.0625, 9, width=32), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 260),
    st.booleans(),
)
def test_a_budget_is_the_best_of_all_choices(values, budget, alike):
    """Where ranks cost the same it is the optimum; where not, below it by less than one triplet's share."""
    sides = [(4, 4)] * 4 if alike else [(2, 3), (4, 4), (1, 9), (6, 2)]
    found = {str(i): spectrum(sorted(s, reverse=True), *sides[i]) for i, s in enumerate(values)}

    def gain(ranks):
        return sum(float((found[name].s[:rank].double() ** 2).sum()) for name, rank in ranks.items())

    best = 0.0
    for ranks in itertools.product(*(range(len(s) + 1) for s in values)):
        chosen = dict(zip(found, ranks, strict=True))
        if sum(4 * found[name].numbers_a_rank * rank for name, rank in chosen.items()) <= budget:
            best = max(best, gain(chosen))
    ours = gain(allot(found, RankRule("budget", budget)))
    assert ours <= best * (1 + 1e-9) + 1e-9
    if alike:
        assert ours >= best * (1 - 1e-6)
    else:
        assert ours > best - max(float(one.s[0]) ** 2 for one in found.values()) - 1e-6


def test_the_rank_of_a_sum_that_repeats_itself_is_found():
    up, down = torch.randn(20, 3), torch.randn(3, 30)
    twice = of_factors(torch.cat([up, up], 1), torch.cat([down, down], 0), (20, 30))
    assert allot({"m": twice}, RankRule("full")) == {"m": 3}


def test_ranks_are_read_as_they_are_spelled():
    assert [parse(x) for x in ("full", "auto", "32", "energy:0.99")] == [
        RankRule("full"),
        RankRule("auto"),
        RankRule("fixed", 32),
        RankRule("energy", 0.99),
    ]
    assert rule("full", 8, "50MB") == RankRule("budget", 50_000_000, 8)


@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "all", "energy", "energy:", "energy:0", "energy:1.1", "energy:nan", "²", ""]
)
def test_a_wrong_rank_is_an_error_of_the_command_line(text):
    with pytest.raises(UsageError, match="--rank"):
        parse(text)


def test_sizes_are_read_as_people_write_them():
    spelled = {"50MB": 50_000_000, "1.5GiB": 3 << 29, "800k": 800_000, "123": 123, "2 mib": 2 << 20, ".5kB": 500}
    assert {text: parse_size(text) for text in spelled} == spelled
    for text in ("", "MB", "5XB", "-3MB", "0", "5iB", "1e6"):
        with pytest.raises(UsageError, match="--budget"):
            parse_size(text)
