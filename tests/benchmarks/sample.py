"""What adapters cost a denoising step, side by side with diffusers + PEFT; their memory; and how long `sample` starts.

python -m tests.benchmarks.sample [tiny|sd1|memory|start|dtype]

`tiny`, `sd1`: CPU seconds on one thread of three rank-32 adapters on the attention whose weights change at every step, and
of one constant one, against no adapter. `sd1` is a UNet of Stable Diffusion 1.5's shapes with random weights, at 256 px,
batch 1. Steps of the three alternate; the median of a round's ratios is printed, and their spread.
`memory`: peak resident memory of steps of that UNet, each variant in a process of its own, as what is over no adapter.
`start`: CPU and wall seconds from the start of `lorakit sample` with an adapter to its first step, against a process that
loads the same components with diffusers and transformers and does no more.
`dtype`: seconds of a step of two pictures in bfloat16 against float32, of the built-in model and an SD1 of half the channels.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.models.conditioning import Conditioning
from lorakit.models.gated import Stack
from lorakit.models.load import load
from lorakit.models.places import folder_of
from lorakit.models.predict import predict
from tests.support.adapters_of_tiny import lora
from tests.tiny import reduced

RANK = 32


def make_unet(kind: str) -> tuple[UNet2DConditionModel, int, int]:
    """(UNet, latent side, width of the text states)."""
    if kind == "tiny":
        return UNet2DConditionModel.from_pretrained(folder_of("tiny") / "unet").eval().requires_grad_(False), 16, 192
    torch.manual_seed(0)
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False), 32, 768


def random_adapter(unet: UNet2DConditionModel, seed: int) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    modules = {}
    for name, module in unet.named_modules():
        if ".attn" in name and isinstance(module, torch.nn.Linear):
            out, width = module.weight.shape
            down, up = torch.randn(RANK, width, generator=draw), torch.randn(out, RANK, generator=draw) * 0.01
            modules[f"unet.{name}"] = LowRank(down, up, float(RANK))
    return Adapter(modules=modules)


Before = Callable[[int], AbstractContextManager]


def ratios(
    unet: Any, x: torch.Tensor, states: torch.Tensor, steps: int, rounds: int, kinds: tuple[Before, Before, Before]
) -> list[tuple[float, ...]]:
    """(CPU seconds a step without, three that change and one constant in parts of it) of each round, after one that is
    thrown away. before(i) of each kind sets the weights of step i, and counts."""
    rows = []
    for _ in range(rounds + 1):
        spent = [0.0] * len(kinds)
        for i in range(steps):
            for k, before in enumerate(kinds):
                started = time.process_time()
                with torch.inference_mode(), before(i):
                    unet(x, 500, states)
                spent[k] += time.process_time() - started
        rows.append((spent[0] / steps, spent[1] / spent[0], spent[2] / spent[0]))
    return rows[1:]


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    if kind == "memory":
        memory(sys.argv[2:])
    elif kind == "start":
        start()
    elif kind == "dtype":
        dtypes()
    else:
        speed(kind)


def memory(which: list[str]) -> None:
    """What steps with adapters need over steps without, beside what the adapters and one copy of what they adapt take."""
    if which:
        print(*_peak(which[0]))
        return
    found = {}
    for one in ("none", "three", "one"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.sample", "memory", one],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back
        )
        found[one] = [int(x) for x in done.stdout.split()[-3:]]
    for one, name in (("three", "three that change"), ("one", "one constant")):
        peak, adapters, copy = found[one]
        over, bound = peak - found["none"][0], adapters + copy
        print(
            f"sd1 memory, {name}: {found['none'][0] / 2**20:.0f} MiB without, {over / 2**20:.0f} MiB more; the adapters "
            f"take {adapters / 2**20:.0f} MiB, a composed copy {copy / 2**20:.0f}: {over / bound:.2f} of both"
        )


def _peak(which: str) -> tuple[int, int, int]:
    """Bytes: the peak of the process over steps, of the adapters on the stack, and of the weights that they adapt."""
    torch.set_num_threads(1)
    unet, side, width = make_unet("sd1")
    x, states = torch.randn(1, 4, side, side), torch.randn(1, 77, width)
    count = {"none": 0, "three": 3, "one": 1}[which]
    stack = Stack({"unet": unet})
    for i, adapter in enumerate([random_adapter(unet, seed) for seed in range(count)]):
        stack.add(i, adapter, lambda name: 1.0, "random")
    stack.ready()
    adapter = None  # as in a session, whose files are closed again
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for step in range(4):
        weights = [0.3 + 0.1 * (step if which == "three" else 0)] * count
        with torch.inference_mode(), stack.gates.at(weights, 1 if which == "three" else 30):
            unet(x, 500, states)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    held = sum(t.numel() * t.element_size() for m in stack.modules.values() for t in (m.up, m.down) if t is not None)
    return peak * 1024, held, stack.copy_bytes


def dtypes(rounds: int = 7) -> None:
    """Steps in either number format in turn, and the median of the ratios."""
    torch.set_num_threads(1)
    kinds = (torch.float32, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tiny", str(reduced(Path(folder) / "sd1"))):
            components = [load(name, torch.device("cpu"), kind) for kind in kinds]
            side, width = components[0].size // components[0].vae_factor, components[0].unet.config.cross_attention_dim
            x, told = torch.randn(2, 4, side, side), Conditioning(torch.randn(2, 77, width))
            spent = []
            for _ in range(rounds + 1):
                row = []
                for one in components:
                    started = time.perf_counter()
                    with torch.inference_mode():
                        predict(one, x, torch.tensor(500), told)
                    row.append(time.perf_counter() - started)
                spent.append(row)
            whole, half = (statistics.median(column) for column in zip(*spent[1:], strict=True))
            ratio = statistics.median(row[0] / row[1] for row in spent[1:])
            print(
                f"{Path(name).name}: {whole:.3f} s a step in float32, {half:.3f} in bfloat16, {ratio:.2f} times as fast",
                flush=True,
            )


_LOAD = """
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
import torch
for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)):
    kind.from_pretrained(FOLDER + "/" + part, torch_dtype=torch.float32)
