"""A test stands where one looks for it: below tests/ each folder is a room of lorakit, or one of those named here."""

from pathlib import Path

import lorakit

TESTS, ROOMS = Path(__file__).parent, Path(lorakit.__file__).parent
OTHERS = {
    "benchmarks": "what is measured by hand",
    "contracts": "what all parts of a registry, or all commands, keep to",
    "fuzz": "files made by chance",
    "program": "the installed program from end to end",
    "support": "helpers of the tests",
    "systems": "other operating systems",
}
ABOUT_THE_HOUSE = {"test_layers", "test_mirror", "test_words"}


def test_each_folder_is_a_room_or_has_a_purpose_of_its_own():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - set(OTHERS) <= {path.name for path in ROOMS.iterdir() if path.is_dir()}


def test_each_loose_file_is_of_a_module_at_the_top():
    modules = {f"test_{path.stem}" for path in ROOMS.glob("*.py")}
    assert {path.stem for path in TESTS.glob("test_*.py")} - ABOUT_THE_HOUSE <= modules


def test_helpers_stand_together():
    """Beside the tests of a room there are no helpers; `python -m tests.formats.circulating` is a program."""
    helpers = {path.name for path in TESTS.glob("*/*.py") if path.parent.name not in OTHERS}
    assert {name for name in helpers if not name.startswith("test_")} <= {"__init__.py", "circulating.py"}
