"""Rows import from rows above and from their own row, never below."""

import ast
from pathlib import Path

import lorakit

ROOT = Path(lorakit.__file__).parent
ROWS = (
    {"errors", "registry", "patterns", "bounds", "config", "effects", "schedulers", "process_config"},
    {
        "adapter",
        "architectures",
        "arrays",
        "composing",
        "composition",
        "deltas",
        "families",
        "targets",
        "lowrank",
        "merging",
        "diffusion",
    },
    {"io", "formats", "data", "runtime", "reports"},
    {"models", "captioners", "masks", "training", "modes"},
    {"jobs"},
    {"cli"},
)
ROW_OF = {room: number for number, rooms in enumerate(ROWS) for room in rooms}


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("lorakit.") and name.split(".")[1] in ROW_OF}


def test_every_room_has_a_row():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "__main__"} == set(ROW_OF)


def test_imports_point_one_way():
    wrong = []
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ROW_OF:
            wrong += [
                f"{file.relative_to(ROOT)} imports {other}" for other in imports(file) if ROW_OF[other] > ROW_OF[room]
            ]
    assert wrong == []
