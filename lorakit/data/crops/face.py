"""The part with the faces in its middle, a little above it; where none is found, as `smart`."""

from lorakit.data.crops import PictureView, PlacedCrop, smart
from lorakit.data.faces import find_faces
from lorakit.data.images import Crop, largest


def _start(low: float, high: float, length: int, whole: int, share: float) -> int:
    """Where a stretch of `length` begins that has the middle of low..high at `share` of it, kept within `whole`."""
    return max(0, min(whole - length, round((low + high) / 2 * whole - share * length)))


def place(view: PictureView) -> PlacedCrop:
    faces = find_faces(view.image)
    if not faces:
        other = smart.place(view)
        return PlacedCrop(other.cut, f"no face found; {other.why}", other.figures)
    w, h = largest(view.source, view.target)
    big = faces[0].box
    near = [f.box for f in faces if (f.box[2] - f.box[0]) > 0.5 * (big[2] - big[0])]
    left, top, right, bottom = (
        min(b[0] for b in near),
        min(b[1] for b in near),
        max(b[2] for b in near),
        max(b[3] for b in near),
    )
    if (right - left) * view.source[0] > w or (bottom - top) * view.source[1] > h:  # not all fit: the largest one
        left, top, right, bottom = big
    x = _start(left, right, w, view.source[0], 0.5)
    y = _start(top, bottom, h, view.source[1], 0.42)
    what = "face" if len(faces) == 1 else f"{len(faces)} faces"
    return PlacedCrop(Crop(box=(x, y, x + w, y + h), size=view.target), f"{what} found", {"faces": len(faces)})
