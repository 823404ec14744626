"""The name of every output says what is in it: a wrong ending is refused before any work, with the right one."""

import sys
from pathlib import Path

import pytest
import torch

from lorakit.cli.convert import WRITTEN
from lorakit.formats import files
from tests.support.adapters_of_tiny import lora

WRONG = ("x.pt", "x.pth", "x.bin", "x.ckpt", "x.txt", "x.png", "x", "x.v2")
# What is written, as a command whose last word is the output, and which of the names above are right.
FILES = {
    "merge": (["merge", "a.safetensors", "a.safetensors", "-o"], ".safetensors", ()),
    "merge --sweep": (["merge", "a.safetensors", "a.safetensors", "--sweep", "0:1:3", "-o"], ".safetensors", ()),
    "merge --report": (["merge", "a.safetensors", "a.safetensors", "--report"], ".html", ()),
    "merge --into": (["merge", "a.safetensors", "--into", "tiny", "-o"], ".safetensors", ("x.ckpt", "x", "x.v2")),
    "extract": (["extract", "a.safetensors", "-o"], ".safetensors", ()),
    "extract --report": (["extract", "a.safetensors", "--report"], ".html", ()),
    "inspect --report": (["inspect", "a.safetensors", "a.safetensors", "--similarity", "--report"], ".html", ()),
    "compose": (["compose", "a.safetensors", "-o"], ".toml", ()),
    "compose --bake": (["compose", "a.safetensors", "--bake", "-o"], ".safetensors", ()),
    "compose --plot": (["compose", "a.safetensors", "--plot"], ".png", ("x.png",)),
    "train": (["train", "data", "-o"], ".safetensors", ()),
    "train --mode ti": (["train", "data", "--mode", "ti", "--token", "<s>", "-o"], ".safetensors", ()),
    "train --mode full": (["train", "data", "--mode", "full", "-o"], ".safetensors", ("x", "x.v2")),
    "sample": (["sample", "a cat", "-o"], ".png", ("x.png", "x", "x.v2")),
    **{
        f"convert --to {name}": (["convert", "a.safetensors", "--to", name, "--"], ".safetensors", ())
        for name in WRITTEN
        if name not in ("peft", "a1111-embedding")
    },
    "convert --to a1111-embedding": (
        ["convert", "a.safetensors", "--to", "a1111-embedding"],
        ".safetensors",
        ("x.pt",),
    ),
    "convert --to peft": (["convert", "a.safetensors", "--to", "peft"], "", ("x", "x.v2")),
    "ppim": (["ppim", "data"], "", ("x", "x.v2")),
    "prior-gen": (["prior-gen", "a dog"], "", ("x", "x.v2")),
    "demo": (["demo"], "", ("x", "x.v2")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_ending_is_refused_with_the_right_one_before_any_work(program, tmp_path, name):
    command, ending, right = FILES[name]
    lora(tmp_path / "a.safetensors", 1)
    (tmp_path / "data").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for output in (*WRONG, "x.safetensors", "x.toml", "x.html", "x.jpg"):
        if output not in right and Path(output).suffix != (ending or "none"):
            said = program(*command, output, status=2).stderr
            wanted = f"{Path(output).stem}{ending}" if output != "x.v2" else f"x.v2{ending}"
            assert f"{output}: " in said and f"name it {wanted}" in said
            assert sorted(tmp_path.rglob("*")) == before


def test_nothing_heavy_is_loaded_for_a_wrong_ending():
    import subprocess

    code = (
        "import sys; from pathlib import Path; from lorakit.cli import _run; import tempfile, os; os.chdir(tempfile.mkdtemp())\n"
        "Path('a.safetensors').touch(); Path('data').mkdir()\n"
        "for words in ('merge a.safetensors a.safetensors -o x.pt', 'extract a.safetensors -o x.pt', 'train data -o x.pt',\n"
        "              'convert a.safetensors x.pt', 'compose a.safetensors -o x.pt', 'sample cat -o x.jpg', 'demo x.html',\n"
        "              'prior-gen dog x.png', 'ppim data x.zip'):\n"
        "    assert _run(words.split()) == 2\n"
        "print(*[m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() in ([], ["numpy"])  # shots of `sample` are read with it


def test_an_embedding_for_a1111_is_a_pt_file_that_torch_opens_safely(program, tmp_path):
    vectors = torch.arange(24.0).reshape(2, 12).repeat(1, 64)  # two vectors of SD1's width
    torch.save({"<fox>": vectors}, tmp_path / "fox.bin")
    program("convert", "fox.bin", "fox.safetensors", "--to", "a1111-embedding")
    for source in ("fox.bin", "fox.safetensors"):  # the same format in another file is no copy
        said = program("convert", source, "out.pt", "--to", "a1111-embedding", "--force").stderr
        found = torch.load(tmp_path / "out.pt", weights_only=True)
        assert set(found) >= {"string_to_token", "string_to_param", "name"} and found["name"] == "<fox>"
        torch.testing.assert_close(found["string_to_param"]["*"], vectors)
        assert "modelspec" in said or source == "fox.bin"
        read = files.read(tmp_path / "out.pt")
        assert list(read.embeddings) == ["<fox>"]
    program("convert", "out.pt", "half.pt", "--to", "a1111-embedding", "--save-dtype", "float16")
    assert torch.load(tmp_path / "half.pt", weights_only=True)["string_to_param"]["*"].dtype is torch.float16


def test_an_embedding_for_two_text_encoders_is_a_pt_file_as_a1111_reads_it(program, tmp_path):
    torch.save({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, tmp_path / "fox.pt")
    program("convert", "fox.pt", "out.pt", "--to", "a1111-embedding")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert {key: tuple(x.shape) for key, x in found.items()} == {"clip_l": (2, 768), "clip_g": (2, 1280)}
