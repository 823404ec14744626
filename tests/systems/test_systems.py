"""The program on systems that it is not run on here, as `pretend` shows them: it starts, and writes the same bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.formats import writing
from tests.conftest import picture
from tests.support.adapter_files import random_adapter
from tests.systems import pretend

SYSTEMS = ("windows", "macos")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shows other systems on Linux")


def run(system: str, folder: Path, *words: object) -> subprocess.CompletedProcess[bytes]:
    paths = [str(Path(pretend.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), pretend.VARIABLE: system}
    return subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=env, capture_output=True, check=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


_ONE_AFTER_ANOTHER = """
import json, sys
from lorakit.cli import _run
sys.exit(any(_run(words) for words in json.loads(sys.argv[1])))
"""


@pytest.fixture
def same_bytes(tmp_path: Path) -> Callable[..., None]:
    """Run commands in a copy of a prepared folder for each system; what is written must be the same."""

    def check(prepare: Callable[[Path], None], *commands: tuple[str, ...]) -> None:
        found = {}
        for system in ("", *SYSTEMS):
            folder = tmp_path / (system or "linux") / "work"
            folder.mkdir(parents=True)
            prepare(folder)
            done = run(system, folder, "-c", _ONE_AFTER_ANOTHER, json.dumps(commands))
            assert done.returncode == 0, (system, done.stderr.decode())
            found[system] = content(folder)
        for system in SYSTEMS:
            assert found[system].keys() == found[""].keys()
            assert [name for name in found[""] if found[system][name] != found[""][name]] == []

    return check


def two_adapters(folder: Path) -> None:
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        writing.save(folder / name, random_adapter("tiny", lambda n: ".attn1.to_" in n, seed=seed), "kohya")


def pictures(folder: Path) -> None:
    (folder / "raw" / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "con.png", "sub/b.jpg", "sub/caf\u00e9.png")):
        picture((70 + seed, 64), seed=seed).save(folder / "raw" / name)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_not_there_is_hidden_from_lorakit_alone(tmp_path, system):
    code = "import lorakit.runtime.platform as p; import fcntl, os; print(hasattr(p.os, 'pread'), hasattr(os, 'pread'), p.sys.platform)"
    done = run(system, tmp_path, "-c", code)
    assert (
        done.stdout.split()
        == {"windows": [b"False", b"True", b"win32"], "macos": [b"True", b"True", b"darwin"]}[system]
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_program_starts_and_a_bad_argument_is_refused(tmp_path, system):
    assert b"Commands" in run(system, tmp_path, "-m", "lorakit", "--help").stdout
    assert run(system, tmp_path, "-m", "lorakit", "train", "--rank", "0").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_can_be_imported(tmp_path, system):
    code = """
import importlib, pkgutil, lorakit
for found in pkgutil.walk_packages(lorakit.__path__, "lorakit."):
    if not found.name.endswith("__main__") and ".build" not in found.name:
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            if error.name and "system" in str(error):
                raise
"""
    done = run(system, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr.decode()


def test_pictures_are_prepared_to_the_same_bytes(same_bytes):
    ppim = ("ppim", "raw", "data", "--size", "64", "--caption", "filename", "--token", "sks", "--workers", "2", "-q")
    same_bytes(pictures, ppim, ppim)


def test_adapters_are_merged_composed_and_converted_to_the_same_bytes(same_bytes):
    same_bytes(
        two_adapters,
        ("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors", "--rank", "4", "--report", "m.html", "-q"),
        ("merge", "m.safetensors", "b.safetensors", "-o", "m.safetensors", "-f", "-q"),  # onto what is being read
        ("convert", "m.safetensors", "peft", "--to", "peft", "-q"),
        ("compose", "a.safetensors:0.5", "m.safetensors", "-o", "r.toml", "-q"),
    )


def test_a_file_that_is_open_is_replaced_on_windows_and_read_as_it_was(tmp_path):
    two_adapters(tmp_path)
    before = (tmp_path / "a.safetensors").read_bytes()
    code = """
from pathlib import Path
from lorakit.io import safetensors
from lorakit.io.files import write_bytes
file = safetensors.open_file("a.safetensors")
write_bytes(Path("a.safetensors"), b"other")
safetensors.write(Path("again.safetensors"), file, file.metadata)
"""
    done = run("windows", tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "a.safetensors").read_bytes() == b"other"
    assert (tmp_path / "again.safetensors").read_bytes() == before


def test_macos_asks_the_drive_itself_to_sync(tmp_path):
    code = """
import pretend
from pathlib import Path
from lorakit.io.files import write_bytes
write_bytes(Path("a"), b"x")
print(len(pretend.full_syncs))
"""
    done = run("macos", tmp_path, "-c", code)
    assert done.stdout.strip() == b"2", done.stderr.decode()  # the file and its folder
