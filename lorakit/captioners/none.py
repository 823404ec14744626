"""No caption of its own; the template alone speaks."""

from lorakit.captioners import Caption, CaptionerSettings, Captions

LIGHT = True


def load(how: CaptionerSettings) -> Captions:
    return lambda shown: [Caption("") for _ in shown]
