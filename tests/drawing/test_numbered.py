"""Pictures of `sample` in a folder number on; those of other runs and of people are never written over."""

import io
import json
import sys
from pathlib import Path
from threading import Barrier, Thread

import pytest

from lorakit.drawing.numbered import Numbered, number_of
from lorakit.io.record import recorded

pytestmark = pytest.mark.usefixtures("small_model")
QUICK = ["--steps", 1, "--guidance", 1, "--scheduler", "euler"]


def drawn(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_names_that_belong_to_a_picture_have_its_number():
    names = [
        "00007.png",
        "00007.steps.gif",
        "grid-00007.mp4",
        "grid.png",
        "123456.png",
        "20240315.png",
        "7.png",
        "a.png",
    ]
    assert [number_of(name) for name in names] == [7, 7, 7, 0, 123456, None, None, None]


def test_the_second_run_numbers_on_and_changes_nothing(program, tmp_path):
    program("sample", "a cat", "-n", 2, *QUICK)
    first = drawn(tmp_path / "samples")
    done = program("sample", "a cat", "-n", 2, "--seed", 5, *QUICK)
    assert done.stdout.split() == ["samples/00002.png", "samples/00003.png"]
    assert {name: data for name, data in drawn(tmp_path / "samples").items() if name in first} == first
    (tmp_path / "samples" / "00009.steps.png").write_bytes(b"mine")
    (tmp_path / "samples" / "00001.png").unlink()  # a gap is not filled: it would look older than it is
    assert program("sample", "a cat", *QUICK).stdout.split() == ["samples/00010.png"]
    program("sample", "a cat", *QUICK, "-o", "one.png")
    program("sample", "a cat", *QUICK, "-o", "one.png", status=4)


def test_force_begins_anew_and_takes_what_belonged_to_the_pictures_that_go(program, tmp_path):
    program("sample", "a cat", "-n", 3, *QUICK, "--save-steps", "-o", "out")
    before = drawn(tmp_path / "out")
    done = program("sample", "a cat", "-n", 2, "--seed", 5, *QUICK, "-o", "out", "--force")
    after = drawn(tmp_path / "out")
    assert done.stdout.split() == ["out/00000.png", "out/00001.png"]
    assert set(after) == {"00000.png", "00001.png", "00002.png", "00002.steps.png"}
    assert after["00002.png"] == before["00002.png"] and after["00000.png"] != before["00000.png"]
    (tmp_path / "out" / "00000.txt").write_text("my words")
    (tmp_path / "out" / "00002.steps.png").write_bytes(b"mine")
    program("sample", "a cat", "-n", 3, *QUICK, "-o", "out", "--force")
    assert drawn(tmp_path / "out").keys() == {*after, "00000.txt"}


def test_sheets_and_strips_and_films_carry_the_number_of_their_first_picture(program, tmp_path):
    grid = ["sample", "a cat", *QUICK, "-o", "out", "--grid", "x:seed=1,2", "--gif", "--save-steps"]
    program(*grid)
    assert {"grid.png", "grid.gif", "00000.steps.png", "00001.png"} <= drawn(tmp_path / "out").keys()
    first = drawn(tmp_path / "out")
    done = json.loads(program(*grid, "--json").stdout)
    new = drawn(tmp_path / "out").keys() - first.keys()
    assert new == {"00002.png", "00003.png", "00002.steps.png", "00003.steps.png", "grid-00002.png", "grid-00002.gif"}
    assert {Path(name).name for name in done["outputs"]} == new
    assert {name: data for name, data in drawn(tmp_path / "out").items() if name in first} == first
    for name in [name for name in first if name != "grid.png"]:
        (tmp_path / "out" / name).unlink()
    for name in new:
        (tmp_path / "out" / name).unlink()
    program(*grid)  # a sheet whose pictures are gone is not written over either
    assert (tmp_path / "out" / "grid.png").read_bytes() == first["grid.png"]
    assert (tmp_path / "out" / "grid-00001.png").is_file()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_prompts_that_come_one_by_one_number_on_too(program, tmp_path, monkeypatch, force):
    program("sample", "a cat", "-n", 2, *QUICK, "-o", "out")
    (tmp_path / "out" / "00001.png").write_bytes(b"mine")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a dog\na cow\n"))
    done = program("sample", "--prompts", "-", *QUICK, "-o", "out", *force, status=4 if force else 0)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert (tmp_path / "out" / "00001.png").read_bytes() == b"mine"
    if force:
        assert said[0]["output"] == "out/00000.png" and "out/00001.png " in said[1]["error"] and said[1]["status"] == 4
    else:
        assert [one["output"] for one in said] == ["out/00002.png", "out/00003.png"]


def test_a_folder_that_cannot_be_one_is_refused_at_once(program, tmp_path):
    (tmp_path / "file").write_text("mine")
    program("sample", "a cat", "-o", "file", status=4)
    program("sample", "a cat", "-o", "x.jpg", status=2)
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "x.jpg").exists()


def test_runs_that_draw_into_one_folder_at_once_lose_no_picture(tmp_path):
    ready, numbers = Barrier(4), {}

    def draw(run: int) -> None:
        folder, mine = Numbered(tmp_path, anew=False), []
        ready.wait()
        for i in range(25):
            mine.append(folder.put(f"{run} {i}".encode()))
        numbers[run] = mine

    with recorded(tmp_path):
        threads = [Thread(target=draw, args=(run,)) for run in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(number for mine in numbers.values() for number in mine) == list(range(100))
    for run, mine in numbers.items():
        assert mine == sorted(mine)
        assert [(tmp_path / f"{n:05d}.png").read_text() for n in mine] == [f"{run} {i}" for i in range(25)]


@pytest.mark.slow
def test_two_programs_draw_into_one_folder_at_once(start, tmp_path):
    command = ["sample", "a cat", "-n", 6, *QUICK, "-o", "out", "--batch-size", 1, "--json"]
    runs = [start(*command, "--seed", seed) for seed in (0, 100)]
    assert [run.wait() for run in runs] == [0, 0]
    outputs = [json.loads(run.stdout)["outputs"] for run in runs]
    assert len({*outputs[0], *outputs[1]}) == 12
    assert len(set(drawn(tmp_path / "out").values())) == 12
