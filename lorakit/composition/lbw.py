"""Block weights as the webuis' "LoRA Block Weight" extension counts them: a list of numbers, or a preset by name."""

from __future__ import annotations

from functools import cache

from lorakit.registry import nearest

# What the places of a list of so many numbers are; IN, MID and OUT count the original checkpoints' blocks.
_PLACES = {
    12: "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    20: "BASE " + " ".join(f"IN{i:02d}" for i in range(9)) + " MID " + " ".join(f"OUT{i:02d}" for i in range(9)),
    26: "BASE " + " ".join(f"IN{i:02d}" for i in range(12)) + " MID " + " ".join(f"OUT{i:02d}" for i in range(12)),
}
PRESETS = {
    "NONE": "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "ALL": "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "INS": "1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "IND": "1 0 0 0 1 1 1 0 0 0 0 0 0 0 0 0 0",
    "INALL": "1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0",
    "MIDD": "1 0 0 0 1 1 1 1 1 1 1 1 0 0 0 0 0",
    "OUTD": "1 0 0 0 0 0 0 0 1 1 1 1 0 0 0 0 0",
    "OUTS": "1 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1",
    "OUTALL": "1 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1",
}


def blocks(text: str) -> dict[str, float]:
    """Beginning of a module's name to its weight, of a preset's name or 12, 17, 20 or 26 numbers.

    12 and 20 are SDXL's, 17 and 26 SD1's and SD2's. ValueError for others.
    """
    if text.strip().upper() in PRESETS:
        numbers = [float(x) for x in PRESETS[text.strip().upper()].split()]
    else:
        pieces = text.replace(",", " ").split()
        try:
            numbers = [float(piece) for piece in pieces]
        except ValueError:
            hint = nearest(text.strip().upper(), PRESETS)
            raise ValueError(f"no preset '{text}'{hint} (there are: {', '.join(PRESETS)})") from None
    if len(numbers) not in _PLACES:
        raise ValueError(f"{len(numbers)} block weights; lists have {', '.join(map(str, _PLACES))}")
    found = {"unet": 1.0}
    for place, number in zip(_PLACES[len(numbers)].split(), numbers, strict=True):
        for block in _modules(place):
            found[block] = number
    return found


@cache
def named() -> frozenset[str]:
    """Every beginning of a module's name that a list can speak of; no model has all of them."""
    return frozenset(block for count in _PLACES for block in blocks(",".join(["1"] * count)))


def _modules(place: str) -> list[str]:
    if place == "BASE":
        return ["text_encoder", "text_encoder_2"]
    if place == "MID":
        return ["unet.mid_block"]
    number = int(place[-2:])
    if place.startswith("OUT"):
        base, j = f"unet.up_blocks.{number // 3}", number % 3
        return [f"{base}.resnets.{j}", f"{base}.attentions.{j}", *([f"{base}.upsamplers"] if j == 2 else [])]
    if number == 0:
        return ["unet.conv_in"]
    base, j = f"unet.down_blocks.{(number - 1) // 3}", (number - 1) % 3
    return [f"{base}.downsamplers"] if j == 2 else [f"{base}.resnets.{j}", f"{base}.attentions.{j}"]
