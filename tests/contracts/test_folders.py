"""Every command that writes a folder, with things of a person's in it: with and without --force nothing of theirs changes
by a bit, and the first thing that stands in the way is named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorakit.io import files
from lorakit.io.record import RECORD, recorded
from tests.conftest import captioned, picture
from tests.support.adapters_of_tiny import lora

pytestmark = pytest.mark.usefixtures("small_model")
QUICK = ["--steps", 1, "--guidance", 1, "--scheduler", "euler"]


@dataclass(frozen=True)
class Writer:
    """A command that writes the folder `out`.

    whole   the folder is replaced as one, and refused with anything else in it; other commands write beside it
    names   under which it writes
    again   whether a second run without --force works
    """

    arguments: list[object]
    names: list[str]
    whole: bool = False
    again: bool = True
    prepare: Callable[[Path], object] = field(default=lambda folder: None)


def _adapter(folder: Path) -> None:
    lora(folder / "a.safetensors", 1)


def _set(folder: Path) -> None:
    captioned(folder / "data", "a photo of a sks thing")


def _raw(folder: Path) -> None:
    (folder / "raw").mkdir()
    for i in range(2):
        picture((90, 80), seed=i).save(folder / "raw" / f"{i}.png")


TRAIN = ["train", "data", "--steps", 1, "--batch-size", 1, "--rank", 1]
WRITERS = {
    "convert --to peft": Writer(
        ["convert", "a.safetensors", "out", "--to", "peft"],
        ["adapter_config.json", "adapter_model.safetensors"],
        True,
        False,
        _adapter,
    ),
    "merge --into": Writer(
        ["merge", "a.safetensors", "--into", "tiny", "-o", "out"],
        ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
        True,
        False,
        _adapter,
    ),
    "train --mode full": Writer(
        [*TRAIN[:-2], "--mode", "full", "-o", "out"],
        ["lorakit.json", "unet/diffusion_pytorch_model.safetensors"],
        True,
        False,
        _set,
    ),
    "train's run folder": Writer(
        [*TRAIN, "-o", "out.safetensors", "--run-dir", "out", "--checkpoint-every", 1],
        ["config.toml", "log.jsonl", "report.html", "cache/latents.pack", "checkpoints/step-000001.safetensors"],
        False,
        False,
        _set,
    ),
    "prior-gen": Writer(["prior-gen", "a photo of a dog", "out", "-n", 2, *QUICK], ["metadata.jsonl"]),
    "sample": Writer(["sample", "a cat", "-o", "out", "-n", 2, *QUICK], ["00000.png", "00001.png"]),
    "sample --grid": Writer(
        ["sample", "a cat", "-o", "out", *QUICK, "--grid", "x:seed=1,2", "--gif"], ["00001.png", "grid.png", "grid.gif"]
    ),
    "sample --save-steps": Writer(["sample", "a cat", "-o", "out", *QUICK, "--save-steps"], ["00000.steps.png"]),
}
WHOLE = [name for name, writer in WRITERS.items() if writer.whole]
BESIDE = [name for name, writer in WRITERS.items() if not writer.whole]
FORCE = pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "--force"])


def tree(folder: Path) -> dict[str, object]:
    """All that is below a folder: content and time of files, where links lead, folders."""
    return {
        path.relative_to(folder).as_posix(): (
            path.readlink()
            if path.is_symlink()
            else None
            if path.is_dir()
            else (path.read_bytes(), path.stat().st_mtime_ns)
        )
        for path in folder.rglob("*")
    }


def strange(out: Path) -> Iterator[tuple[str, Path]]:
    """Puts things of a person's into a folder, one kind after another: its name there, and what must not change."""
    elsewhere = out.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "novel.txt").write_text("chapter one")
    out.mkdir(exist_ok=True)
    (out / "my").mkdir()
    (out / "my" / "novel.txt").write_text("chapter one")
    yield "my", out / "my"
    (out / "zz.txt").write_text("notes")
    yield "zz.txt", out / "zz.txt"
    (out / "zz-folder").symlink_to(elsewhere)
    yield "zz-folder", elsewhere
    (out / "zz-file").symlink_to(elsewhere / "novel.txt")
    yield "zz-file", elsewhere


