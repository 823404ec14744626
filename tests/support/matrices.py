"""Deltas whose singular values are known."""

import numpy as np


def with_values(out: int, into: int, values, seed: int = 0) -> np.ndarray:
    """[out, into] with these singular values, float32."""
    draw = np.random.default_rng(seed)
    k = len(values)
    u = np.linalg.qr(draw.standard_normal((out, k)))[0]
    v = np.linalg.qr(draw.standard_normal((into, k)))[0]
    return ((u * np.asarray(values, "f8")) @ v.T).astype("f4")


def optimum(delta, rank: int) -> float:
    """The squared norm that the best matrix of this rank holds, by a full decomposition in float64."""
    return float((np.linalg.svd(np.asarray(delta, "f8"), compute_uv=False)[:rank] ** 2).sum())


def fine_tuned(out: int, into: int, seed: int = 0) -> np.ndarray:
    """64 falling directions and a tenth of the energy in noise, as the research's figures are of."""
    draw = np.random.default_rng(seed)
    up = draw.standard_normal((out, 64), "f4") * (np.arange(1, 65) ** -0.7).astype("f4")
    delta = up @ draw.standard_normal((64, into), "f4")
    noise = draw.standard_normal((out, into), "f4")
    return delta + noise * np.float32(np.linalg.norm(delta) / np.linalg.norm(noise) / 3)
