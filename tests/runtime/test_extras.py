"""A package that cannot be imported is a fault of the installation, never of the file that is just being read."""

from pathlib import Path

import pytest

from lorakit.runtime.extras import broken_installation, faults_of_file
from tests.conftest import picture
from tests.support import small_models

OF_ANOTHER_TORCH = 'import torch\nraise RuntimeError("operator torchvision::nms does not exist")\n'
MOVED = "from huggingface_hub import cached_download\n"
NO_LIBRARY = 'raise OSError("libcudart.so.12: cannot open shared object file")\n'


def package(folder: Path, name: str, body: str) -> dict[str, str]:
    """The environment of a program that finds this package before the true one."""
    import os

    (folder / "site" / name).mkdir(parents=True)
    (folder / "site" / name / "__init__.py").write_text(body)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[2])])}


@pytest.mark.parametrize(
    ("name", "body", "reason", "line"),
    [
        ("diffusers", MOVED, "cannot import name 'cached_download'", "diffusers huggingface_hub"),
        (
            "transformers",
            "import nothing_of_the_kind",
            "No module named 'nothing_of_the_kind'",
            "transformers nothing_of_the_kind",
        ),
        ("torch", NO_LIBRARY, "libcudart.so.12", "torch"),
    ],
)
def test_a_broken_package_is_named_with_the_line_that_mends_it(process, tmp_path, name, body, reason, line):
    env = package(tmp_path, name, body)
    said = process("sample", "a fox", "--steps", 1, "-o", "x.png", status=6, env=env).stderr
    assert f"the installation is broken: {name} cannot be imported" in said and reason in said
    assert f"pip install --upgrade --force-reinstall {line}\n" in said and "not a whole" not in said


def test_captioners_tell_it_apart_from_a_broken_folder(program, process, tmp_path):
    (tmp_path / "raw").mkdir()
    picture().save(tmp_path / "raw/a.png")
    small_models.clip(tmp_path / "clip")
    env = package(tmp_path, "torchvision", OF_ANOTHER_TORCH)
    said = process("ppim", "raw", "d", "--caption", "clip", "--caption-model", "clip", status=6, env=env).stderr
    assert "the installation is broken: torchvision cannot be imported" in said
    assert "operator torchvision::nms does not exist" in said and "--force-reinstall torch torchvision\n" in said
    (tmp_path / "clip/model.safetensors").write_bytes(b"no tensors")
    assert (
        "model.safetensors is not a safetensors file"
        in program("ppim", "raw", "d", "--caption", "clip", "--caption-model", "clip", status=3).stderr
    )


def caught(code: str, name: str = "somepackage") -> Exception:
    try:
        exec(compile(code, f"{name}.py", "exec"), {"__name__": name})
    except Exception as error:  # noqa: BLE001  whatever the code raises
        return error
    raise AssertionError("nothing was raised")


def test_errors_of_calls_are_no_broken_installations():
    scope: dict[str, object] = {"__name__": "somepackage"}
    exec("def read():\n    raise RuntimeError('a bad file')", scope)
    try:
        scope["read"]()  # type: ignore[operator]
    except RuntimeError as error:
        assert broken_installation(error) is None


def test_the_cause_is_what_is_told():
    error = caught(
        "try:\n    import nothing_of_the_kind\nexcept ImportError as e:\n    raise RuntimeError('wrapped') from e"
    )
    said = str(broken_installation(error))
    assert "somepackage cannot be imported (No module named 'nothing_of_the_kind')" in said


def test_a_bug_of_our_own_modules_stays_a_bug():
    assert broken_installation(caught("raise NameError('oops')", "lorakit.jobs.sample")) is None
    assert "numpy" in str(broken_installation(caught("from numpy import nothing", "lorakit.jobs.sample")))


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")])
def test_too_little_memory_is_no_fault_of_the_file(error):
    with pytest.raises(type(error)), faults_of_file("x is not a whole model"):
        raise error
