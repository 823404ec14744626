"""What buckets keep of mixed sets and how full batches are: lorakit's, and the fixed table of the usual rule.

Kept is the mean share of a picture's area, of the mean set and of the worst; least, of the worst picture of all. Fill is that
of training's batches, over as many epochs as there are places in one; one shape, where each batch had one alone.

python -m tests.benchmarks.buckets
"""

import math
import random
import time
from collections import Counter

from lorakit.data.buckets import Buckets, choose
from lorakit.training.batches import Batches

KINDS = {
    "phone": [(4032, 3024), (3024, 4032), (4000, 3000), (4608, 3456), (3024, 4032), (3456, 4608), (4032, 2268)],
    "camera": [(6000, 4000), (4000, 6000), (5472, 3648), (4928, 3264)],
    "screen": [(1920, 1080), (1170, 2532), (1080, 2340), (2560, 1440), (1440, 900), (1284, 2778)],
    "square": [(1080, 1080), (2048, 2048), (800, 800), (640, 640)],
    "panorama": [(10000, 2500), (8000, 2667), (2000, 500)],
    "web": [(1200, 800), (800, 1200), (640, 480), (736, 1104), (564, 846), (1000, 667), (500, 333)],
}


def mixed(count: int, seed: int) -> list[tuple[int, int]]:
    """Pictures as people have them: of a phone, a camera, screens, the web, some cropped by hand."""
    draw, sizes = random.Random(seed), []
    for _ in range(count):
        kind = draw.choices(list(KINDS), [40, 15, 12, 13, 3, 17])[0]
        w, h = draw.choice(KINDS[kind])
        if draw.random() < 0.15:  # cropped by hand
            w, h = int(w * draw.uniform(0.6, 1)), int(h * draw.uniform(0.6, 1))
        sizes.append((w, h))
    return sizes


def random_aspects(count: int, seed: int) -> list[tuple[int, int]]:
    """The set of trainers.md 1.6: log-normal aspect ratios (sigma 0.35), 0.6 to 12 megapixels."""
    draw, sizes = random.Random(seed), []
    for _ in range(count):
        ratio, pixels = math.exp(draw.gauss(0, 0.35)), 1e6 * math.exp(draw.uniform(math.log(0.6), math.log(12)))
        sizes.append((round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))))
    return sizes


def usual(sizes: list[tuple[int, int]], side: int, step: int, batch: int) -> tuple[float, float]:
    """(kept, fill) of a fixed table: all shapes on the grid of at most side² pixels, the nearest aspect ratio."""
    table = {(w, side * side // w // step * step) for w in range(step, 2 * side + 1, step)}
    table = sorted((w, h) for w, h in table | {(h, w) for w, h in table} if h >= step)
    counts: dict[tuple[int, int], int] = {}
    share = 0.0
    for w, h in sizes:
        best = min(table, key=lambda s: (abs(math.log(s[0] / s[1] * h / w)), -s[0] * s[1]))
        ratio = best[0] / best[1] * h / w
        share += min(ratio, 1 / ratio)
        counts[best] = counts.get(best, 0) + 1
    return share / len(sizes), len(sizes) / (batch * sum(-(-n // batch) for n in counts.values()))


def filled(found: Buckets, batch: int) -> float:
    """How full the batches of a training are; an error where a picture comes more or less often than once an epoch."""
    shapes = found.shapes()
    batches = Batches(groups=shapes, size=batch, seed=0)
    shown = [i for step in range(len(shapes)) for i in batches[step]]
    if set(Counter(shown).values()) != {batch} or len(set(shown)) != len(shapes):
        raise AssertionError(f"{len(shapes)} pictures, batch {batch}: not each once an epoch")
    return len(shown) / (len(shapes) * batch)


def main() -> None:
    print(
        "set     count side/mult batch | buckets  kept worst-set least  pixels  fill one-shape  seconds | usual kept, fill"
    )
    for name, make in (("mixed", mixed), ("random", random_aspects)):
        for side, step in ((512, 64), (1024, 64), (1024, 32)):
            for count, batch in ((20, 4), (20, 8), (50, 8), (100, 8), (500, 8), (5000, 8), (5000, 1)):
                results, seconds, theirs, full = [], 0.0, [], []
                for seed in range(10 if count < 5000 else 1):
                    sizes = make(count, seed)
                    started = time.process_time()
                    found = choose(sizes, side * side, step, batch)
                    seconds = max(seconds, time.process_time() - started)
                    results.append(found.summary())
                    full.append(filled(found, batch))
                    theirs.append(usual(sizes, side, step, batch))
                mean = {key: sum(r[key] for r in results) / len(results) for key in results[0]}
                worst = {key: min(r[key] for r in results) for key in results[0]}
                print(
                    f"{name:7} {count:5} {side:4}/{step} {batch:5} | {mean['buckets']:7.1f} {mean['kept']:.3f} "
                    f"{worst['kept']:.3f}   {worst['least_kept']:.3f}  {mean['pixels']:.3f} {min(full):.3f} "
                    f"{mean['pass_fill']:.3f}     {seconds:.2f}    | "
                    f"{sum(k for k, _ in theirs) / len(theirs):.3f} {sum(f for _, f in theirs) / len(theirs):.3f}"
                )


if __name__ == "__main__":
    main()
