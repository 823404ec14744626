"""Base-model families: every module that an adapter can change, with the shape of its weight.

A family is a few numbers; the tables follow from them by the rules of diffusers' UNet2DConditionModel and transformers'
CLIPTextModel. A new family of the same classes is one more row of FAMILIES; another architecture is another function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

Shape = tuple[int, ...]
CONV_IN = "unet.conv_in"
INPUTS, INPAINTING = 4, 9  # channels that it takes: noisy latents; for inpainting those, a mask, and the masked picture


@dataclass(frozen=True, kw_only=True)
class Unet:
    """A UNet2DConditionModel. `depths` are the transformer layers of each down block, 0 without attention."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    cross: int
    linear_projection: bool = False
    mid_depth: int | None = None
    added: int | None = None
    layers: int = 2

    def weights(self) -> Iterator[tuple[str, Shape]]:
        """(module path, shape of its weight) in diffusers' names; norms have one dimension."""
        first, time = self.channels[0], 4 * self.channels[0]
        yield "conv_in", (first, INPUTS, 3, 3)
        yield "time_embedding.linear_1", (time, first)
        yield "time_embedding.linear_2", (time, time)
        if self.added is not None:
            yield "add_embedding.linear_1", (time, self.added)
            yield "add_embedding.linear_2", (time, time)
        came = first
        for i, (width, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            block = f"down_blocks.{i}"
            for j in range(self.layers):
                yield from _resnet(f"{block}.resnets.{j}", came if j == 0 else width, width, time)
                yield from self._transformer(f"{block}.attentions.{j}", width, depth)
            if i < len(self.channels) - 1:
                yield f"{block}.downsamplers.0.conv", (width, width, 3, 3)
            came = width
        yield from _resnet("mid_block.resnets.0", came, came, time)
        yield from self._transformer("mid_block.attentions.0", came, self._mid)
        yield from _resnet("mid_block.resnets.1", came, came, time)
        rising = self.channels[::-1]
        for i, (width, depth) in enumerate(zip(rising, self.depths[::-1], strict=True)):
            block, skipped = f"up_blocks.{i}", rising[min(i + 1, len(rising) - 1)]
            for j in range(self.layers + 1):
                skip = skipped if j == self.layers else width
                yield from _resnet(f"{block}.resnets.{j}", (came if j == 0 else width) + skip, width, time)
                yield from self._transformer(f"{block}.attentions.{j}", width, depth)
            if i < len(rising) - 1:
                yield f"{block}.upsamplers.0.conv", (width, width, 3, 3)
            came = width
        yield "conv_norm_out", (first,)
        yield "conv_out", (INPUTS, first, 3, 3)

    @property
    def _mid(self) -> int:
        return self.depths[-1] if self.mid_depth is None else self.mid_depth

    def _transformer(self, base: str, width: int, depth: int) -> Iterator[tuple[str, Shape]]:
        if not depth:
            return
        kernel = () if self.linear_projection else (1, 1)
        yield f"{base}.norm", (width,)
        yield f"{base}.proj_in", (width, width, *kernel)
        for i in range(depth):
            block = f"{base}.transformer_blocks.{i}"
            for attention, context in (("attn1", width), ("attn2", self.cross)):
                yield f"{block}.{attention}.to_q", (width, width)
                yield f"{block}.{attention}.to_k", (width, context)
                yield f"{block}.{attention}.to_v", (width, context)
                yield f"{block}.{attention}.to_out.0", (width, width)
            yield f"{block}.ff.net.0.proj", (8 * width, width)
            yield f"{block}.ff.net.2", (width, 4 * width)
            yield from ((f"{block}.norm{n}", (width,)) for n in (1, 2, 3))
        yield f"{base}.proj_out", (width, width, *kernel)

    def original_names(self) -> Iterator[tuple[str, str]]:
        """(diffusers path, path in the original checkpoints' "sgm" spelling) of each module."""
        step = self.layers + 1
        yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
        yield from ((f"time_embedding.linear_{n}", f"time_embed.{2 * n - 2}") for n in (1, 2))
        yield from ((f"add_embedding.linear_{n}", f"label_emb.0.{2 * n - 2}") for n in (1, 2))
        places = [("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1")]
        places.append(("mid_block.resnets.1", "middle_block.2"))
        for i in range(len(self.channels)):
            for j in range(self.layers):
                places.append((f"down_blocks.{i}.resnets.{j}", f"input_blocks.{1 + step * i + j}.0"))
                places.append((f"down_blocks.{i}.attentions.{j}", f"input_blocks.{1 + step * i + j}.1"))
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{step * (i + 1)}.0.op"
            for j in range(step):
                places.append((f"up_blocks.{i}.resnets.{j}", f"output_blocks.{step * i + j}.0"))
                places.append((f"up_blocks.{i}.attentions.{j}", f"output_blocks.{step * i + j}.1"))
            place = 2 if self.depths[::-1][i] else 1  # an upsampler follows the attention where there is one
            yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{step * i + self.layers}.{place}.conv"
        inner = dict(places)
        for path, _ in self.weights():
            parts = path.split(".")
            base, rest = ".".join(parts[:4] if parts[0] != "mid_block" else parts[:3]), path
            if base in inner:
                rest = path.removeprefix(base + ".")
                yield path, f"{inner[base]}.{_ORIGINAL_RESNET.get(rest, rest)}"


_ORIGINAL_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _resnet(base: str, given: int, width: int, time: int) -> Iterator[tuple[str, Shape]]:
    yield f"{base}.norm1", (given,)
    yield f"{base}.conv1", (width, given, 3, 3)
    yield f"{base}.time_emb_proj", (width, time)
    yield f"{base}.norm2", (width,)
    yield f"{base}.conv2", (width, width, 3, 3)
    if given != width:
        yield f"{base}.conv_shortcut", (width, given, 1, 1)


@dataclass(frozen=True)
class TextEncoder:
    """A CLIPTextModel, or one with projection."""

    width: int
    layers: int
    inner: int
    projection: int | None = None

    def weights(self) -> Iterator[tuple[str, Shape]]:
        for i in range(self.layers):
            layer = f"text_model.encoder.layers.{i}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{layer}.self_attn.{name}", (self.width, self.width)
            yield f"{layer}.mlp.fc1", (self.inner, self.width)
            yield f"{layer}.mlp.fc2", (self.width, self.inner)
            yield from ((f"{layer}.layer_norm{n}", (self.width,)) for n in (1, 2))
        yield "text_model.final_layer_norm", (self.width,)
        if self.projection is not None:
            yield "text_projection", (self.projection, self.width)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A base-model family: one set of module names and shapes, and how files name it.

    short      what people call it; model: the name of a model of the family, for `--model`
    original   whether its kohya files name UNet modules by the original checkpoint ("sgm") and not by diffusers
    version    kohya's `ss_base_model_version`; architecture: modelspec's
    """

    title: str
    short: str
    model: str
    unet: Unet
    texts: Mapping[str, TextEncoder]
    version: str
    architecture: str
    original: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def weights(self) -> Iterator[tuple[str, Shape]]:
        yield from ((f"unet.{path}", shape) for path, shape in self.unet.weights())
        for part, text in self.texts.items():
            yield from ((f"{part}.{path}", shape) for path, shape in text.weights())


_CLIP_L = TextEncoder(768, 12, 3072)
_CLIP_G = TextEncoder(1280, 32, 5120, 1280)
FAMILIES: dict[str, Family] = {
    "sd1": Family(
        title="Stable Diffusion 1.x",
        short="SD1",
        model="sd15",
        unet=Unet(channels=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), cross=768, mid_depth=1),
        texts={"text_encoder": _CLIP_L},
        version="sd_v1",
        architecture="stable-diffusion-v1",
    ),
    "sd2": Family(
        title="Stable Diffusion 2.x",
        short="SD2",
        model="sd21",
        unet=Unet(
            channels=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), cross=1024, linear_projection=True, mid_depth=1
        ),
        texts={"text_encoder": TextEncoder(1024, 23, 4096)},
        version="sd_v2",
        architecture="stable-diffusion-v2-768-v",
        extra={"ss_v2": "True"},
    ),
    "sdxl": Family(
        title="Stable Diffusion XL",
        short="SDXL",
        model="sdxl",
        unet=Unet(channels=(320, 640, 1280), depths=(0, 2, 10), cross=2048, linear_projection=True, added=2816),
        texts={"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G},
        version="sdxl_base_v1-0",
        architecture="stable-diffusion-xl-v1-base",
        original=True,
    ),
    "sdxl-refiner": Family(
        title="Stable Diffusion XL refiner",
        short="the SDXL refiner",
        model="stabilityai/stable-diffusion-xl-refiner-1.0",
        unet=Unet(
            channels=(384, 768, 1536, 1536),
            depths=(0, 4, 4, 0),
            cross=1280,
            linear_projection=True,
            mid_depth=4,
            added=2560,
        ),
        texts={"text_encoder_2": _CLIP_G},
        version="sdxl_refiner_v1-0",
        architecture="stable-diffusion-xl-v1-refiner",
        original=True,
    ),
    "tiny": Family(
        title="lorakit's built-in model",
        short="tiny",
        model="tiny",
        unet=Unet(channels=(64, 128, 192), depths=(1, 1, 0), cross=192, mid_depth=1, layers=1),
        texts={"text_encoder": TextEncoder(192, 4, 768)},
        version="lorakit_tiny",
        architecture="lorakit-tiny",
    ),
}


@cache
def table(family: str) -> dict[str, Shape]:
    """Module name, "unet.down_blocks..." or "text_encoder.text_model...", to the shape of its weight."""
    return dict(FAMILIES[family].weights())


@dataclass(frozen=True)
class Guess:
    """What family a set of module shapes is of, and why.

    families        all that fit equally well, the likeliest first; none where no table has such modules
    architectures   of another kind of model, those that it can be, the likeliest first
    """

    family: str | None
    evidence: str
    families: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()


def guess(shapes: Mapping[str, Shape | None]) -> Guess:
    """The families whose modules have these shapes; by module name, None where a shape is not known.

    A family fits when nine in ten of the modules with known names and shapes fit it; the best fits count. Flattened
    kernels and 1x1 kernels count as their linear twins, but of equally good families the one that has more of the
    shapes as they are is the likeliest.
    """
    counts = {name: _fitting(shapes, name) for name in FAMILIES}
    best = max(counts, key=lambda name: counts[name][0])
    hits, known = counts[best]
    if not hits or hits < _MOST * known:
        return Guess(None, _none(best, hits, known) if hits else _cross(shapes) or _NONE)
    equal = [name for name in FAMILIES if counts[name][0] == hits]
    if len(equal) > 1:
        equal.sort(key=lambda name: -_exact(shapes, name))
    why = _cross(shapes) or f"{FAMILIES[equal[0]].title}'s widths"
    return Guess(equal[0], f"{why}; {hits} of {known} modules fit in name and shape", tuple(equal))


_NONE = "no known family has modules of these names and shapes"


def _none(best: str, hits: int, known: int) -> str:
    return f"no known family has all of them: {hits} of {known} modules fit {FAMILIES[best].short} in name and shape"


_MOST = 0.9  # share of the modules


def is_inpainting(shapes: Mapping[str, Shape | None]) -> bool:
    """Whether the UNet of these modules takes what an inpainting one takes."""
    shape = shapes.get(CONV_IN)
    return shape is not None and len(shape) > 1 and _flat(shape)[1] == INPAINTING * 9


def table_of(family: str, shapes: Mapping[str, Shape | None]) -> dict[str, Shape]:
    """The family's table for modules of these shapes: its inpainting models have another first layer."""
    weights = table(family)
    if not is_inpainting(shapes):
        return weights
    out, _, *kernel = weights[CONV_IN]
    return {**weights, CONV_IN: (out, INPAINTING, *kernel)}


def _fitting(shapes: Mapping[str, Shape | None], family: str) -> tuple[int, int]:
    """(how many modules the family has in this name and shape, of how many whose shape is known)."""
    known = {name: _flat(shape) for name, shape in shapes.items() if shape is not None and len(shape) > 1}
    weights = table_of(family, shapes)
    return sum(_flat(weights[name]) == shape for name, shape in known.items() if name in weights), len(known)


def _exact(shapes: Mapping[str, Shape | None], family: str) -> int:
    """How many modules are stored with just as many dimensions as the family's weights have."""
    weights = table(family)
    return sum(shape is not None and len(weights.get(name, ())) == len(shape) for name, shape in shapes.items())


def as_linear(shape: Shape) -> Shape:
    """A 1x1 convolution is the same as a linear layer: SDXL's files have either."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _flat(shape: Shape) -> Shape:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns


def _cross(shapes: Mapping[str, Shape | None]) -> str:
    for name, shape in shapes.items():
        if name.startswith("unet.") and name.endswith((".attn2.to_k", ".attn2.to_v")) and shape and len(shape) == 2:
            return f"cross-attention takes {shape[1]} inputs"
    return ""
