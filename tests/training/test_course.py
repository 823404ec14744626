"""The rates of a run beforehand, as figures and drawn in text."""

import torch
from torch import nn

from lorakit.reports.bars import bars
from lorakit.training.course import Course, course
from lorakit.training.loop import ParameterGroup


def group(rate, learns=lambda step: True, factors=None):
    return ParameterGroup(
        name="unet",
        parameters={"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1))},
        rate=rate,
        learns=learns,
        factors=factors or {},
    )


def test_bars_are_as_high_as_their_values():
    """1 of 2 is half of two rows, 2 all of them; 0.25 of 2 is two eighths of the lower row; two values share a column."""
    assert bars([1, 2, 0.25, 0], 10, 2) == [" █  ", "██▂ "]
    assert bars([0, 1, 3, 2, 0, 0], 3, 1) == ["▃█ "]
    assert bars([0.0, 0.0], 5, 1) == ["  "] and bars([], 5, 2) == ["", ""]


def test_a_course_knows_its_peak_its_end_and_the_steps_at_which_it_rests():
    found = course(group(lambda step: [0.25, 1.0, 1.0, 0.5, 9.0][step], lambda step: step < 4, {"a": 16.0}), 5)
    assert found.points == [(1, 0.25), (2, 1.0), (3, 1.0), (4, 0.5)] and found.peak == (2, 1.0) and found.last == 0.5
    assert found.told() == "highest 1 in step 2, last 0.5; for some parameters times 16"
    assert found.figures() == {
        "peak": 1.0,
        "peak_step": 2,
        "last": 0.5,
        "factors": [1.0, 16.0],
        "points": [[1, 0.25], [2, 1.0], [3, 1.0], [4, 0.5]],
    }
    assert found.drawn()[0] == "1 ┤ ██" and found.drawn()[-2] == "0 ┤████" and found.drawn()[-1] == "step  1  4"


def test_a_long_run_is_told_in_few_points_that_hold_its_peak_and_of_groups_that_take_turns():
    for turn in (0, 1):
        found = course(group(lambda step: abs(step - 50_000) / 1e5, lambda step, turn=turn: step % 2 == turn), 100_000)
        points = found.figures()["points"]
        assert 100 < len(points) <= 202 and points[0][0] <= 6 and points[-1][0] == 99_999 + turn
        assert [found.peak[0], found.peak[1]] in points


def test_a_group_that_never_learns_has_no_peak():
    empty = course(group(lambda step: 1.0, lambda step: False), 3)
    assert empty == Course([], [1.0]) and empty.peak == (0, 0.0) and empty.drawn() == []
