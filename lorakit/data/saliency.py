"""What stands out in a picture, without a model: colours that its edges do not have, and detail."""

import numpy as np
from PIL import Image

SIDE = 96  # the longer side of the map


def salience(image: Image.Image) -> np.ndarray:
    """Where one would look: float32 [h, w] of sum 1, its longer side 96.

    Colours are measured against the picture's border, which mostly shows background (boundary prior: Wei et al.,
    2012): the distance from the border's colours, scaled by their spread (Zhang et al., 2015), times how detailed the
    place is, times a faint pull to the middle that decides where nothing stands out.
    """
    small = image.copy() if max(image.size) <= SIDE else image.resize(_fit(image.size), Image.Resampling.BOX)
    colour = _opponent(np.asarray(small, dtype=np.float32))
    edge = max(1, min(colour.shape[:2]) // 16)
    sides = (colour[:edge], colour[-edge:], colour[:, :edge], colour[:, -edge:])
    far = []
    for side in sides:
        colours = side.reshape(-1, 3)
        spread = np.cov(colours.T) + 30 * np.eye(3)  # a plain border is no reason to see every grain
        delta = colour - colours.mean(0)
        far.append(np.sqrt(np.einsum("hwi,ij,hwj->hw", delta, np.linalg.inv(spread), delta)))
    # The side most like the place is where its colour would come from; the second guards against a subject that
    # touches one side.
    distance = np.sort(np.stack(far), 0)[:2].mean(0)
    grey = colour[..., 0]
    detail = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1])) + np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    detail = _blur(detail, 3)
    h, w = grey.shape
    y, x = np.mgrid[:h, :w]
    pull = np.exp(-(((x + 0.5) / w - 0.5) ** 2 + ((y + 0.5) / h - 0.5) ** 2) / (2 * 0.3**2))
    map_ = _blur(distance / (distance.mean() + 1e-6), 2) ** 2 * (0.3 + detail / (detail.mean() + 1e-6)) * pull + 1e-6
    return (map_ / map_.sum()).astype(np.float32)


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """A plain opponent space of the same spirit as Lab, in 0..255: lightness, red against green, blue against yellow."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([(r + g + b) / 3, (r - g) / 1.5, (b - (r + g) / 2) / 1.5], -1)


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    scale = SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _blur(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over windows of 2 radius + 1, twice, along both axes; edges repeated."""
    for axis in (0, 1, 0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
        wide = 2 * radius + 1
        values = (sums[wide:] - sums[:-wide]) / wide if axis == 0 else (sums[:, wide:] - sums[:, :-wide]) / wide
    return values


def best_window(map_: np.ndarray, width: float, height: float) -> tuple[int, int, float, float]:
    """(left, top, share kept, share the middle keeps) of the window that holds most of the map.

    width, height   in the map's own cells. Of windows that hold the same to a thousandth, the nearest to the middle.
    """
    h, w = map_.shape
    wide, high = min(w, max(1, round(width))), min(h, max(1, round(height)))
    sums = np.zeros((h + 1, w + 1))
    sums[1:, 1:] = map_.cumsum(0, dtype=np.float64).cumsum(1)
    held = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    middle = (h - high) // 2, (w - wide) // 2
    y, x = np.nonzero(held >= held.max() - 1e-3)
    nearest = np.argmin((y - middle[0]) ** 2 + (x - middle[1]) ** 2)
    return int(x[nearest]), int(y[nearest]), float(held[y[nearest], x[nearest]]), float(held[middle])
