"""Two processes over Gloo on this machine do what one does with twice the batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorakit.delta import relative_error
from lorakit.errors import UsageError
from lorakit.formats import files
from lorakit.runtime import sharding
from lorakit.runtime.signals import deferred
from lorakit.runtime.world import World, alone_by_mistake, one_of_several, place, speaks
from tests.conftest import captioned
from tests.support.forks import Child
from tests.tiny import make

pytestmark = [pytest.mark.slow, pytest.mark.posix]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five pictures of two shapes: batches are uneven, and some leave a process with nothing to do."""
    return captioned(tmp_path / "data", "a photo of thing", [(32, 32)] * 3 + [(48, 32)] * 2)


@pytest.fixture
def launch(start: Callable[..., Child]) -> Callable[..., list[Child]]:
    """`train` in so many processes, told of one another as `torchrun` tells them."""

    def launch(count: int, *arguments: object, env: Mapping[str, str] | None = None) -> list[Child]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(env or {})}
        return [
            start("train", *arguments, "--json", env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]

    return launch


def finish(processes: list[Child], status: int = 0) -> list[str]:
    assert [process.wait() for process in processes] == [status] * len(processes), processes[0].stderr
    return [process.stdout for process in processes]


def step_reached(run: Path, step: int) -> None:
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_give_the_losses_of_one_with_twice_the_batch(data, launch, tmp_path):
    options = [data, "--model", make(tmp_path / "base"), "--size", 32, "--steps", 5, "--warmup", 0, "--accumulate", 2]
    said = finish(launch(2, *options, "--batch-size", 1, "-o", "two.safetensors"))
    finish(launch(1, *options, "--batch-size", 2, "-o", "one.safetensors"))
    assert json.loads(said[0])["steps"] == 5 and said[1] == ""  # one of them speaks
    assert losses(tmp_path / "two.run") == pytest.approx(losses(tmp_path / "one.run"), rel=1e-5)
    one, two = (files.read(tmp_path / f"{name}.safetensors").modules for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(relative_error(one[name], two[name]) for name in one) < 1e-3


@pytest.mark.thorough
def test_accelerate_launches_both_kinds_and_one_process_speaks(data, tmp_path):
    """The launcher itself, without a GPU: `--multi_gpu` is its word for several processes."""
    model = make(tmp_path / "base")
    plain = ["--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        plain += ["--main_process_port", free.getsockname()[1]]
    for how, mode, output in (("--multi_gpu", "lora", "x.safetensors"), ("--use_fsdp", "full", "model")):
        options = ["--mode", mode, "--model", model, "--steps", 2, "--batch-size", 1, "-o", output, "--json"]
        line = ["-m", "accelerate.commands.launch", how, *plain, "-m", "lorakit", "train", data, *options]
        done = subprocess.run(
            [sys.executable, *map(str, line)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["steps"] == 2 and (tmp_path / output).exists()
        assert done.stderr.count("plan: 2 steps") == 1 and ("divided among 2 processes" in done.stderr) == (
            mode == "full"
        )


@pytest.mark.thorough
def test_a_signal_to_one_stops_both_at_one_step_and_both_go_on(data, launch, tmp_path):
    options = [data, "--steps", 12, "--batch-size", 1, "--checkpoint-every", 50, "-o", "x.safetensors"]
    both = launch(2, *options)
    step_reached(tmp_path / "x.run", 1)
    both[1].send_signal(signal.SIGTERM)
    finish(both, 143)
    (saved,) = (tmp_path / "x.run/checkpoints").iterdir()
    said = finish(launch(2, *options))
    assert json.loads(said[0])["resumed_from"].endswith(saved.name) and len(losses(tmp_path / "x.run")) == 12


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "FULL_SHARD"}


def steps(run: Path) -> list[list[float]]:
    """Of each step the loss, the gradient's norm, and the error of every sample, which the log has with six digits."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [[row["loss"], row["grad_norm"], *(error for _, _, error in row["samples"])] for row in rows]


def weights(model: Path) -> dict[str, torch.Tensor]:
    files = sorted(model.glob("*/*.safetensors"))
    return {f"{file.parent.name}.{name}": x for file in files for name, x in load_file(file).items()}


def test_a_model_divided_among_two_is_trained_as_in_one_and_goes_on_after_a_kill_to_the_same_bytes(launch, tmp_path):
    """UNet and both text encoders of an SDXL, which rest after two steps; averages, clipping, accumulation, batches
    of two shapes and such that leave a process without pictures: five are trained on, four at a time."""
    data = captioned(tmp_path / "data", "a photo of thing", [(32, 32)] * 3 + [(48, 32)] * 3)
    model = make(tmp_path / "base", "sdxl")
    options = [
        data,
        "--model",
        model,
        "--size",
        32,
        "--mode",
        "full",
        "--text-encoder",
        "--text-steps",
        2,
        "--steps",
        4,
        "--warmup",
        0,
        "--lr",
        1e-3,
        "--lr-text",
        1e-3,
        "--optimizer-args",
        "eps=1e-4",
        "--ema",
        0.9,
        "--max-grad-norm",
        0.5,
        "--accumulate",
        2,
        "--validation-split",
        0.2,
        "--validate-every",
        3,
        "--checkpoint-every",
        2,
    ]
    finish(launch(1, *options, "--batch-size", 2, "-o", "one"))
    said = finish(launch(2, *options, "--batch-size", 1, "-o", "two", env=FSDP))
    assert said[1] == ""
    left, killed = launch(2, *options, "--batch-size", 1, "-o", "cut", env=FSDP)
    step_reached(tmp_path / "cut.run", 3)
    killed.send_signal(signal.SIGKILL)
    assert (left.wait(), killed.wait()) == (1, -9) and "another process of this run has ended" in left.stderr
    finish(launch(2, *options, "--batch-size", 1, "-o", "cut", env=FSDP))
    (tmp_path / "cut").rename(tmp_path / "done")
    (alone,) = launch(1, *options, "--batch-size", 1, "-o", "cut")
    assert alone.wait() == 4 and "the number of processes, each with its batch, is 1, was 2" in alone.stderr
    one, two, cut = (weights(tmp_path / name) for name in ("one", "two", "done"))
    assert steps(tmp_path / "two.run") == [
        pytest.approx(row, rel=1e-5, abs=2e-6) for row in steps(tmp_path / "one.run")
    ]
    assert one.keys() == two.keys() and max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert any((one[name] - x).abs().max() > 1e-4 for name, x in weights(model).items() if "text_encoder" in name)
    assert steps(tmp_path / "cut.run") == steps(tmp_path / "two.run")
    assert all(torch.equal(two[name], cut[name]) for name in two)
    count = json.loads(said[0])["trainable_parameters"]
    assert count == sum(x.numel() for name, x in one.items() if not name.startswith("vae."))


@pytest.mark.parametrize(
    ("options", "env", "words"),
    [
        (["--mode", "lora"], FSDP, "only --mode full"),
        (["--mode", "full", "--optimizer", "adafactor"], FSDP, "choose adamw, lion, schedulefree"),
        (["--mode", "full"], FSDP | {"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, "there are FULL_SHARD"),
        (["--mode", "full"], FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "stays on the device"),
        (
            ["--mode", "full"],
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "x"},
            "zero_stage",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_before_any_work(data, program, monkeypatch, options, env, words):
    for name, value in (env | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    assert words in program("train", data, *options, status=2).stderr


def test_the_launchers_settings_say_how_to_divide():
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    two = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    cases = [({}, None), ({**FSDP, "FSDP_SHARDING_STRATEGY": "3"}, None), (FSDP, True), (two, False)]
    cases += [(zero, True), (zero | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False)]
    for told, regather in cases:
        how = sharding.asked(told)
        assert (None if how is None else how.regather) == regather


def test_a_signal_that_the_launcher_hands_on_is_no_second_one():
    def twice(echo: float) -> int:
        pid = os.fork()
        if pid == 0:
            with deferred(echo) as asked:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGTERM)
                os._exit(asked.number)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert twice(echo=60.0) == signal.SIGTERM  # noted, and going on
    assert twice(echo=0.0) == -signal.SIGTERM  # ended by it


def test_processes_find_their_places_as_torchrun_or_mpi_tells_them(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert (place(), speaks(), one_of_several(), alone_by_mistake()) == (World(), True, False, False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # accelerate launch --cpu --num_processes 2, without mpirun
    assert alone_by_mistake() and World(1, 2, 1).device("auto") == "cpu"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert World().dtype("auto") == "bfloat16" and World().dtype("float32") == "float32"
    for name, value in (("RANK", "5"), ("SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert (place(), speaks(), one_of_several(), alone_by_mistake()) == (World(5, 8, 1), False, True, False)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match="must be whole numbers"):
        place()
