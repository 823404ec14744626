"""Tensors of single modules by kind, as files hold them."""

import numpy as np

FLAT = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
_DRAW = np.random.default_rng(7)


def _random(*shape: int) -> np.ndarray:
    return _DRAW.standard_normal(shape).astype("f4")


PLAIN = {"lora_down.weight": _random(2, 640), "lora_up.weight": _random(640, 2), "alpha": np.float32(2)}
LOHA = {
    "hada_w1_a": _random(640, 2),
    "hada_w1_b": _random(2, 640),
    "hada_w2_a": _random(640, 2),
    "hada_w2_b": _random(2, 640),
    "alpha": np.float32(1),
}
DORA = {
    "lora_down.weight": _random(2, 32),
    "lora_up.weight": _random(32, 2) * 0.1,
    "alpha": np.float32(1),
    "dora_scale": abs(_random(32, 1)) + 0.5,
}


def stems(parts: dict[str, np.ndarray], stem: str) -> dict[str, np.ndarray]:
    return {f"{stem}.{ending}": np.asarray(x) for ending, x in parts.items()}
