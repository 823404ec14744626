"""A model divided among two processes: what each holds, and that nothing else is different."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lorakit.runtime.sharding import Sharding
from lorakit.runtime.world import joined
from lorakit.training.gradients import Scaler, clip
from lorakit.training.shards import Shards


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return x + self.two(torch.tanh(self.one(x)))


class Model(nn.Module):
    """66,560 numbers in eight blocks, and 195 in a layer of three rows, which two processes cannot halve."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(*[Block() for _ in range(8)])
        self.last = nn.Linear(64, 3)

    def forward(self, x):
        return self.last(self.blocks(x))


def held() -> int:
    """Bytes of all tensors of this process."""
    gc.collect()
    storages = [x.untyped_storage() for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def losses(model: nn.Module, share: slice) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 64, generator=draw), torch.randn(8, 3, generator=draw)
    return (model(x[share]) - y[share]).square().sum()


def alone() -> tuple[float, dict[str, torch.Tensor]]:
    """The norm of the gradient, and the weights after a step with all samples, its gradient cut to a length of 1."""
    model = Model()
    losses(model, slice(None)).backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4, fused=True)
    norm = clip([p.grad for p in model.parameters()], 1.0)
    optimizer.step()
    return float(norm), {f"model.{name}": p.detach() for name, p in model.named_parameters()}


def together() -> dict[str, object]:
    """What one of two processes finds."""
    found: dict[str, object] = {}
    with joined(torch.device("cpu")) as world:
        model = Model()
        shards = Shards({"model": model}, Sharding("", regather=False), world, torch.device("cpu"))
        found["units"] = shards.units
        found["parameters"] = held() / 4
        with shards.descending():
            for i in (0, 2):  # in two micro-steps
                losses(model, slice(4 * world.rank + i, 4 * world.rank + i + 2)).backward()
        pieces = [*shards.parameters.values()]
        gradients = shards.gradients(pieces)
        found["gathered"] = held() / 4  # nothing is left gathered, though it was kept between forward and backward
        found["norm"] = float(clip(gradients, 1.0, shards.total))
        for p, gradient in zip(pieces, gradients, strict=True):
            p.grad = gradient
        optimizer = torch.optim.AdamW(pieces, lr=0.01, eps=1e-4, fused=True)
        optimizer.step()
        optimizer.zero_grad()
        del gradients, gradient
        found["state"] = held() / 4
        with torch.no_grad():
            model(torch.ones(1, 64))
        found["after looking"] = held() / 4
        whole = shards.whole()
        if world.main:
            _, wanted = alone()
            found["error"] = max(float((whole[name] - x).abs().max()) for name, x in wanted.items())
            found["names"] = whole.keys() == wanted.keys()
        again = {f"parameter/{name}": x for name, x in Model().named_parameters(prefix="model")}
        found["shapes"] = all(
            shards.piece(f"parameter/{name}", again[f"parameter/{name}"]).shape == p.shape
            for name, p in shards.parameters.items()
        )
        # One who cannot write lets the others go on.
        try:
            shards.lend({f"parameter/{name}": p.detach() for name, p in shards.parameters.items()}, _fails)
        except OSError:
            found["failed"] = True
        # A gradient that overflows in one process alone is no gradient in any.
        wrong = torch.tensor([float("inf") if world.rank else 1.0])
        found["overflows"] = not Scaler().unscale([wrong], shards.total)
    return found


def _fails(tensors):
    tensors["parameter/model.last.weight"].raw()
    raise OSError("full")


def test_two_processes_hold_half_each_and_step_as_one_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    code = "import json, os; from tests.training.test_shards import together; print(json.dumps(together()), flush=True); os._exit(0)"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in said)
    norm, _ = alone()
    assert first["norm"] == second["norm"] == pytest.approx(norm, rel=1e-5) and norm > 1
    assert first["error"] < 1e-5 and first["names"] and first["failed"]
    for found in (first, second):
        assert found["units"] == 9 and found["shapes"] and found["overflows"]
        # Half of the blocks, and two rows of three for the last layer: 33,280 + 130 numbers, thrice with the moments.
        assert found["parameters"] == pytest.approx(33_410, abs=100)
        # Gloo's own thread may hold on to one block's 8,320 for a moment; all eight would be twice what is held.
        assert -600 < found["gathered"] - 2 * 33_410 < 9_000
        assert -600 < found["state"] - 3 * 33_410 < 9_000
        assert -600 < found["after looking"] - 3 * 33_410 < 9_000
