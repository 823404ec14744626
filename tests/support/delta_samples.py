"""Tensors of each kind of delta, as a file holds them, made up at random: what the contracts run over."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sample:
    """kind     as the registry names it
    parts    key ending to array
    base     shape of the weight it is added to
    optional the endings without which it is whole too, or whose absence only shows in the others' shapes
    """

    kind: str
    label: str
    parts: dict[str, np.ndarray]
    base: tuple[int, ...]
    optional: frozenset[str] = field(default=frozenset({"alpha", "rescale"}))

    def __str__(self) -> str:
        return f"{self.kind} {self.label}"


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers that differ with the shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def alpha(value: float) -> np.ndarray:
    return np.array(value, np.float32)


_LORA = {"lora_down.weight": draw(2, 30), "lora_up.weight": draw(40, 2), "alpha": alpha(3)}
_LORA_WIDE = {"lora_down.weight": draw(20, 9), "lora_up.weight": draw(7, 20), "alpha": alpha(3)}
_CONV = {"lora_down.weight": draw(3, 5, 3, 3), "lora_up.weight": draw(8, 3, 1, 1), "alpha": alpha(3)}
_TUCKER = {
    "lora_down.weight": draw(3, 10, 1, 1),
    "lora_mid.weight": draw(3, 3, 3, 2),
    "lora_up.weight": draw(18, 3, 1, 1),
    "alpha": alpha(2),
}


def _loha(rank: int, out: int, width: int) -> dict[str, np.ndarray]:
    return {
        "hada_w1_a": draw(out, rank),
        "hada_w1_b": draw(rank, width),
        "hada_w2_a": draw(out, rank, seed=1),
        "hada_w2_b": draw(rank, width, seed=1),
        "alpha": alpha(2),
    }


_LOHA_TUCKER = {
    "hada_w1_a": draw(2, 9),
    "hada_w1_b": draw(2, 8),
    "hada_t1": draw(2, 2, 3, 2),
    "hada_w2_a": draw(2, 9, seed=1),
    "hada_w2_b": draw(2, 8, seed=1),
    "hada_t2": draw(2, 2, 3, 2, seed=1),
    "alpha": alpha(5),
}
_LOKR_W2 = {"lokr_w1": draw(3, 4), "lokr_w2_a": draw(5, 2), "lokr_w2_b": draw(2, 6), "alpha": alpha(3)}
_GLORA = {
    "a1.weight": draw(12, 2),
    "a2.weight": draw(2, 12),
    "b1.weight": draw(15, 2),
    "b2.weight": draw(2, 12, seed=1),
    "alpha": alpha(3),
}
_OFT = {"oft_blocks": draw(3, 4, 4), "alpha": alpha(0)}
_BOFT = {"oft_blocks": draw(3, 4, 6, 6), "alpha": alpha(0)}

SAMPLES = [
    Sample("low-rank", "matrix", _LORA, (40, 30)),
    Sample("low-rank", "of a rank above both sides", _LORA_WIDE, (7, 9)),
    Sample("low-rank", "convolution", _CONV, (8, 5, 3, 3)),
    Sample("tucker", "convolution", _TUCKER, (18, 10, 3, 2)),
    Sample("loha", "whose norm is by Gram matrices", _loha(2, 40, 30), (40, 30)),
    Sample("loha", "whose norm is by rows", _loha(6, 20, 30), (20, 30)),
    Sample("loha", "flat convolution", _loha(2, 8, 36), (8, 4, 3, 3)),
    Sample("loha", "Tucker", _LOHA_TUCKER, (9, 8, 3, 2)),
    Sample("lokr", "both whole", {"lokr_w1": draw(3, 4), "lokr_w2": draw(5, 2), "alpha": alpha(9)}, (15, 8)),
    Sample("lokr", "both whole, tall", {"lokr_w1": draw(4, 3), "lokr_w2": draw(2, 5), "alpha": alpha(9)}, (8, 15)),
    Sample("lokr", "second decomposed", _LOKR_W2, (15, 24)),
    Sample(
        "lokr",
        "first decomposed",
        {"lokr_w1_a": draw(5, 2), "lokr_w1_b": draw(2, 6), "lokr_w2": draw(3, 4), "alpha": alpha(3)},
        (15, 24),
    ),
    Sample(
        "lokr",
        "both decomposed",
        {
            "lokr_w1_a": draw(5, 3),
            "lokr_w1_b": draw(3, 6),
            "lokr_w2_a": draw(3, 2),
            "lokr_w2_b": draw(2, 4),
            "alpha": alpha(3),
        },
        (15, 24),
    ),
    Sample(
        "lokr",
        "decomposed to a rank above its sides",
        {"lokr_w1": draw(3, 4), "lokr_w2_a": draw(2, 9), "lokr_w2_b": draw(9, 3), "alpha": alpha(3)},
        (6, 12),
    ),
    Sample(
        "lokr",
        "whole convolution",
        {"lokr_w1": draw(2, 3), "lokr_w2": draw(4, 2, 3, 3), "alpha": alpha(9)},
        (8, 6, 3, 3),
    ),
    Sample(
        "lokr",
        "flat convolution",
        {"lokr_w1": draw(2, 3), "lokr_w2_a": draw(4, 2), "lokr_w2_b": draw(2, 18), "alpha": alpha(1)},
        (8, 6, 3, 3),
    ),
    Sample(
        "lokr",
        "Tucker",
        {
            "lokr_w1": draw(2, 3),
            "lokr_w2_a": draw(2, 4),
            "lokr_w2_b": draw(2, 5),
            "lokr_t2": draw(2, 2, 3, 2),
            "alpha": alpha(1),
        },
        (8, 15, 3, 2),
        frozenset({"alpha", "lokr_t2"}),
    ),
    Sample("full", "convolution", {"diff": draw(5, 4, 3, 3)}, (5, 4, 3, 3)),
    Sample("norm", "layer", {"w_norm": draw(7)}, (7,)),
    Sample("ia3", "on the outputs", {"weight": draw(6), "on_input": np.array(0)}, (6, 6)),
    Sample("ia3", "on a convolution's inputs", {"weight": draw(1, 4, 1, 1), "on_input": np.array(True)}, (4, 4, 3, 3)),
    Sample("glora", "matrix", _GLORA, (15, 12)),
    Sample(
        "glora",
        "matrix, the old order",
        {
            "a1.weight": draw(2, 12),
            "a2.weight": draw(12, 2),
            "b1.weight": draw(2, 12, seed=1),
            "b2.weight": draw(15, 2),
            "alpha": alpha(3),
        },
        (15, 12),
    ),
    Sample(
        "glora",
        "convolution",
        {
            "a1.weight": draw(5, 2, 1, 1),
            "a2.weight": draw(2, 5, 1, 1),
            "b1.weight": draw(40, 2, 1, 1),
            "b2.weight": draw(2, 5, 3, 3),
            "alpha": alpha(3),
        },
        (40, 5, 3, 3),
    ),
    Sample(
        "glora",
        "Tucker",
        {
            "a1.weight": draw(5, 2, 1, 1),
            "a2.weight": draw(2, 5, 1, 1),
            "b1.weight": draw(7, 2, 1, 1),
            "b2.weight": draw(2, 5, 1, 1),
            "bm.weight": draw(2, 2, 3, 3),
            "alpha": alpha(3),
        },
        (7, 5, 3, 3),
        frozenset({"alpha", "bm.weight"}),
    ),
    Sample("oft", "matrix", _OFT, (12, 5)),
    Sample(
        "oft",
        "rescaled convolution with a constraint",
        {**_OFT, "rescale": draw(12, 1, 1, 1), "alpha": alpha(0.25)},
        (12, 2, 3, 3),
    ),
    Sample("boft", "matrix", _BOFT, (24, 5)),
    Sample(
        "boft",
        "rescaled convolution with a constraint",
        {**_BOFT, "rescale": draw(24, 1, 1, 1), "alpha": alpha(0.25)},
        (24, 2, 3, 3),
    ),
    Sample("turned", "matrix", {"oft_R": draw(3, 4, 4)}, (5, 12)),
    Sample("turned", "one block for all of a convolution", {"oft_R": draw(1, 6, 6)}, (5, 6, 3, 1)),
    Sample("dora", "of LoRA, outputs", {**_LORA, "dora_scale": draw(40, 1)}, (40, 30)),
    Sample("dora", "of LoRA, outputs, as PEFT has it", {**_LORA, "dora_scale": draw(40)}, (40, 30)),
    Sample("dora", "of LoRA, inputs", {**_LORA, "dora_scale": draw(1, 30)}, (40, 30)),
    Sample("dora", "of a convolution, inputs", {**_CONV, "dora_scale": draw(1, 5, 1, 1)}, (8, 5, 3, 3)),
    Sample(
        "dora",
        "of Tucker, outputs",
        {**_TUCKER, "dora_scale": draw(18, 1, 1, 1)},
        (18, 10, 3, 2),
        frozenset({"alpha", "lora_mid.weight"}),
    ),
    Sample(
        "dora",
        "of LoHa, a flat convolution's inputs",
        {**_loha(2, 8, 36), "dora_scale": draw(1, 4, 1, 1)},
        (8, 4, 3, 3),
    ),
    Sample("dora", "of LoKr, outputs", {**_LOKR_W2, "dora_scale": draw(15, 1)}, (15, 24)),
]
