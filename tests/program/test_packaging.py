"""What pyproject.toml says of the package is true."""

import ast
import re
import tomllib
from pathlib import Path

import lorakit

ROOT = Path(lorakit.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
IMPORTED_AS = {"pillow": "PIL"}
# What pickled checkpoints of torch name, so that no other name would do.
BY_FORMAT = {"torch._utils._rebuild_tensor_v2"}


def imports() -> dict[str, set[str]]:
    """Each module that the product imports, to the files that do."""
    found: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


def test_nothing_private_of_another_package_is_imported():
    private = {
        name: files
        for name, files in imports().items()
        if name not in BY_FORMAT
        and not name.startswith(("lorakit.", "__future__"))
        and re.search(r"(^|\.)_[a-z]", name)
    }
    assert private == {}


def test_a_requirement_is_imported_or_says_why_it_is_none():
    roots = {name.partition(".")[0] for name in imports()}
    for requirement in PROJECT["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert IMPORTED_AS.get(name, name) in roots or re.search(rf'"{requirement}",  # never imported: ', TEXT), name


def test_the_index_is_told_who_what_and_where():
    assert PROJECT["authors"] and PROJECT["keywords"] and PROJECT["urls"]
    assert all(url.startswith("https://") and "example" not in url for url in PROJECT["urls"].values())
    assert not any(line.startswith("License ::") for line in PROJECT["classifiers"])  # beside an SPDX license: an error
