"""A setting means the same wherever it stands, and one that means nothing is an error; over every option of every command."""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from lorakit.cli import app, settings
from lorakit.errors import UsageError

GROUP = get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands  # type: ignore[attr-defined]
# Values of another type than an option's, as TOML spells them.
WRONG = {
    "int": ["8.5", "8.0", '"8"', "true", "[8]", "{ a = 1 }", "1979-05-27", "07:32:00", "99999999999999999999", "inf"],
    "float": ['"0.5"', "false", "[0.5]", "{ a = 1 }", "1979-05-27T07:32:00Z", "nan", "inf", "-inf"],
    "boolean": ["0", "1", "2", "1.0", '"yes"', '"true"', "[true]", "{ a = 1 }", "1979-05-27"],
    "str": ["5.5", "true", '["x"]', "{ a = 1 }", "1979-05-27", "07:32:00"],
    "list": ['"x"', "5", "true", "[5]", '["x", 5]', '[["x"]]', "[true]", "{ a = 1 }", "[1979-05-27]"],
}
WRONG_TEXT = {
    "int": ["8.5", "x", "true", "99999999999999999999", "inf"],
    "float": ["x", "false", "nan", "inf", "0,5"],
    "boolean": ["maybe", "2", "-1", "t", "y", "truee"],
    "str": [],
    "list": [],
}


def kind(parameter: Any) -> str:
    many = parameter.multiple or parameter.nargs == -1
    return "list" if many else parameter.type.name.removesuffix(" range")


def every(wanted: Callable[[Any], bool] = lambda parameter: True) -> Iterator[Any]:
    """Each key of each command, as a case."""
    for name, command in COMMANDS.items():
        for key, parameter in settings.keys_of(command.params).items():
            if wanted(parameter):
                yield pytest.param(name, key, parameter, id=f"{name}-{key}")


def is_option(parameter: Any) -> bool:
    return parameter.param_type_name == "option"


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `COMMAND --print-config` prints in an empty folder; the group of commands is made once."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: object) -> str:
        needed = ["x" for p in COMMANDS[command].params if p.required]
        GROUP.main([command, *needed, *map(str, arguments), "--print-config"], "lorakit", standalone_mode=False)
        return capsys.readouterr().out

    return run


def fault(printed: Callable[..., str], *arguments: object) -> str:
    """What is said of a wrong setting."""
    with pytest.raises((UsageError, typer.TyperException)) as raised:
        printed(*arguments)
    error = raised.value
    return error.format_message() if isinstance(error, typer.TyperException) else str(error)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_printed_configuration_of_every_command_prints_itself(command, printed, tmp_path):
    first = printed(command)
    (tmp_path / "again.toml").write_text(first)
    assert printed(command, "--config", "again.toml") == first and first.startswith(f"[{command}]")


def test_a_printed_text_is_read_as_it_was(printed, tmp_path):
    prefix = 'é "a" \\n \x7f \x1b [x] # = 猫'
    first = printed("train", "--caption-prefix", prefix)
    (tmp_path / "again.toml").write_text(first, encoding="utf-8")
    assert tomllib.loads(first)["train"]["caption-prefix"] == prefix
    assert printed("train", "--config", "again.toml") == first


def _right(parameter: Any) -> tuple[str, str]:
    """A value that is not the default, as TOML spells it and as text."""
    low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
    match kind(parameter):
        case "boolean":
            value = str(not parameter.default).lower()
            return value, value
        case "int" | "float":
            value = str((low or 0) + 7 if high is None else high)
            return value, value
        case "str":
            return '"it"', "it"
    return '["it"]', "it"


# What `train` takes as text is checked with its other options, as the tests of its config do.
@pytest.mark.parametrize(
    ("command", "key", "parameter"),
    [c for c in every(is_option) if c.values[0] != "train" or kind(c.values[2]) in ("int", "boolean")],
)
def test_a_right_value_is_the_same_from_everywhere(command, key, parameter, printed, tmp_path, monkeypatch):
    value, text = _right(parameter)
    rest = ["--min-snr", "0"] if command == "train" else []
    (tmp_path / "c.toml").write_text(f"[{command}]\n{key} = {value}\n")
    config = printed(command, *rest, "--config", "c.toml")
    assert tomllib.loads(config)[command][key] == tomllib.loads(f"x = {value}")["x"]
    assert printed(command, *rest, "--set", f"{key}={text}") == config
    monkeypatch.setenv(settings.environment_name(command, key), text)
    assert printed(command, *rest) == config


@pytest.mark.parametrize("command", COMMANDS)
def test_every_value_of_another_type_is_told_with_file_line_key_and_what_stands_there(command, printed, tmp_path):
    keys = settings.keys_of(COMMANDS[command].params)
    for turn in range(max(map(len, WRONG.values()))):
        values = [(key, WRONG[kind(p)][turn % len(WRONG[kind(p)])]) for key, p in keys.items()]
        body = "".join(f"{key} = {value}\n" for key, value in values)
        (tmp_path / "c.toml").write_text(f"top = 1\n[{command}]\n{body}wrnog = 1\n[trian]\n")
        told = fault(printed, command, "--config", "c.toml")
        for line, (key, value) in enumerate(values, 3):
            assert re.search(rf"c\.toml, line {line}: {key}: (item \d: )?expected ", told), (key, value)
        assert "line 1: 'top' stands outside of a table" in told and "no option 'wrnog'" in told and "[trian]" in told
        assert len(told.splitlines()) <= 4


