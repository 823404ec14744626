"""Help and bad arguments load nothing heavy."""

import subprocess
import sys

HEAVY = ["torch", "numpy", "PIL", "diffusers", "transformers", "safetensors", "accelerate", "rich"]


def loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_program_imports_nothing_heavy():
    assert loaded_after("import lorakit, lorakit.cli") == set()


def test_a_bad_option_is_refused_before_anything_heavy_loads():
    code = "from lorakit.cli import _run; assert _run(['train', '--rank', '0']) == 2; assert _run(['merge', 'a', 'b', '--method', 'liner']) == 2"
    assert loaded_after(code) == set()


def test_merge_never_imports_diffusers():
    assert "diffusers" not in loaded_after("import lorakit.jobs.merge")
