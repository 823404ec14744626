"""Every command line in the README is one the program takes."""

import re
import shlex
from pathlib import Path

from typer.main import get_command

from lorakit.cli import app

README = Path(__file__).parents[2] / "README.md"


def lines() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    commands = [part.strip() for line in "".join(blocks).splitlines() for part in line.split("&&")]
    return [shlex.split(command)[1:] for command in commands if command.startswith("lorakit ")]


def test_every_line_parses():
    group = get_command(app)
    for words in lines():
        command = group.get_command(None, words[0])
        assert command is not None, words
        command.make_context(words[0], words[1:])


def test_every_command_appears():
    assert {words[0] for words in lines()} == set(get_command(app).commands)
