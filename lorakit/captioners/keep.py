"""The text beside the source picture, carried over."""

from lorakit.captioners import Captions, How, Shown, Text
from lorakit.data.caption_files import beside

LIGHT = True


def load(how: How) -> Captions:
    def carried(one: Shown) -> Text:
        found = beside(one.source, how.encoding)
        return found if found.text else Text("", [*found.notes, "no caption beside it"])

    return lambda shown: [carried(one) for one in shown]
