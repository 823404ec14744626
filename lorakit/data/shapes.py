"""What a picture loses in a training shape: the part cut off, and pixels it could have shown.

Sizes and shapes are arrays [..., 2] of (width, height) that broadcast against each other.
"""

import numpy as np

OVER = 1.1  # a shape has at most this many times the pixels asked for


def kept(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Share [...] of a picture's area that is left when it is cut to the aspect ratio of the shape."""
    ratio = (sizes[..., 0] * shapes[..., 1]) / (sizes[..., 1] * shapes[..., 0])
    return np.minimum(ratio, 1 / ratio)


def enlarged(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """How many times [...] the sides of a picture must grow to cover the shape; 1 where they need not."""
    return np.maximum((shapes / sizes).max(-1), 1.0)


def shortfall(sizes: np.ndarray, shapes: np.ndarray, area: float) -> np.ndarray:
    """Share [...] of the pixels a picture could show (`area`, or all it has) that the shape has no room for."""
    could = np.minimum(area, sizes[..., 0] * sizes[..., 1])
    return np.maximum(0.0, 1 - shapes[..., 0] * shapes[..., 1] / could)


def cut_off(sizes: np.ndarray, shapes: np.ndarray, upscale: bool) -> np.ndarray:
    """What the part cut off counts [...]: x + 10x² of a share x, for it is better that
    ten pictures lose a twentieth each than that one loses half.

    Enlarging, where it is not allowed, counts more than anything else could gain.
    """
    x = 1 - kept(sizes, shapes)
    grow = enlarged(sizes, shapes)
    return x + 10 * x**2 + (0.0 if upscale else np.where(grow > 1, 100 * grow, 0.0))


def offered(sizes: np.ndarray, area: float, multiple: int, upscale: bool, weights: tuple[float, ...]) -> np.ndarray:
    """Shapes [k, 2] worth considering, the most wanted first: each picture's best for each weight of the shortfall.

    sizes   [n, 2]; sides of shapes are multiples of `multiple`, their areas at most OVER * area.
    """
    chosen = []
    for part in np.array_split(sizes, -(-len(sizes) // 1024)):
        ratio = (part[:, 0] / part[:, 1])[:, None]
        heights = np.arange(1, int(np.sqrt(OVER * area / ratio.min()) / multiple) + 2)
        most = OVER * area // (heights * multiple**2)
        low = np.floor(ratio * heights)
        widths = np.maximum(1, np.minimum(np.concatenate([low, low + 1], 1), np.tile(most, 2)))
        shapes = np.stack([widths, np.broadcast_to(np.tile(heights, 2), widths.shape)], -1) * multiple
        over = shapes.prod(-1) > OVER * area
        cut = np.where(over, np.inf, cut_off(part[:, None], shapes, upscale))
        short = shortfall(part[:, None], shapes, area)
        chosen += [shapes[np.arange(len(part)), (cut + weight * short).argmin(1)] for weight in weights]
    found, times = np.unique(np.concatenate(chosen).astype(np.int64), axis=0, return_counts=True)
    return found[np.argsort(-times, kind="stable")]


def covering(loss: np.ndarray, most: int) -> np.ndarray:
    """Indices of `most` columns of `loss` [n, k] whose least, summed over the rows, is small; and for a row that none
    of them suits its own best. Greedy: the column that gains most comes first.
    """
    rows = loss[:: -(-len(loss) // 1024)].astype(np.float32)
    least, chosen = np.minimum(rows.max(1), 2.0), list[int]()
    while len(chosen) < most:
        gain = np.maximum(least[:, None] - rows, 0).sum(0)
        chosen.append(int(gain.argmax()))
        least = np.minimum(least, rows[:, chosen[-1]])
        if gain.max() <= 0:
            break
    bare = loss[:, chosen].min(1) > loss.min(1) + 0.5
    return np.unique([*chosen, *loss[bare].argmin(1)])
