"""The part that keeps most of what stands out from the picture's edges."""

from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.images import Crop, largest
from lorakit.data.saliency import best_window, salience


def place(view: PictureView) -> PlacedCrop:
    w, h = largest(view.source, view.target)
    map_ = salience(view.image)
    scale = map_.shape[1] / view.source[0], map_.shape[0] / view.source[1]
    left, top, kept, middle = best_window(map_, w * scale[0], h * scale[1])
    left = min(view.source[0] - w, round(left / scale[0]))
    top = min(view.source[1] - h, round(top / scale[1]))
    why = f"keeps {kept:.0%} of what stands out (the middle keeps {middle:.0%})"
    figures = {"salience_kept": round(kept, 4), "salience_of_middle": round(middle, 4)}
    return PlacedCrop(Crop(box=(left, top, left + w, top + h), size=view.target), why, figures)
