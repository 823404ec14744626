from pathlib import Path

import pytest

from lorakit.errors import UsageError
from lorakit.io.endings import ADAPTER, FOLDER, MERGED_MODEL, PEFT, PICTURES


@pytest.mark.parametrize(
    ("kind", "name", "right"),
    [
        (ADAPTER, "a.pt", "a.safetensors"),
        (ADAPTER, "a", "a.safetensors"),
        (ADAPTER, "a.v2", "a.v2.safetensors"),  # no ending that a program knows: a part of the name
        (ADAPTER, "sub/a.tar.gz", "sub/a.tar.safetensors"),
        (MERGED_MODEL, "m.bin", "m.safetensors or m.ckpt or m"),
        (PEFT, "p.safetensors", "a folder; name it p"),
        (PICTURES, "x.jpg", "x.png or x"),
        (FOLDER, "site.html", "a folder; name it site"),
    ],
)
def test_a_wrong_ending_is_told_with_the_right_name(kind, name, right):
    with pytest.raises(UsageError) as refused:
        kind.check(Path(name))
    assert str(refused.value).startswith(f"{name}: ") and str(refused.value).endswith(right)


def test_right_endings_in_any_case_and_folders_of_any_other_name_pass(tmp_path):
    ADAPTER.check(Path("a.b.SAFETENSORS"))
    for name in ("m.safetensors", "m.ckpt", "m", "model.v1", "sd-1.5"):
        MERGED_MODEL.check(Path(name))
    assert [MERGED_MODEL.is_folder(Path(name)) for name in ("m.ckpt", "m", "sd-1.5")] == [False, True, True]
    (tmp_path / "old.bin").mkdir()
    MERGED_MODEL.check(tmp_path / "old.bin")  # a folder already, whatever it is called
