from lorakit.reports.module_lines import LISTED, Line, table


def test_the_modules_that_lost_most_come_first_with_error_and_certificate() -> None:
    lines = table([Line("a", 4, 0.99, 1e-6), Line("b", 8, 1.0, 0.0), Line("c.long", 2, 0.75, 2e-5)])
    assert lines[0] == "2 of 3 modules lost something to their rank:"
    assert lines[1].split() == [
        "c.long",
        "rank",
        "2",
        "kept",
        "75.000%",
        "error",
        "5.00e-01",
        "at",
        "most",
        "2e-05",
        "above",
        "the",
        "least",
    ]
    assert lines[2].split()[:1] == ["a"] and len(lines) == 3


def test_many_are_cut_short_unless_everything_is_asked_for() -> None:
    modules = [Line(f"m{i:02}", 1, 0.5 + i / 100) for i in range(20)]
    assert len(table(modules)) == 1 + LISTED and "--verbose" in table(modules)[0]
    assert len(table([*modules, Line("whole", 1, 1.0)], everything=True)) == 22


def test_nothing_is_said_where_nothing_is_lost() -> None:
    assert table([Line("a", 4, 1.0), Line("b", 4, 1 - 1e-14)]) == []
