"""Text is UTF-8 with the same line ends on every system: nothing is left to the system's defaults."""

import ast
from pathlib import Path

import pytest

import lorakit

ROOT = Path(lorakit.__file__).parent


def _calls(code: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]


def _mode(call: ast.Call, method: bool) -> str:
    given = {word.arg: word.value for word in call.keywords}
    place = call.args[0 if method else 1 :]
    mode = given.get("mode", place[0] if place else None)
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "" if mode else "r"


def faults(code: str) -> list[str]:
    """Calls that open text without saying in which encoding, or write it without saying with which line ends."""
    found = []
    for call in _calls(code):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(call.func, "value", None)
        owner = owner.id if isinstance(owner, ast.Name) else ""
        given = {word.arg for word in call.keywords}
        if name in ("open", "fdopen"):
            if owner in ("Image", "os", "av", "zipfile", "tarfile", "webbrowser") and name == "open":
                continue
            mode = _mode(call, method=isinstance(call.func, ast.Attribute) and name == "open")
            writes = any(letter in mode for letter in "wax+")
            if not mode or "b" in mode:
                continue
        elif (
            name in ("read_text", "write_text")
            and owner not in ("files", "plain")
            and isinstance(call.func, ast.Attribute)
        ):
            writes = name == "write_text"
        else:
            continue
        if "encoding" not in given or (writes and "newline" not in given and "devnull" not in ast.dump(call)):
            found.append(f"line {call.lineno}: {ast.unparse(call)[:80]}")
    return found


@pytest.mark.parametrize(
    "code",
    ["open(a)", "open(a, 'w', encoding='utf-8')", "p.open('a')", "p.read_text()", "p.write_text(t, encoding='u')"],
)
def test_a_default_of_the_system_is_found(code):
    assert faults(code)


@pytest.mark.parametrize("code", ["open(a, 'rb')", "p.open('xb', buffering=0)", "p.read_text(encoding='utf-8')"])
def test_what_says_all_is_let_be(code):
    assert not faults(code)


def test_no_text_is_left_to_the_system():
    wrong = [
        f"{file.relative_to(ROOT)} {fault}"
        for file in sorted(ROOT.rglob("*.py"))
        for fault in faults(file.read_text(encoding="utf-8"))
    ]
    assert wrong == []
