from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.runtime.world import World
from lorakit.training.batches import Batches
from lorakit.training.objective import _parts
from lorakit.training.samples import Sample

GROUPS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(GROUPS, st.integers(1, 40))
def test_every_index_comes_once_an_epoch_in_batches_that_are_full(groups, size):
    batches, count = Batches(groups=groups, size=size, seed=1), len(groups)
    steps = 4 * count  # of size: 4 * size epochs
    shown = [place for step in range(steps) for place in batches.places(step)]
    assert len(shown) == steps * size and batches.epochs(steps) == 4 * size
    assert [epoch for epoch, _ in shown] == [at // count for at in range(len(shown))]
    for at in range(0, len(shown), count):
        assert sorted(i for _, i in shown[at : at + count]) == list(range(count))


def test_no_more_batches_are_of_several_classes_than_must_be():
    groups = list("aaaaaaaabbbbbbbbbbccc")  # 8, 10 and 3 in batches of 4: 2 and 2 whole ones, 5 left, 21 an epoch
    batches = Batches(groups=groups, size=4, seed=1)
    mixed = [sum(len({groups[i] for i in batches[s]}) > 1 for s in range(21 * k, 21 * k + 21)) for k in range(3)]
    assert max(mixed) <= 4 * 2 + 3  # of each of four epochs two in the middle or at its ends, or a whole one broken up


def test_a_step_does_not_depend_on_the_steps_asked_for_before():
    groups = list("aaabbcddd")
    there = [Batches(groups=groups, size=2, seed=5)[step] for step in range(30)]
    back = Batches(groups=groups, size=2, seed=5)
    assert [back[step] for step in reversed(range(30))] == there[::-1]
    assert there != [Batches(groups=groups, size=2, seed=6)[step] for step in range(30)]
    assert there[:5] != there[5:10] or there[5:10] != there[10:15]


def test_copies_of_a_picture_are_spread_over_the_epoch():
    pictures = [i for i in range(6) for _ in range(3)]
    batches = Batches(groups="a" * 18, size=6, seed=0, pictures=pictures)
    for step in range(3):
        assert Counter(pictures[i] for i in batches[step]) == Counter(range(6))


def test_rests_are_joined_in_runs_of_one_class():
    groups = list("aaaabbbcc")
    batches = Batches(groups=groups, size=3, seed=2)
    classes = [[groups[i] for i in batches[step]] for step in range(3)]
    assert sorted(map(len, classes)) == [3, 3, 3]
    assert sum(len(set(batch)) > 1 for batch in classes) == 1


def shares_of(batch, groups, most, world, pieces=1):
    """The parts of each process, as the objective makes them of the samples of a step."""

    def sample(place, i):
        latents = torch.zeros(1, 1, 1 + sorted(set(groups)).index(groups[i]))
        return Sample(
            name=str(i),
            caption="",
            latents=latents,
            noise=latents,
            seen=latents,
            timestep=0,
            weight=1 / len(batch),
            place=place,
            key=(),
        )

    samples = [sample(place, i) for place, i in enumerate(batch)]
    return [_parts([samples[i] for i in World(rank, world).share(samples)], most, pieces) for rank in range(world)]


@settings(max_examples=80, deadline=None)
@given(GROUPS, st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_the_sum_over_processes_is_the_mean_over_the_batch(groups, size, world, most, pieces):
    batches = Batches(groups=groups, size=size, seed=3)
    for step in range(4):
        batch = batches[step]
        parts = [part for share in shares_of(batch, groups, most, world, pieces) for part in share]
        seen = sorted((sample.place, int(sample.name)) for part in parts for sample in part.samples)
        assert seen == list(enumerate(batch))
        for part in parts:
            assert len({groups[int(sample.name)] for sample in part.samples}) == 1
            assert len(part.samples) <= -(-most // pieces)
        loss = {i: float(i * i + 1) for i in batch}
        total = sum(sample.weight * loss[int(sample.name)] for part in parts for sample in part.samples)
        assert total == pytest.approx(sum(loss[i] for i in batch) / len(batch))


def test_two_processes_see_what_one_with_twice_the_batch_sees():
    groups = list("aaaabbbb")
    whole = Batches(groups=groups, size=4, seed=0)[0]
    first, second = shares_of(whole, groups, 2, 2)
    ((alone,),) = shares_of(whole, groups, 4, 1)
    both = [sample.name for part in (*first, *second) for sample in part.samples]
    assert sorted(both) == sorted(sample.name for sample in alone.samples) == sorted(map(str, whole))
    assert {sample.weight for sample in alone.samples} == {0.25}


def test_numbers_without_sense_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Batches(groups=[], size=1, seed=0)
