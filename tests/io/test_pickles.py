"""Pickles: what is in them is read, and nothing in them is run."""

import io
import os
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from lorakit.errors import InputError
from lorakit.io import pickles, safetensors


class Evil:
    """Creates `marker` where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def global_of(module: str, name: str, argument: str) -> bytes:
    """A protocol 2 pickle that calls module.name(argument)."""
    return (
        b"\x80\x02c"
        + f"{module}\n{name}\n".encode()
        + b"X"
        + struct.pack("<I", len(argument))
        + argument.encode()
        + b"\x85R."
    )


def rezipped(source: Path, target: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with `change(pickle)` for its data.pkl."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, change(data) if member.filename.endswith("data.pkl") else data)
    return target


def payloads(folder: Path, marker: Path) -> dict[str, Path]:
    """The same payload in everything that torch.load opens."""
    files = {
        name: folder / f"{name}.bin" for name in ("raw", "old_raw", "stacked", "memoized", "zip", "legacy", "later")
    }
    files["raw"].write_bytes(pickle.dumps(Evil(marker), protocol=2))
    files["old_raw"].write_bytes(global_of("os", "system", f"touch {marker}"))
    files["stacked"].write_bytes(pickle.dumps(Evil(marker), protocol=4))
    files["memoized"].write_bytes(
        b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c"
        + bytes([len(f"touch {marker}")])
        + f"touch {marker}".encode()
        + b"\x85R."
    )
    torch.save({"a": torch.ones(2), "b": Evil(marker)}, files["zip"])
    torch.save({"a": torch.ones(2), "b": Evil(marker)}, files["legacy"], _use_new_zipfile_serialization=False)
    whole = folder / "whole.pt"
    torch.save([torch.ones(2)], whole, _use_new_zipfile_serialization=False)
    data = whole.read_bytes()
    first = io.BytesIO(data)
    for _ in pickletools.genops(first):
        pass
    files["later"].write_bytes(data[: first.tell()] + files["old_raw"].read_bytes() + data[first.tell() :])
    return files


@pytest.mark.parametrize("name", ["raw", "old_raw", "stacked", "memoized", "zip", "legacy", "later"])
@pytest.mark.parametrize("forced", ["", "1"])
def test_code_is_refused_by_name_and_never_run(tmp_path, monkeypatch, name, forced):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    marker = tmp_path / "marker"
    file = payloads(tmp_path, marker)[name]
    assert pickles.is_pickle(file)
    with pytest.raises(InputError) as refused:
        pickles.read(file)
    text = str(refused.value)
    assert str(file) in text and "contains code" in text and ".system" in text and "refused" in text
    assert "weights_only" not in text and "\x1b" not in text
    assert not marker.exists()


def test_the_payloads_would_have_run(tmp_path):
    """So the test above is about something."""
    marker = tmp_path / "marker"
    pickle.loads(payloads(tmp_path, marker)["memoized"].read_bytes())
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("builtins", "bytearray"),
        ("torch", "FloatTensor"),
        ("torch._utils", "_rebuild_meta_tensor_no_storage"),
        ("numpy", "load"),
        ("posix", "system"),
        ("collections", "Counter"),
        ("torch", "serialization.os.system"),
    ],
)
def test_only_the_parts_of_tensors_may_be_asked_for(tmp_path, module, name):
    torch.save({}, tmp_path / "a.pt")
    file = rezipped(tmp_path / "a.pt", tmp_path / "b.pt", lambda _: global_of(module, name, "1"))
    with pytest.raises(InputError, match=f"b.pt contains code: {module}.{name}; refused"):
        pickles.read(file)


def test_names_outside_data_pkl_count_too(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/constants.pkl", global_of("os", "system", "true"))
    with pytest.raises(InputError, match=r"os\.system"):
        pickles.read(tmp_path / "a.pt")


def test_a_zip_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/data/0", bytes(64 << 20))
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(InputError, match="unpacks to 671"):
        pickles.read(tmp_path / "a.pt")


def test_a_repacked_archive_is_read_where_it_is_no_bomb(tmp_path):
    torch.save({"a": torch.arange(8)}, tmp_path / "a.pt")
    file = rezipped(tmp_path / "a.pt", tmp_path / "b.pt", lambda data: data, zipfile.ZIP_DEFLATED)
    assert pickles.read(file)["a"].tolist() == list(range(8))


def expanded(folder: Path, legacy: bool, stride: int) -> Path:
    """One float, said to be 2**34 of them."""
    file = folder / "expanded.pt"
    tensor = torch.ones(1).expand(1 << 34) if stride == 0 else torch.ones(1)
    torch.save([tensor], file, _use_new_zipfile_serialization=not legacy)
    if stride:
        # the shape of the one tensor, (1,), follows its offset 0 in both layouts
        old, new = b"K\x00K\x01\x85", b"K\x00\x8a\x05\x00\x00\x00\x00\x04\x85"
        if legacy:
            data = file.read_bytes()
            assert data.count(old) == 1
            file.write_bytes(data.replace(old, new))
        else:
            file = rezipped(file, folder / "stretched.pt", lambda data: data.replace(old, new))
    return file


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("stride", [0, 1])
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, legacy, stride):
    with pytest.raises(InputError, match="refused"):
        pickles.read(expanded(tmp_path, legacy, stride))


def test_a_tree_that_holds_itself_ends(tmp_path):
    doubled: list = []
    for _ in range(30):
        doubled = [doubled, doubled]  # 2**30 lists to walk
    torch.save(doubled, tmp_path / "doubled.pt")
    endless: list = []
    endless.append(endless)
    torch.save(endless, tmp_path / "endless.pt")
    for name in ("doubled.pt", "endless.pt"):
        with pytest.raises(InputError, match=f"{name} holds more than"):
            pickles.read(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_cut_anywhere_is_an_input_error(tmp_path, legacy):
    torch.save({"a": torch.arange(3.0), "n": 3}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "a.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    for end in range(0, len(data), 1 if legacy else 7):
        cut.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"cut\.pt"):
            pickles.read(cut)


def test_a_damaged_pickle_is_an_input_error_or_read(tmp_path):
    rng = random.Random(0)
    for legacy in (False, True):
        torch.save({"a": torch.arange(3.0), "n": 3}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        data = (tmp_path / "a.pt").read_bytes()
        for _ in range(300):
            bad = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            (tmp_path / "bad.pt").write_bytes(bad)
            try:
                pickles.flatten(pickles.read(tmp_path / "bad.pt"))
            except InputError as error:
                assert "bad.pt" in str(error) and "weights_only" not in str(error)


@pytest.mark.posix
def test_what_is_not_pytorchs_is_said(tmp_path):
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    (tmp_path / "text.pt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    for name, says in (
        ("plain.pkl", "plain pickle"),
        ("text.pt", "not a PyTorch pickle"),
        ("other.zip", "no data.pkl"),
    ):
        with pytest.raises(InputError, match=says):
            pickles.read(tmp_path / name)
    with pytest.raises(InputError, match="no such"):
        pickles.read(tmp_path / "missing.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="pipe"):
        pickles.is_pickle(tmp_path / "pipe.pt")


def test_content_decides_what_a_pickle_is(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert pickles.is_pickle(tmp_path / "a.safetensors")
    assert pickles.read(tmp_path / "a.safetensors")["a"].item() == 1
    for length in (640, 19_280):  # headers whose length begins as a pickle (80 02) and a zip archive (PK) do
        head = b'{"__metadata__":{"x":"%s"}}' % (b"x" * (length - 25))
        (tmp_path / "b.pt").write_bytes(len(head).to_bytes(8, "little") + head)
        assert len(head) == length and not pickles.is_pickle(tmp_path / "b.pt")
        assert safetensors.open_file(tmp_path / "b.pt").metadata["x"][:1] == "x"


def test_an_embedding_comes_out_flat(tmp_path):
    """As the web UI and as the first textual inversion wrote it."""
    vectors = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.nn.Parameter(vectors)},
            "name": "cat",
            "step": 9,
            "sd_checkpoint": None,
        },
        tmp_path / "a.pt",
    )
    tensors, texts = pickles.flatten(pickles.read(tmp_path / "a.pt"))
    assert texts == {"string_to_token.*": "265", "name": "cat", "step": "9"}
    assert list(tensors) == ["string_to_param.*"] and tensors["string_to_param.*"].equal(vectors)
    assert type(tensors["string_to_param.*"]) is torch.Tensor and not tensors["string_to_param.*"].requires_grad
    torch.save(
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": torch.nn.ParameterDict({"*": vectors})},
        tmp_path / "b.pt",
    )
    tensors, texts = pickles.flatten(pickles.read(tmp_path / "b.pt"))
    assert texts == {"string_to_token.*": "265"} and tensors["string_to_param.*"].equal(vectors)


def test_lists_and_dicts_become_paths(tmp_path):
    torch.save([torch.zeros(1), {"a": (torch.ones(1), 2.5, True)}], tmp_path / "a.pt")
    tensors, texts = pickles.flatten(pickles.read(tmp_path / "a.pt"))
    assert list(tensors) == ["0", "1.a.0"] and texts == {"1.a.1": "2.5", "1.a.2": "True"}
    torch.save(torch.ones(2), tmp_path / "bare.pt")
    assert list(pickles.flatten(pickles.read(tmp_path / "bare.pt"))[0]) == ["0"]
    torch.save({"a.b": 1, "a": {"b": 2}}, tmp_path / "twice.pt")
    with pytest.raises(InputError, match=r"twice.pt has two values named a\.b"):
        pickles.read(tmp_path / "twice.pt")


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool", "uint16", "float8_e4m3fn"]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_dtype_is_read(tmp_path, dtype, legacy):
    if legacy and dtype in ("uint16", "float8_e4m3fn"):
        pytest.skip("torch cannot read its own old layout there")
    tensor = torch.ones(2, 3).to(getattr(torch, dtype))
    torch.save({"a": tensor, "row": tensor[1]}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    found = pickles.read(tmp_path / "a.pt")
    assert found["a"].dtype == tensor.dtype and found["a"].shape == (2, 3) and found["row"].shape == (3,)
    assert found["a"].float().eq(1).all()