def test_a_whole_number_is_text_where_the_option_takes_one_among_words(printed, tmp_path):
    (tmp_path / "c.toml").write_text("[sample]\nsize = 512\n")
    assert 'size = "512"' in printed("sample", "--config", "c.toml")
    (tmp_path / "c.toml").write_text("[sample]\nnegative = 512\n")
    assert "negative: expected text, got 512" in fault(printed, "sample", "--config", "c.toml")
    (tmp_path / "c.toml").write_text("[sample]\nguidance = 7\n")
    assert "guidance = 7.0" in printed("sample", "--config", "c.toml")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_text_of_another_type_is_told_wherever_it_stands(command, printed, monkeypatch):
    keys = {key: p for key, p in settings.keys_of(COMMANDS[command].params).items() if WRONG_TEXT[kind(p)]}
    for turn in range(max(map(len, WRONG_TEXT.values()))):
        texts = {key: WRONG_TEXT[kind(p)][turn % len(WRONG_TEXT[kind(p)])] for key, p in keys.items()}
        with monkeypatch.context() as environment:
            for key, text in texts.items():
                environment.setenv(settings.environment_name(command, key), text)
            told = fault(printed, command)
        assert not [key for key in texts if f"{settings.environment_name(command, key)}: expected " not in told]
        for key, text in [*texts.items()][turn::5]:
            assert re.search(rf"--(set )?{key}\b", fault(printed, command, "--set", f"{key}={text}"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_misspelt_key_is_told_with_the_nearest(command, printed, tmp_path, monkeypatch):
    keys = [*settings.keys_of(COMMANDS[command].params)]
    (tmp_path / "c.toml").write_text(f"[{command}]\n" + "".join(f'"{key}x" = 1\n' for key in keys))
    told = fault(printed, command, "--config", "c.toml")
    for line, key in enumerate(keys, 2):
        assert f"c.toml, line {line}: no option '{key}x' in {command}; did you mean '{key}'?" in told
    assert f"--set {keys[-1]}x=1: no option '{keys[-1]}x'" in fault(printed, command, "--set", f"{keys[-1]}x=1")
    variables = [settings.environment_name(command, key) for key in keys]
    for variable in variables:
        monkeypatch.setenv(f"{variable}X", "1")
    told = fault(printed, "convert")
    assert not [v for v in variables if f"{v}X sets no option; did you mean '{v}'?" not in told]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_command_is_told_in_files_and_variables(command, printed, tmp_path, monkeypatch):
    swapped = [command[:i] + command[i + 1] + command[i] + command[i + 2 :] for i in (0, 1, len(command) - 2)]
    for wrong in {f"{command}s", *swapped} - {command}:
        (tmp_path / "c.toml").write_text(f"[{wrong}]\nx = 1\n")
        told = fault(printed, "convert", "--config", "c.toml")
        assert told == f"c.toml, line 1: no command has the table [{wrong}]; did you mean '{command}'?"
        variable = settings.environment_name(wrong, "seed" if command != "convert" else "base")
        monkeypatch.setenv(variable, "1")
        assert f"{variable} sets no option" in fault(printed, "convert")
        monkeypatch.delenv(variable)


def test_tables_of_other_commands_are_checked_as_well(printed, tmp_path):
    (tmp_path / "c.toml").write_text("[merge]\nseed = 1.5\n[train]\nrank = 4\n")
    assert "line 2: seed: expected a whole number, got 1.5" in fault(printed, "train", "--config", "c.toml")
    (tmp_path / "c.toml").write_text("merge = 5\n[[train]]\nrank = 4\n")
    told = fault(printed, "train", "--config", "c.toml")
    assert "line 1: 'merge' must be a table" in told and "line 2: 'train' must be a table" in told


def test_a_key_outside_of_a_table_is_told_where_it_belongs(printed, tmp_path):
    (tmp_path / "c.toml").write_text("rank = 4\nrnak = 4\n")
    told = fault(printed, "train", "--config", "c.toml").splitlines()
    assert told[0] == "c.toml, line 1: 'rank' stands outside of a table; write it below [train]"
    assert told[1] == "c.toml, line 2: 'rnak' stands outside of a table; did you mean 'rank'?"


@pytest.mark.parametrize("key", ["config", "set", "print-config", "dry-run", "debug"])
def test_what_belongs_to_one_call_is_no_setting(key, printed, tmp_path):
    (tmp_path / "c.toml").write_text(f"[train]\n{key} = true\n")
    assert f"--{key} is said on the command line alone" in fault(printed, "train", "--config", "c.toml")


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("no", False),
        ("Off", False),
        ("", False),
    ],
)
def test_a_flag_is_a_word_in_the_environment_and_an_empty_variable_sets_nothing(text, on, printed, monkeypatch):
    monkeypatch.setenv("LORAKIT_TRAIN_FLIP", text)
    monkeypatch.setenv("LORAKIT_TRAIN_RANK", "")
    assert f"flip = {str(on).lower()}" in (config := printed("train")) and "rank = 8" in config
    assert text == "" or f"flip = {str(on).lower()}" in printed("train", "--set", f"flip={text}")


