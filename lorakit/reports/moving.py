"""Pictures that move: one after another under their labels, as GIF, WebP or MP4."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from PIL import Image

from lorakit.reports import sheets
from lorakit.runtime.extras import need

KINDS = ("gif", "webp", "mp4")


def check(kinds: Sequence[str]) -> None:
    """UsageError with the line that installs it, where a kind needs a package that is not there."""
    if "mp4" in kinds:
        need("av", "mp4", "--mp4")


def film(pictures: Sequence[np.ndarray], labels: Sequence[str], kind: str, frame: int, back: bool = True) -> bytes:
    """Pictures [h, w, 3] for `frame` milliseconds each, and with `back` again to the first; the same bytes each time."""
    frames = [sheets.table([[x]], [label], [""]) for x, label in zip(pictures, labels, strict=True)]
    size = (max(f.width for f in frames), max(f.height for f in frames))
    even = []
    for one in frames:
        even.append(Image.new("RGB", size, sheets.PAPER))
        even[-1].paste(one, (0, size[1] - one.height))
    if back:
        even += even[-2:0:-1]
    return _mp4(even, frame) if kind == "mp4" else _looped(even, kind, frame)


def _looped(frames: Sequence[Image.Image], kind: str, frame: int) -> bytes:
    if kind == "gif":
        frames = [one.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG) for one in frames]
    data = io.BytesIO()
    settings = {"lossless": True} if kind == "webp" else {"disposal": 1}
    frames[0].save(data, kind, save_all=True, append_images=frames[1:], duration=frame, loop=0, **settings)  # type: ignore[arg-type]
    return data.getvalue()


def _mp4(frames: Sequence[Image.Image], frame: int) -> bytes:
    """H.264 with colours at half the width and height, which every player shows; sides are made even with paper."""
    av = need("av", "mp4", "--mp4")
    data = io.BytesIO()
    with av.open(data, "w", format="mp4", options={"fflags": "+bitexact"}) as container:  # no time, no version inside
        settings = {"crf": "12", "threads": "1", "flags": "+bitexact"}
        stream = container.add_stream("libx264", rate=Fraction(1000, frame), options=settings)
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"
        for one in frames:
            paper = Image.new("RGB", (stream.width, stream.height), sheets.PAPER)
            paper.paste(one)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(paper), "rgb24")))
        container.mux(stream.encode())
    return data.getvalue()
