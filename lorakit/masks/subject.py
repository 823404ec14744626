"""The subject: by its words with CLIPSeg (--mask-prompt), else by GrabCut from what stands out; offline."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from lorakit.data.faces import need_opencv
from lorakit.data.saliency import salience
from lorakit.masks import Make, MaskSettings

CLIPSEG = "CIDAS/clipseg-rd64-refined"
_SIDE = 256  # GrabCut works at this longer side; the mask's edge is soft anyway


def identity(how: MaskSettings) -> list[str]:
    return ["clipseg", how.prompt, how.model or CLIPSEG] if how.by_words else ["grabcut", "1"]


def load(how: MaskSettings) -> Make:
    if how.by_words:
        from lorakit.models.clipseg import load as load_clipseg

        return load_clipseg(how.model or CLIPSEG, how.prompt, how.device, how.dtype)
    need_opencv("--mask subject without --mask-prompt")

    def make(pictures: Sequence[Image.Image]) -> list[Image.Image]:
        return [grabcut(picture) for picture in pictures]

    return make


def grabcut(picture: Image.Image) -> Image.Image:
    """Rother et al., 2004: two mixtures of colours, foreground and background, started from the salience map, and the
    cheapest border between them. What stands out most is surely subject, the picture's border surely not."""
    cv2 = need_opencv("--mask subject")
    scale = min(1.0, _SIDE / max(picture.size))
    small = picture.resize((max(8, round(picture.width * scale)), max(8, round(picture.height * scale))))
    map_ = Image.fromarray(salience(picture)).resize(small.size, Image.Resampling.BILINEAR)
    values = np.asarray(map_)
    labels = np.full(values.shape, cv2.GC_PR_BGD, np.uint8)
    order = np.sort(values.ravel())[::-1]
    held = np.cumsum(order) / order.sum()
    labels[values >= order[np.searchsorted(held, 0.75)]] = cv2.GC_PR_FGD
    labels[values >= order[np.searchsorted(held, 0.15)]] = cv2.GC_FGD
    edge = max(1, min(values.shape) // 50)
    border = np.ones(values.shape, bool)
    border[edge:-edge, edge:-edge] = False
    labels[border & (labels != cv2.GC_FGD)] = cv2.GC_PR_BGD
    labels[border & (values < np.median(values))] = cv2.GC_BGD
    if not (labels == cv2.GC_BGD).any() or not np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        return Image.new("L", picture.size, 255)
    cv2.setRNGSeed(0)  # its mixtures start from a random draw
    cv2.grabCut(
        np.ascontiguousarray(np.asarray(small)[..., ::-1]),
        labels,
        None,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        5,
        cv2.GC_INIT_WITH_MASK,
    )
    mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    size = max(3, max(mask.shape) // 48) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    if mask.mean() < 0.01:
        return Image.new("L", picture.size, 255)
    whole = Image.fromarray(mask * 255).resize(picture.size, Image.Resampling.BILINEAR)
    return whole.filter(ImageFilter.GaussianBlur(max(picture.size) / 200))
