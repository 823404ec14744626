import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import forks
from tests.systems import pretend

# From the one that takes longest
_LONGEST = (
    "test_train.py",
    "test_dry_run.py",
    "test_subject.py",
    "test_sample.py",
    "test_ppim_keeps.py",
    "test_world.py",
    "test_fuse.py",
    "test_triggers.py",
    "test_systems.py",
    "test_hostile_files.py",
    "test_streams.py",
    "test_said_written.py",
    "test_folders.py",
    "test_kills.py",
    "test_compose.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on", choices=("windows", "macos"), help="take from lorakit what this system lacks")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads would wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist begins with the files of most tests
    if system := config.getoption("--on"):
        os.environ[pretend.VARIABLE] = system
        paths = [str(Path(pretend.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        pretend.install(system)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker is left alone with one at the end."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    if config.getoption("--on") == "windows" or sys.platform == "win32":
        for item in items:
            if item.get_closest_marker("posix"):
                item.add_marker(pytest.mark.skip(reason="needs what Windows lacks"))


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in `tmp_path` in this process, which need not load torch anew; `status` is what it must exit with."""
    import torch

    from lorakit.cli import _run

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0, env: dict[str, str] | None = None) -> Done:
        threads = torch.get_num_threads()
        capfd.readouterr()
        try:
            with monkeypatch.context() as patch:
                for name, value in (env or {}).items():
                    patch.setenv(name, value)
                code = _run([str(a) for a in arguments])
        finally:
            torch.set_num_threads(threads)
        done = Done(*capfd.readouterr())
        assert code == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def json_of(program: Callable[..., Done]) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        return program(*arguments, "--json").json

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Done]:
    """Run a command as `program` does, in a process of its own; each costs seconds, so only where that is what is shown."""

    def run(*arguments: object, status: int = 0, env: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "lorakit", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            timeout=900,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return Done(done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def _forks() -> Iterator[forks.Server]:
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here")
    with forks.served() as server:
        yield server


@pytest.fixture
def start(_forks: forks.Server, tmp_path: Path) -> Callable[..., forks.Child]:
    """Begin a command in `tmp_path` in a process that can be killed, limited or waited for, without seconds of imports."""
    return partial(_forks.start, tmp_path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD1 of a few channels, to be read only."""
    from tests.tiny import make

    return make(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture
def small_model(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands work on that model where they are told no other: it is read and computed in half the time."""
    for command in ("TRAIN", "PRIOR_GEN", "SAMPLE"):
        monkeypatch.setenv(f"LORAKIT_{command}_MODEL", str(small))


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ppim` start one process: each costs a third of a second."""
    monkeypatch.setenv("LORAKIT_PPIM_WORKERS", "1")


def picture(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


def captioned(folder: Path, caption: str, sizes: Sequence[tuple[int, int]] = ((64, 64),) * 4) -> Path:
    """A new folder of pictures of these sizes, each with the caption and its number."""
    folder.mkdir(parents=True)
    for i, size in enumerate(sizes):
        picture(size, seed=i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{caption} number {i}")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four captioned pictures."""
    return captioned(tmp_path / "data", "a photo of a sks thing")
