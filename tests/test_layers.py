"""The floors of the house: a room imports from the floors below it alone, no module takes part in a circle, and what begins
with an underscore is imported in its own package alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import lorakit

ROOT = Path(lorakit.__file__).parent
FLOORS = (  # from the ground; rooms of one floor know nothing of one another
    {"architectures", "arrays", "dtypes", "errors", "families", "naming", "schedulers", "talk"},
    {"algebra", "bounds", "effects", "patterns", "process_config", "registry", "runtime", "targets"},
    {"delta", "diffusion", "fields", "io", "spellings"},
    {"adapter", "composition", "config", "deltas"},
    {"data", "lowrank"},
    {"formats", "merging", "reports"},
    {"models"},
    {"captioners", "fusing", "masks", "training"},
    {"drawing", "modes"},
    {"jobs"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def imported(module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of all that a module of lorakit imports from lorakit, in functions and for types too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lorakit":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "lorakit")


def room(module: str) -> str:
    return ([*module.split("."), ""])[1]


def test_every_room_has_a_floor():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "__main__"} == set(FLOOR_OF)


def test_imports_point_down():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other, _ in imported(module)
        if room(module) in FLOOR_OF and room(other) in FLOOR_OF and room(module) != room(other)
        if FLOOR_OF[room(other)] >= FLOOR_OF[room(module)]
    ]
    assert wrong == []


def test_no_module_takes_part_in_a_circle_of_imports():
    rest = {module: {other for other, _ in imported(module)} - {module} for module in MODULES}
    while free := {module for module, others in rest.items() if not others & rest.keys()}:
        rest = {module: others for module, others in rest.items() if module not in free}
    wanted = {other for others in rest.values() for other in others}
    assert {module for module in rest if module in wanted} == set()


def test_what_begins_with_an_underscore_is_imported_in_its_own_package_alone():
    wrong = []
    for module, file in MODULES.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for other, name in imported(module):
            *owner, last = other.split(".")
            if name.startswith("_") and not name.startswith("__"):
                wrong.append(f"{module} imports {name} of {other}")
            if last.startswith("_") and f"{package}.".find(".".join(owner) + ".") != 0:
                wrong.append(f"{module} imports {other}")
    assert [line for line in wrong if not line.startswith("lorakit.__main__")] == []


def test_a_job_is_a_command_and_imports_no_other_but_for_the_tour():
    from lorakit.cli import app

    commands = {str(command.name or "").replace("-", "_") for command in app.registered_commands}
    jobs = {path.stem for path in (ROOT / "jobs").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert jobs <= commands
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other, _ in imported(module)
        if module.startswith("lorakit.jobs.") and other.startswith("lorakit.jobs.")
        if module.split(".")[2] not in ("demo", "compose", other.split(".")[2])
    ]
    assert wrong == []
