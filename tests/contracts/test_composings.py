"""What every way to compose promises."""

import inspect

import pytest

from lorakit.composition import Composition, Member, passes
from lorakit.registry import COMPOSINGS


@pytest.mark.parametrize("name", COMPOSINGS.names())
@pytest.mark.parametrize("step", [0, 1, 7])
def test_with_one_adapter_the_result_is_that_adapter_at_its_weight(name, step):
    assert COMPOSINGS[name].passes(step, [0.7]) == [(1.0, [0.7])]


@pytest.mark.parametrize("name", COMPOSINGS.names())
@pytest.mark.parametrize("step", range(4))
def test_shares_sum_to_one_and_no_weight_is_invented(name, step):
    weights = [0.5, -1.0, 2.0]
    found = COMPOSINGS[name].passes(step, weights)
    assert sum(share for share, _ in found) == pytest.approx(1)
    assert all(w in (0, given) for _, row in found for w, given in zip(row, weights, strict=True))
    assert weights == [0.5, -1.0, 2.0]


@pytest.mark.parametrize("name", COMPOSINGS.names())
def test_settings_are_numbers_with_defaults_and_the_first_line_says_what_it_is(name):
    part = COMPOSINGS[name]
    kinds = inspect.signature(part.passes).parameters.values()
    assert all(isinstance(p.default, int | float) for p in kinds if p.kind is p.KEYWORD_ONLY)
    assert part.__doc__.splitlines()[0].endswith(".")


def test_switch_takes_turns():
    rows = [COMPOSINGS["switch"].passes(step, [1.0, 2.0], every=2)[0][1] for step in range(5)]
    assert rows == [[1, 0], [1, 0], [0, 2], [0, 2], [1, 0]]
    with pytest.raises(ValueError, match="every"):
        COMPOSINGS["switch"].passes(0, [1.0], every=0.5)


def test_composite_asks_once_for_each():
    assert COMPOSINGS["composite"].passes(0, [1.0, 2.0]) == [(0.5, [1.0, 0.0]), (0.5, [0.0, 2.0])]


def test_free_adapters_act_whoever_has_the_turn(tmp_path):
    members = (
        Member(path=tmp_path / "a"),
        Member(path=tmp_path / "b"),
        Member(path=tmp_path / "c", weight=0.3, free=True),
    )
    found = [passes(Composition(members, "switch"), step, 0.0)[0].weights for step in (0, 1)]
    assert found == [(1.0, 0.0, 0.3), (0.0, 1.0, 0.3)]


def test_a_region_is_a_pass_of_its_own(tmp_path):
    members = (Member(path=tmp_path / "a", region=tmp_path / "m"), Member(path=tmp_path / "b", weight=0.5))
    found = passes(Composition(members), 0, 0.0)
    assert [(one.weights, one.region) for one in found] == [((0.0, 0.5), None), ((1.0, 0.5), 0)]
