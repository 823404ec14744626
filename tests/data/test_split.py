import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data.split import split

KEYS = st.lists(st.sampled_from([f"k{i}" for i in range(40)]), min_size=2, max_size=60).filter(
    lambda k: len(set(k)) > 1
)


@settings(deadline=None)
@given(KEYS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_all_are_on_one_side_copies_together_and_no_side_is_empty(keys, share, seed):
    train, held = split(keys, share, seed)
    assert sorted(train + held) == list(range(len(keys)))
    assert train and held
    assert not {keys[i] for i in train} & {keys[i] for i in held}
    assert split(keys, share, seed) == (train, held)


@settings(deadline=None)
@given(KEYS, st.integers(0, 5))
def test_pictures_that_come_do_not_move_the_others(keys, seed):
    base = [f"base {i}" for i in range(50)]  # large enough for both sides
    before = {base[i] for i in split(base, 0.3, seed)[1]}
    after = {key for i in split(base + keys, 0.3, seed)[1] if (key := (base + keys)[i]).startswith("base")}
    assert before == after


def test_the_share_is_about_what_was_asked_for_and_grows_by_adding():
    keys = [f"p{i}" for i in range(2000)]
    small, large = set(split(keys, 0.1)[1]), set(split(keys, 0.3)[1])
    assert abs(len(small) - 200) < 45 and abs(len(large) - 600) < 65 and small < large  # 3 sigma
    assert set(split(keys, 0.1, seed=1)[1]) != small


def test_pictures_that_are_alike_stay_together():
    keys = [f"p{i}" for i in range(30)]
    chain = [(i, i + 1) for i in range(28)]
    train, held = split(keys, 0.5, alike=chain)
    assert {len(train), len(held)} == {1, 29}


def test_what_cannot_be_split_is_said():
    with pytest.raises(ValueError, match="two different"):
        split(["a", "a"], 0.5)
    with pytest.raises(ValueError, match="two different"):
        split(["a", "b"], 0.5, alike=[(0, 1)])
    with pytest.raises(ValueError, match="above 0"):
        split(["a", "b"], 1.0)
