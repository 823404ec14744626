"""One name has one meaning: no two classes of lorakit are called the same."""

import ast
from collections import defaultdict
from pathlib import Path

import lorakit

ROOT = Path(lorakit.__file__).parent
PARTS = {"Branch"}  # of each adapter variant: the name under which `variants` finds it


def test_no_class_name_is_given_twice():
    places: dict[str, list[str]] = defaultdict(list)
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1 and name not in PARTS} == {}
