"""What lorakit wrote is known again; what a person made or changed never counts as lorakit's."""

import json
import os
import shutil

import pytest

from lorakit.errors import RefusedError
from lorakit.io import files
from lorakit.io.record import RECORD, Record, What, clear, fingerprint, recorded, stranger_in, survey, write_record


def names(folder, what):
    return [found.name for found in survey(folder) if found.what is what]


@pytest.fixture
def folder(tmp_path):
    """A folder with two files of lorakit's, one of them below."""
    home = tmp_path / "out"
    with recorded(home):
        files.write_text(home / "a.txt", "ours")
        files.write_text(home / "below" / "b.txt", "ours too")
    return home


def test_what_is_written_into_a_recorded_folder_is_listed_there(folder):
    lines = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    assert [line["file"] for line in lines[1:]] == ["a.txt", "below/b.txt"] and lines[1]["size"] == 4
    assert names(folder, What.OURS) == ["a.txt", "below/b.txt"] and stranger_in(folder) is None


def test_a_copied_folder_is_known_and_a_changed_file_is_not(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert stranger_in(tmp_path / "copy") is None
    (folder / "a.txt").write_text("OURS")  # of the same length
    assert stranger_in(folder) == "a.txt"
    (folder / "a.txt").write_text("ours")
    assert stranger_in(folder) is None


@pytest.mark.parametrize("name", ["note.txt", "below/note.txt", "zzz/deep/note.txt", ".hidden"])
def test_a_file_that_is_not_listed_is_a_stranger_wherever_it_lies(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    assert stranger_in(folder) == name


def test_links_are_never_ours_and_never_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("ours")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")  # the very bytes that were written
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(folder, What.STRANGER) == ["a.txt", "linked"]
    clear(folder)
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "ours" and (folder / "linked").is_symlink()


def test_clearing_takes_what_is_ours_and_leaves_everything_else(folder):
    for name in ("note.txt", "below/note.txt", "mine/note.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "empty").mkdir()
    clear(folder)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == ["below", "below/note.txt", "empty", "mine", "mine/note.txt", "note.txt"]


def test_nothing_that_is_not_ours_is_replaced_in_a_recorded_folder(folder, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("mine")
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "note.txt").write_text("mine")
    (folder / "a.txt").write_text("changed")
    (folder / "dir.txt").mkdir()
    (folder / "way").symlink_to(tmp_path)
    for name in ("link.txt", "note.txt", "a.txt", "dir.txt", "way/new.txt"):
        with recorded(folder), pytest.raises(RefusedError, match=name.split("/")[0]):
            files.write_text(folder / name, "new")
    assert (tmp_path / "elsewhere.txt").read_text() == "mine" and not (tmp_path / "new.txt").exists()
    assert (folder / "note.txt").read_text() == "mine" and (folder / "a.txt").read_text() == "changed"
    with recorded(folder):
        files.write_text(folder / "below" / "b.txt", "new")
    assert (folder / "below" / "b.txt").read_text() == "new" and "below/b.txt" in names(folder, What.OURS)


def test_removing_leaves_what_is_not_ours(folder):
    (folder / "note.txt").write_text("mine")
    with recorded(folder):
        for name in ("note.txt", "a.txt", "nowhere"):
            files.remove(folder / name)
    assert (folder / "note.txt").exists() and not (folder / "a.txt").exists()


@pytest.mark.parametrize("content", ["mine\n", '{"file": "a.txt", "size": 1, "print": ""}\n', ""])
def test_a_file_of_a_persons_own_under_the_records_name_stays(tmp_path, content):
    home = tmp_path / "out"
    home.mkdir()
    (home / RECORD).write_text(content)
    if content:
        assert stranger_in(home) == RECORD
        with recorded(home), pytest.raises(RefusedError, match="lorakit"):
            files.write_text(home / "a.txt", "ours")
        assert (home / RECORD).read_text() == content and not (home / "a.txt").exists()
    else:  # nothing is in it
        with recorded(home):
            files.write_text(home / "a.txt", "ours")
        assert stranger_in(home) is None


def test_a_link_under_the_records_name_is_not_written_through(tmp_path):
    home = tmp_path / "out"
    home.mkdir()
    (tmp_path / "elsewhere").write_text("")
    (home / RECORD).symlink_to(tmp_path / "elsewhere")
    with recorded(home), pytest.raises(RefusedError):
        files.write_text(home / "a.txt", "ours")
    assert (tmp_path / "elsewhere").read_text() == ""


def test_a_line_that_was_cut_off_harms_no_other(folder):
    with (folder / RECORD).open("a") as file:
        file.write('{"file": "c.txt", "si')
    with recorded(folder):
        files.write_text(folder / "d.txt", "ours")
    assert names(folder, What.OURS) == ["a.txt", "below/b.txt", "d.txt"]


def test_two_runs_list_their_files_in_one_record(folder):
    with recorded(folder):
        files.write_text(folder / "one.txt", "1")
        with recorded(folder) as other:  # as of another process: it has read the record before
            files.write_text(folder / "two.txt", "2")
            assert other.ours("one.txt")
        files.write_text(folder / "two.txt", "22")
    assert stranger_in(folder) is None


def test_the_innermost_record_has_the_file_and_all_are_asked(folder):
    with recorded(folder), recorded(folder / "run"):
        files.write_text(folder / "run" / "x.txt", "ours")
    assert '"x.txt"' in (folder / "run" / RECORD).read_text() and "x.txt" not in (folder / RECORD).read_text()
    assert stranger_in(folder) is None
    clear(folder)
    assert list(folder.iterdir()) == []


def test_a_growing_file_is_ours_until_it_is_complete(folder):
    with recorded(folder):
        files.growing(folder / "log")
        (folder / "log").write_text("one\n")
    assert stranger_in(folder) is None
    with recorded(folder):
        files.growing(folder / "log")
        (folder / "log").write_text("one\ntwo\n")
        files.grown(folder / "log")
    assert stranger_in(folder) is None
    (folder / "log").write_text("one\ntwo\nmine\n")
    assert stranger_in(folder) == "log"


def test_what_file_managers_leave_and_empty_folders_and_locks_are_no_strangers(folder):
    (folder / ".DS_Store").write_text("x")
    (folder / ".lock").touch()
    (folder / "empty").mkdir()
    assert stranger_in(folder) is None and names(folder, What.EMPTY) == ["empty"]
    (folder / ".lock").write_text("mine")
    assert stranger_in(folder) == ".lock"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_looked_into_is_a_stranger(folder):
    (folder / "closed").mkdir(mode=0)
    assert stranger_in(folder) == "closed"


def test_the_fingerprint_of_a_large_file_sees_every_change_of_a_mib_and_its_size(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(17 << 20))
    before = fingerprint(file)
    for at in (0, 5 << 20, (16 << 20) + 77, (17 << 20) - 1):
        data = bytearray(file.read_bytes())
        data[at : at + (1 << 20)] = bytes(len(data[at : at + (1 << 20)]))
        (tmp_path / "changed").write_bytes(data)
        assert fingerprint(tmp_path / "changed") != before
    (tmp_path / "longer").write_bytes(file.read_bytes() + b"x")
    assert fingerprint(tmp_path / "longer") != before and fingerprint(file) == before


def test_the_record_of_a_whole_folder_has_the_same_bytes_for_the_same_files(tmp_path):
    for home, order in (("one", "ab"), ("two", "ba")):
        for name in order:
            (tmp_path / home / name).mkdir(parents=True)
            (tmp_path / home / name / "x").write_text(name)
        write_record(tmp_path / home)
    assert (tmp_path / "one" / RECORD).read_bytes() == (tmp_path / "two" / RECORD).read_bytes()
    assert Record(tmp_path / "one").ours("a/x")