@pytest.fixture
def done(request, program, tmp_path, monkeypatch) -> Writer:
    """The command was run once, and its folder is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    writer = WRITERS[request.param]
    writer.prepare(tmp_path)
    program(*writer.arguments)
    for name in writer.names:
        assert (tmp_path / "out" / name).is_file()
    return writer


@FORCE
@pytest.mark.parametrize("done", WHOLE, indirect=True)
def test_a_folder_that_is_replaced_whole_is_refused_with_anything_else_in_it(program, tmp_path, done, force):
    out = tmp_path / "out"
    for _ in strange(out):
        before = tree(tmp_path)
        assert "holds my/novel.txt" in program(*done.arguments, *force, status=4).stderr
        assert tree(tmp_path) == before
    for name in sorted(path.name for path in out.iterdir() if path.name.startswith(("my", "zz"))):
        if name != "my":
            (out / name).unlink()
    (out / "my" / "novel.txt").unlink()
    (out / "my").rmdir()
    for name in done.names:
        ours = (out / name).read_bytes()
        for change in ("changed", "link", "folder"):
            (out / name).unlink()
            if change == "changed":
                (out / name).write_bytes(ours + b" ")
            elif change == "link":
                (tmp_path / "same").write_bytes(ours)
                (out / name).symlink_to(tmp_path / "same")
            else:
                (out / name).mkdir()
                (out / name / "mine").write_text("mine")
            before = tree(tmp_path)
            assert f"holds {name}" in program(*done.arguments, *force, status=4).stderr
            assert tree(tmp_path) == before
            if change == "folder":
                (out / name / "mine").unlink()
                (out / name).rmdir()
                (out / name).touch()
        (out / name).unlink()
        (out / name).write_bytes(ours)
    program(*done.arguments, *force, status=0 if force else 4)


@FORCE
@pytest.mark.parametrize("name", WHOLE)
def test_a_folder_of_a_persons_own_is_never_replaced(program, tmp_path, name, force):
    writer = WRITERS[name]
    writer.prepare(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    before = tree(tmp_path)
    assert "holds index.html" in program(*writer.arguments, *force, status=4).stderr
    assert tree(tmp_path) == before


@FORCE
@pytest.mark.parametrize("done", BESIDE, indirect=True)
def test_what_stands_beside_the_files_of_a_command_stays_as_it_is(program, tmp_path, done, force):
    kept = list(strange(tmp_path / "out"))
    before = {name: tree(place) if place.is_dir() else place.read_bytes() for name, place in kept}
    program(*done.arguments, *force, status=0 if done.again or force else 4)
    for name, place in kept:
        assert (tree(place) if place.is_dir() else place.read_bytes()) == before[name]
    assert (tmp_path / "out" / "zz-file").is_symlink() and (tmp_path / "out" / "zz-folder").is_symlink()


@pytest.mark.parametrize(("done", "name"), [(w, n) for w in BESIDE for n in WRITERS[w].names], indirect=["done"])
def test_nothing_of_a_persons_is_replaced_under_a_name_of_the_commands(program, tmp_path, done, name):
    file = tmp_path / "out" / name
    ours = file.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    same = tmp_path / "elsewhere" / "same"
    same.write_bytes(ours)
    mended = name.endswith(".pack") or name.startswith("checkpoints/")  # nobody edits these: what differs is damage
    for kind in ("another", "link") if mended else ("changed", "another", "link"):
        file.unlink()
        if kind == "link":
            file.symlink_to(same)
        else:
            file.write_bytes(b"mine" if kind == "another" else ours + b" ")
        before = tree(tmp_path / "elsewhere"), file.read_bytes()
        said = program(*done.arguments, "--force", status=4).stderr
        assert f"out/{name} " in said and ("link" in said) == (kind == "link")
        assert (tree(tmp_path / "elsewhere"), file.read_bytes()) == before


@pytest.mark.parametrize("name", WRITERS)
def test_force_without_anything_there_does_what_is_done_without_it(program, tmp_path, name, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    writer = WRITERS[name]
    writer.prepare(tmp_path)
    program(*writer.arguments, "--force")
    first = {path: made for path, made in tree(tmp_path / "out").items() if isinstance(made, tuple)}
    program(*writer.arguments, "--force")
    again = {path: made for path, made in tree(tmp_path / "out").items() if isinstance(made, tuple)}
    if writer.whole:
        assert {path: made[0] for path, made in again.items()} == {path: made[0] for path, made in first.items()}
    assert set(again) == set(first) and RECORD in first


def _tour(folder: Path) -> None:
    with recorded(folder):
        for name in ("fox/raw/a.png", "fox/lora.safetensors", "merged.safetensors", "index.html"):
            files.write_text(folder / name, "ours")


@FORCE
def test_a_tour_is_refused_with_anything_else_in_it(program, tmp_path, force):
    out = tmp_path / "out"
    _tour(out)
    for _ in strange(out):
        before = tree(tmp_path)
        assert "holds my/novel.txt" in program("demo", "out", *force, status=4).stderr
        assert tree(tmp_path) == before
    for name, content in (("index.html", "changed"), ("fox/lora.safetensors", "changed")):
        other = tmp_path / name.replace("/", "-")
        _tour(other / "out")
        (other / "out" / name).write_text(content)
        before = tree(other)
        assert f"holds {name}" in program("demo", other / "out", *force, status=4).stderr
        assert tree(other) == before


@FORCE
def test_a_tour_does_not_take_a_folder_that_merely_has_an_index(program, tmp_path, force):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>mine</h1>")
    (tmp_path / "site" / "novel.txt").write_text("chapter one")
    before = tree(tmp_path)
    said = program("demo", "site", *force, status=4).stderr
    assert "site holds index.html" in said and "--force" not in said and tree(tmp_path) == before


@FORCE
def test_a_set_is_not_prepared_over_files_of_a_persons(program, tmp_path, force):
    _raw(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "my own words"}\n')
    before = tree(tmp_path)
    program("ppim", "raw", "out", *force, status=4)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["00000.png", "00001.txt", "metadata.jsonl"])
@FORCE
def test_class_pictures_are_not_drawn_over_files_of_a_persons(program, tmp_path, name, force):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    (tmp_path / "out" / "p0.png").write_bytes(b"mine")  # beside them they are
    before = tree(tmp_path)
    assert f"out/{name} " in program("prior-gen", "a dog", "out", "-n", 2, *QUICK, *force, status=4).stderr
    assert tree(tmp_path) == before
    (tmp_path / "out" / name).unlink()
    program("prior-gen", "a dog", "out", "-n", 2, *QUICK, *force)
    assert (tmp_path / "out" / "p0.png").read_bytes() == b"mine"


@FORCE
def test_class_pictures_that_a_person_has_changed_stay(program, tmp_path, force):
    program("prior-gen", "a dog", "out", "-n", 2, *QUICK)
    (tmp_path / "out" / "00000.txt").write_text("my own words")
    file = tmp_path / "out" / "00001.png"
    file.write_bytes(file.read_bytes() + b" ")
    program("prior-gen", "a dog", "out", "-n", 3, *QUICK, *force)  # they are as they are wanted
    before = (tmp_path / "out" / "00000.txt").read_bytes(), file.read_bytes()
    assert "00000.txt " in program("prior-gen", "a cat", "out", "-n", 3, *QUICK, *force, status=4).stderr
    assert ((tmp_path / "out" / "00000.txt").read_bytes(), file.read_bytes()) == before
