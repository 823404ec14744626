"""Resolution buckets made for the pictures at hand, by dynamic programming.

The usual buckets are a fixed table: pictures lose what the nearest shape cuts off, and each bucket ends in a short
batch. Here the shapes follow from the pictures. No picture is left out or shown more often than asked, none is
enlarged unless asked; what is minimised is area cut off, pixels not used, and places in batches left empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.data.bucket_search import assign, candidates
from lorakit.data.shapes import enlarged, kept, shortfall


@dataclass(frozen=True)
class Bucket:
    """A shape (width, height) and which pictures are cut to it."""

    size: tuple[int, int]
    members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Buckets that together hold every picture once.

    kept        of each picture the share of its area that is trained on
    pixels      of each picture the share of the pixels it could show, at most `area`, that its shape has room for
    enlarged    the pictures that are smaller than any shape allowed, and grow
    """

    buckets: tuple[Bucket, ...]
    kept: tuple[float, ...]
    pixels: tuple[float, ...]
    enlarged: tuple[int, ...]
    repeats: tuple[int, ...]
    batch_size: int
    area: int

    def shapes(self) -> list[tuple[int, int]]:
        """The shape of each picture, by its index."""
        by_index = {i: bucket.size for bucket in self.buckets for i in bucket.members}
        return [by_index[i] for i in range(len(self.kept))]

    def shown(self, bucket: Bucket) -> int:
        """How many of its pictures an epoch shows, repeats counted."""
        return sum(self.repeats[i] for i in bucket.members)

    def rows(self) -> list[dict[str, Any]]:
        """The table people look at: a row a bucket, the largest first."""
        rows = [
            {
                "size": list(bucket.size),
                "pictures": len(bucket.members),
                "shown": self.shown(bucket),
                "kept": float(np.mean([self.kept[i] for i in bucket.members])),
                "least_kept": min(self.kept[i] for i in bucket.members),
                "passes": -(-self.shown(bucket) // self.batch_size),
            }
            for bucket in self.buckets
        ]
        return sorted(rows, key=lambda row: (-row["shown"], row["size"]))

    def summary(self) -> dict[str, Any]:
        """Figures of the whole.

        kept, least_kept    share of the area trained on: mean over what an epoch shows, and of the worst picture
        pixels              mean share of the pixels a picture could show, of the area asked for
        steps, fill         batches of a single epoch and how full they are, where the rests of buckets share batches;
                            in training the rests of epochs share them too, and all are full
        passes, pass_fill   the same where every batch has one shape: what the model is called with
        """
        times = np.array(self.repeats)
        shown, passes = int(times.sum()), sum(row["passes"] for row in self.rows())
        steps = -(-shown // self.batch_size)
        return {
            "pictures": len(self.kept),
            "shown": shown,
            "buckets": len(self.buckets),
            "kept": float(np.average(self.kept, weights=times)),
            "least_kept": min(self.kept),
            "pixels": float(np.average(self.pixels, weights=times)),
            "steps": steps,
            "fill": shown / (steps * self.batch_size),
            "passes": passes,
            "pass_fill": shown / (passes * self.batch_size),
            "enlarged": len(self.enlarged),
        }


def choose(
    sizes: Sequence[tuple[int, int]],
    area: int,
    multiple: int,
    batch_size: int,
    repeats: Sequence[int] | None = None,
    *,
    upscale: bool = False,
    keep: float = 0.975,
) -> Buckets:
    """Buckets for pictures of these sizes (width, height).

    area        pixels a shape should have; one has at most a tenth more
    multiple    every side is a multiple of it
    batch_size  pictures a step, of all processes together
    upscale     whether small pictures may grow; else they get smaller shapes
    keep        the mean share of a picture that must be left, if there are shapes that leave it
    raises      ValueError for numbers that make no sense

    5,000 pictures take about half a second.
    """
    if min(area, multiple, batch_size) < 1 or any(w < 1 or h < 1 for w, h in sizes):
        raise ValueError(f"area {area}, multiple {multiple}, batch size {batch_size} and all sizes must be at least 1")
    if area < multiple**2:
        raise ValueError(f"a shape of {area} pixels has no sides that are multiples of {multiple}")
    times = np.ones(len(sizes), np.int64) if repeats is None else np.array(repeats, np.int64)
    if len(times) != len(sizes) or (times < 1).any():
        raise ValueError(f"{len(sizes)} pictures need as many repeats, each at least 1")
    if not len(sizes):
        return Buckets(buckets=(), kept=(), pixels=(), enlarged=(), repeats=(), batch_size=batch_size, area=area)
    own_sizes = table = np.array(sizes, np.float64)
    if upscale:  # then every picture can show as many pixels as a shape has
        table = table * np.maximum(1, np.sqrt(area / table.prod(1, keepdims=True)))
    shapes = candidates(table, area, multiple, upscale)
    found = assign(table, times, shapes, area=area, batch=batch_size, keep=keep, upscale=upscale)
    own = shapes[found]
    buckets = [
        Bucket((int(shapes[k][0]), int(shapes[k][1])), tuple(np.flatnonzero(found == k).tolist()))
        for k in np.unique(found)
    ]
    grown = np.flatnonzero(enlarged(own_sizes, own) > 1).tolist()
    share, pixels = kept(table, own).tolist(), (1 - shortfall(table, own, area)).tolist()
    return Buckets(
        buckets=tuple(buckets),
        kept=tuple(share),
        pixels=tuple(pixels),
        enlarged=tuple(grown),
        repeats=tuple(times.tolist()),
        batch_size=batch_size,
        area=area,
    )
