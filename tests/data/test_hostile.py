import json
import os

import pytest

from lorakit.data.decode import BadPicture, Decoded, decode
from lorakit.data.walk import walk
from tests import hostile


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("hostile")
    reasons = hostile.make(folder / "raw")
    before = sorted((e.name, e.lstat().st_mtime_ns) for e in (folder / "raw").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", "ppim", "raw", "data", "--json", "--caption", "filename"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return folder, reasons, before, done


def test_each_bad_file_is_named_with_its_reason_and_the_rest_goes_on(outcome):
    _, reasons, _, done = outcome
    assert done.returncode == 0 and "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    said = {os.path.basename(r["file"]): r["reason"] for r in result["rejected"]}
    assert said.keys() == reasons.keys()
    assert [(name, said[name]) for name, part in reasons.items() if part not in said[name]] == []
    assert result["written"] == len(hostile.good_files()) + 1
    assert "1 mask is of no picture, left out: subject.mask.png" in done.stderr


def test_raw_is_left_alone(outcome):
    folder, _, before, _ = outcome
    assert before == sorted((e.name, e.lstat().st_mtime_ns) for e in (folder / "raw").iterdir())


def test_what_is_said_and_written_is_plain_text(outcome):
    folder, _, _, done = outcome
    assert "\x1b" not in done.stdout + done.stderr
    page = (folder / "data" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "\x1b" not in page
    names = [json.loads(line)["file_name"] for line in (folder / "data" / "metadata.jsonl").read_text().splitlines()]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name[0] not in "-." and name.isprintable() and not name.endswith(".mask.png") for name in names)
    captions = (file.read_text(encoding="utf-8") for file in (folder / "data").glob("*.txt"))
    assert all(text.strip().isprintable() for text in captions)


def test_fuzzed_files_are_read_or_refused_and_nothing_else():
    outcomes = set()
    for data in hostile.fuzzed(250).values():
        try:
            outcomes.add(type(decode(data, most_pixels=1_000_000)))
        except BadPicture as reason:
            assert str(reason)
            outcomes.add(BadPicture)
    assert outcomes == {Decoded, BadPicture}


@pytest.mark.posix
def test_links_are_followed_last_and_what_they_lead_out_to_is_marked(tmp_path):
    for name in ("raw/b/c.png", "elsewhere/o.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "raw" / "a").symlink_to("b")
    (tmp_path / "raw" / "z").symlink_to("../elsewhere")
    (tmp_path / "raw" / "x.png").symlink_to("../elsewhere/o.png")
    found = {one.path: one.outside for one in walk(tmp_path / "raw")}
    assert found == {"x.png": True, "b/c.png": False, "z/o.png": True}
    assert {one.path for one in walk(tmp_path / "raw", tmp_path / "elsewhere")} == {"x.png", "b/c.png"}
