"""Help and bad arguments load nothing heavy."""

import subprocess
import sys
from pathlib import Path

HEAVY = ["torch", "numpy", "PIL", "diffusers", "transformers", "safetensors", "accelerate", "rich"]


def loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    home = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", report], cwd=home, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) & set(HEAVY)


def test_the_program_imports_nothing_heavy():
    assert loaded_after("import lorakit, lorakit.cli") == set()


def test_a_bad_option_is_refused_before_anything_heavy_loads():
    code = "from lorakit.cli import _run; assert _run(['train', '--rank', '0']) == 2; assert _run(['merge', 'a', 'b', '--method', 'liner']) == 2"
    assert loaded_after(code) == set()


def test_a_path_or_a_model_that_is_not_there_is_named_before_anything_heavy_loads(tmp_path):
    wrong = [
        "merge a b",
        "merge a b --into nowhere/",
        "convert a b",
        "compose a b",
        "inspect a",
        "sample x --lora a",
        "sample x --model nope",
        "extract a --base nope",
        "train a",
        "train a --model nope",
        "prior-gen x out --model nope",
        "ppim a b",
    ]
    code = f"""
import os
from lorakit.cli import _run
os.chdir({str(tmp_path)!r})
for arguments in {wrong!r}:
    assert _run(arguments.split()) in (2, 3), arguments
"""
    assert loaded_after(code) == set()


def test_merge_imports_neither_torch_nor_diffusers(tmp_path):
    code = f"""
import numpy as np
from pathlib import Path
from lorakit.cli import _run
from tests.support.adapter_files import random_adapter
from lorakit.formats import writing
files = [Path({str(tmp_path)!r}) / name for name in ("a.safetensors", "b.safetensors", "m.safetensors")]
for i, file in enumerate(files[:2]):
    writing.save(file, random_adapter("tiny", lambda name: ".attn1.to_" in name, seed=i), "kohya")
for more in (["--rank", "4"], ["--method", "dare"], ["--save-dtype", "bfloat16"]):
    assert _run(["merge", *map(str, files[:2]), "-o", str(files[2]), "-f", "-q", *more]) == 0
assert _run(["merge", *map(str, files[:2]), "--into", "tiny", "-o", str(files[2].with_suffix("")), "-q"]) == 0
"""
    assert not {"torch", "diffusers", "transformers"} & loaded_after(code)