def test_a_flag_that_is_set_to_false_is_false_whatever_a_file_says(printed, tmp_path):
    (tmp_path / "c.toml").write_text("[sample]\ngif = true\n")
    assert "gif = false" in printed("sample", "--config", "c.toml", "--set", "gif=false")
    assert "gif = true" in printed("sample", "--set", "gif=false", "--set", "gif=true")
    assert "contradict" in fault(printed, "sample", "--gif", "--set", "gif=false")


def test_variables_that_are_like_no_command_are_left_alone(printed, monkeypatch):
    before = printed("train")
    for name in ("DEBUG", "FUZZ_SECONDS", "HOME", "TRACE", "EXAMPLES_DIR", "BENCH_OUT"):
        monkeypatch.setenv(f"LORAKIT_{name}", "1")
    assert printed("train") == before


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_settings(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lorakit.toml").write_text("[trian]\n")
    monkeypatch.setenv("LORAKIT_TRAIN_STEP", "1")
    GROUP.main([command, "--help"], "lorakit", standalone_mode=False)
    assert command in capsys.readouterr().out


def test_a_refused_option_tells_the_file_or_the_variable_that_set_it(printed, tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text("[train]\nlr-text = 0\n")
    monkeypatch.setenv("LORAKIT_TRAIN_RANK", "0")
    told = fault(printed, "train", "--config", "c.toml")
    assert told.endswith("(set by LORAKIT_TRAIN_RANK; c.toml, line 2: lr-text)")
    assert "set by" not in fault(printed, "train", "--rank", "0", "--lr-text", "0", "--config", "c.toml")


def test_a_file_that_was_found_is_named_with_what_it_sets(program, dataset, tmp_path):
    (tmp_path / "lorakit.toml").write_text('[train]\noutput = "x.safetensors"\nquiet = true\n')
    said = "settings taken from ./lorakit.toml: output, quiet"
    assert said in program("train", "--print-config").stderr
    assert said not in program("train", "--print-config", "-q").stderr
    assert said not in program("train", "--print-config", "--config", "lorakit.toml").stderr
    assert "lorakit.toml" not in program("merge", "a", "b", "--print-config").stderr


def test_a_file_that_was_found_may_not_force(program, dataset, tmp_path):
    (tmp_path / "mine.safetensors").write_text("mine")
    (tmp_path / "lorakit.toml").write_text('[train]\noutput = "mine.safetensors"\nforce = true\n')
    done = program("train", dataset, status=2)
    assert "lorakit.toml, line 3: " in done.stderr and "--force" in done.stderr
    program("merge", "a", "b", "--print-config", status=2)
    assert "force = true" in program("train", dataset, "--config", "lorakit.toml", "--print-config").stdout
    (tmp_path / "lorakit.toml").write_text('[train]\noutput = "mine.safetensors"\nforce = false\n')
    program("train", dataset, status=4)
    assert (tmp_path / "mine.safetensors").read_text() == "mine"


def test_a_file_with_a_byte_order_mark_is_read_and_utf_16_is_refused(program, tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nrank = 4\r\n")
    assert "rank = 4" in program("train", "--config", "c.toml", "--print-config").stdout
    (tmp_path / "c.toml").write_text("[train]\nrank = 4\n", encoding="utf-16")
    done = program("train", "--config", "c.toml", "--print-config", status=2)
    assert "c.toml is UTF-16 text; save it as UTF-8" in done.stderr


def test_a_variable_without_a_command_is_noted(program, monkeypatch):
    monkeypatch.setenv("LORAKIT_STEPS", "12")
    assert "LORAKIT_STEPS sets nothing; LORAKIT_TRAIN_STEPS does" in program("train", "--print-config").stderr
    assert "LORAKIT_STEPS" not in program("inspect", "x", "--print-config").stderr


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_a_number_on_the_command_line_is_finite(number, printed):
    assert "--lr: expected a finite number" in fault(printed, "train", f"--lr={number}")
    assert "--rank: expected a number below 2^63" in fault(printed, "train", f"--rank={2**63}")


def test_all_faults_of_set_are_told_at_once(printed):
    told = fault(printed, "train", "--set", "rnak=4", "--set=flip=maybe", "--set", "rank")
    assert told.splitlines() == [
        "--set rnak=4: no option 'rnak' in train; did you mean 'rank'?",
        '--set flip=maybe: expected true or false, got "maybe"',
        "--set rank: expected KEY=VALUE",
    ]
