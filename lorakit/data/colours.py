"""Any picture's numbers as 8-bit sRGB: scaled and not clipped, its profile applied, nothing hidden shown."""

import io

import numpy as np
from PIL import Image, ImageCms

from lorakit.talk import Note

WHITE = (255, 255, 255)
_DEEP_GREYS = ("I", "F")


def eight_bits(image: Image.Image, note: Note) -> Image.Image:
    """Greys of 16 bits and floats as 8 bits by their range: 65535, 255 or 1, whichever is the least that holds all.

    Pillow itself cuts them off at 255, which turns most 16-bit pictures white.
    """
    if image.mode.startswith("I;16"):
        note("16 bits a pixel, scaled to 8")
        return Image.fromarray((np.asarray(image) / np.float32(257)).round().astype(np.uint8))
    if image.mode in _DEEP_GREYS:
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0, posinf=0, neginf=0)
        most = float(values.max(initial=0))
        top = next((t for t in (1, 255, 65535) if most <= t), most) if image.mode == "F" else max(255, most)
        top = 65535 if image.mode == "I" and 255 < most <= 65535 else top
        note(f"{'float' if image.mode == 'F' else '32-bit'} grey, scaled from 0..{top:g} to 8 bits")
        return Image.fromarray((values * (255 / top)).clip(0, 255).round().astype(np.uint8))
    return image


def flat(image: Image.Image, background: tuple[int, int, int], note: Note) -> Image.Image:
    """Transparent parts laid on one colour, so that what was hidden under them stays hidden."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    note("transparent, laid on " + ("white" if background == WHITE else f"#{bytes(background).hex()}"))
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None, note: Note) -> Image.Image:
    """RGB in sRGB by the picture's own colour profile; where it has none or a broken one, its numbers as they are."""
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    if not profile:
        if image.mode == "CMYK":
            note("CMYK without a colour profile, converted by the plain formula")
        return image if image.mode == "RGB" else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _is_srgb(source) and image.mode == "RGB":
            return image
        if image.mode not in ("RGB", "CMYK", "L"):
            image = image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        note("its colour profile is broken and was not applied")
        return image.convert("RGB")
    return (converted or image).convert("RGB")


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """The usual profiles of sRGB say so in their description; going through them would only round."""
    return "srgb" in ImageCms.getProfileDescription(profile).lower().replace("-", "")
