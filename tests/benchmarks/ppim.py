"""ppim's decoding, cutting and writing beside a plain Pillow loop over the same large JPEGs, and by number of processes.

`python -m tests.benchmarks.ppim [--photos FOLDER] [--count 30] [--size 512]`. Without photographs it draws some. CPU
seconds of the process and its children; start-up is taken out by a run over one tiny picture.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lorakit.data.decode import decode
from lorakit.data.images import cut
from lorakit.data.prepare import PrepareSettings, scale
from lorakit.registry import CROPS
from lorakit.runtime.guarded import Guarded


def photographs(folder: Path, photos: Path | None, count: int) -> list[Path]:
    """12-megapixel JPEGs as phones make them: real photographs enlarged, or smooth noise with grain."""
    folder.mkdir()
    sources = sorted(photos.rglob("*.jpg")) if photos else []
    for number in range(count):
        if sources:
            picture = Image.open(sources[number * 7 % len(sources)]).convert("RGB")
            picture = ImageOps.fit(picture, (4000, 3000), Image.Resampling.BICUBIC)
        else:
            draw = np.random.default_rng(number)
            small = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            picture = small.resize((4000, 3000), Image.Resampling.BICUBIC)
        grain = np.random.default_rng(number).normal(0, 3, (3000, 4000, 1)).astype(np.float32)
        picture = Image.fromarray((np.asarray(picture, np.float32) + grain).clip(0, 255).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = (1, 6)[number % 2]
        picture.save(folder / f"{number:03d}.jpg", quality=92, exif=exif)
    return sorted(folder.iterdir())


def plain(files: list[Path], out: Path, size: int, image_format: str) -> None:
    """What the peers' loops do: the whole picture upright and in RGB, its shorter side to `size`, the middle, a file."""
    for file in files:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        share = size / min(picture.size)
        picture = picture.resize(
            (round(picture.width * share), round(picture.height * share)), Image.Resampling.LANCZOS
        )
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
        picture.save(out / f"{file.stem}.{image_format}", **({"quality": 95} if image_format == "jpg" else {}))


def psnr(file: Path, wanted: PrepareSettings) -> float:
    """Of what is drawn from the picture decoded smaller, against full decoding and Lanczos."""
    from lorakit.data.crops import PictureView
    from lorakit.data.prepare import target

    data = file.read_bytes()
    small, whole = decode(data, scale_of=lambda size: scale(size, wanted)), decode(data)
    how = CROPS[wanted.crop].place(PictureView(whole.image, whole.size, target(whole.size, wanted), "")).cut
    a, b = cut(small.image, how, source=small.size), cut(whole.image, how)
    square = float(np.square(np.asarray(a, float) - np.asarray(b, float)).mean())
    return 99.0 if square == 0 else -10 * np.log10(square / 255**2)


def cpu(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def pool(
    files: list[Path], out: Path, wanted: PrepareSettings, count: int, answer: str = "rows"
) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of `count` worker processes over all files, with their start."""
    setup = {"wanted": asdict(wanted), "raw": os.fsencode(files[0].parent).hex(), "data": os.fsencode(out).hex()}
    wall, used = time.perf_counter(), cpu(resource.RUSAGE_CHILDREN)
    with Guarded("lorakit.data.worker", setup, count, 120) as workers:
        jobs = ((f.name, {"path": os.fsencode(f.name).hex(), "name": f.stem, "thumb": True}) for f in files)
        assert all(answer in said for _, said in workers.answers(jobs))
    return time.perf_counter() - wall, cpu(resource.RUSAGE_CHILDREN) - used


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ppim", description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        files = photographs(folder / "raw", options.photos, options.count)
        tiny = folder / "tiny" / "tiny.jpg"
        tiny.parent.mkdir()
        Image.new("RGB", (8, 8)).save(tiny)  # too small to be taken: what remains is the start
        megabytes = sum(f.stat().st_size for f in files) / 1e6
        print(
            f"{len(files)} JPEGs of 4000x3000, {megabytes:.1f} MB, to {options.size}x{options.size}; Pillow {Image.__version__}"
        )
        for image_format in ("png", "jpg"):
            wanted = PrepareSettings(size=(options.size, options.size), multiple=64, image_format=image_format)
            times: dict[str, list[float]] = {"plain": [], "ours": []}
            for _ in range(options.repeats):  # in turns, so that both see the same machine
                start = cpu()
                plain(files, folder, options.size, image_format)
                times["plain"].append(cpu() - start)
                times["ours"].append(pool(files, folder, wanted, 1)[1] - pool([tiny], folder, wanted, 1, "reason")[1])
            a, b = (min(times[name]) / len(files) * 1000 for name in ("plain", "ours"))
            print(f"to {image_format}: plain Pillow {a:.0f} ms, lorakit {b:.0f} ms CPU a picture: {a / b:.2f}x")
        values = [psnr(file, wanted) for file in files]
        print(f"PSNR against full decoding and Lanczos: least {min(values):.1f} dB, mean {np.mean(values):.1f} dB")
        wanted = PrepareSettings(size=(options.size, options.size), multiple=64)
        many = files * 12  # so many that starting is no part of the figure, as in any folder that is worth the cores
        counts = [count for count in (1, 2, 4, 8) if count <= len(os.sched_getaffinity(0))]
        walls: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
        for _ in range(options.repeats):
            for count in counts:
                walls[count].append(pool(many, folder, wanted, count))
        for count in counts:
            wall, used = min(walls[count])
            print(
                f"{count} processes: {wall / len(many) * 1000:.1f} ms a picture ({used / len(many) * 1000:.1f} ms CPU), "
                f"{min(walls[1])[0] / wall:.2f}x"
            )


if __name__ == "__main__":
    sys.exit(main())