CLIPTokenizer.from_pretrained(FOLDER + "/tokenizer")
DPMSolverMultistepScheduler.from_pretrained(FOLDER + "/scheduler")
"""
_FIRST = """
import os, sys
import lorakit.models.predict
lorakit.models.predict.predict = lambda *args: os._exit(0)
sys.argv = ["lorakit", "sample", "a cat", "-q", "--lora", LORA, "-o", LORA + ".png"]
from lorakit.cli import main
main()
"""


def start(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.safetensors"
        lora(file, 1)
        rows = []
        for _ in range(rounds + 1):
            alone = _spent(_LOAD.replace("FOLDER", repr(str(folder_of("tiny")))))
            first = _spent(_FIRST.replace("LORA", repr(str(file))))
            rows.append((*alone, first[0] / alone[0], first[1] / alone[1]))
    cpu, wall, cpu_ratio, wall_ratio = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    spread = [row[2] for row in rows[1:]]
    print(
        f"start: the components alone {cpu:.2f} CPU s ({wall:.2f} s); to the first step of sample {cpu_ratio:.3f} of it in "
        f"CPU s ({min(spread):.3f} to {max(spread):.3f}), {wall_ratio:.3f} in wall; {rounds} rounds"
    )


def _spent(code: str) -> tuple[float, float]:
    """CPU and wall seconds of a Python of its own."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - started


def speed(kind: str) -> None:
    torch.set_num_threads(1)
    unet, side, width = make_unet(kind)
    batch, tokens, steps, rounds = (1, 77, 2, 5) if kind == "sd1" else (4, 32, 6, 9)
    x, states = torch.randn(batch, 4, side, side), torch.randn(batch, tokens, width)
    changing = [tuple(0.2 + 0.1 * ((i + k) % steps) for k in range(3)) for i in range(steps)]

    stack, adapters = Stack({"unet": unet}), [random_adapter(unet, seed) for seed in range(3)]
    for i, adapter in enumerate(adapters):
        stack.add(i, adapter, lambda name: 1.0, "random")
    stack.ready()
    gates = stack.gates
    ours = ratios(
        unet,
        x,
        states,
        steps,
        rounds,
        (lambda i: gates.at((0.0,) * 3), lambda i: gates.at(changing[i]), lambda i: gates.at((1.0, 0.0, 0.0), 30)),
    )
    stack.remove()

    names = ["a0", "a1", "a2"]
    for name in names:
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False)
        unet.add_adapter(config, name)

    def none(step: int) -> AbstractContextManager:
        unet.disable_adapters()
        return nullcontext()

    def three(step: int) -> AbstractContextManager:
        unet.enable_adapters()
        unet.set_adapters(names, list(changing[step]))
        return nullcontext()

    def one(step: int) -> AbstractContextManager:
        unet.enable_adapters()
        unet.set_adapters(["a0"], [1.0])
        return nullcontext()

    peft = ratios(unet, x, states, steps, rounds, (none, three, one))
    for who, found in (("lorakit", ours), ("diffusers + PEFT", peft)):
        columns = list(zip(*found, strict=True))
        base, many, constant = (statistics.median(column) for column in columns)
        spread = [f"{min(column):.3f} to {max(column):.3f}" for column in columns[1:]]
        print(
            f"{kind}, {who}: {base:.3f} CPU s a step without; three that change {many:.3f} ({spread[0]}), one constant "
            f"{constant:.3f} ({spread[1]}); {rounds} rounds of {steps} steps"
        )


if __name__ == "__main__":
    main()
