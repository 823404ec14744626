"""The captions that the source picture has, carried over: those beside it, else those of a table or of its folder's name."""

from lorakit.captioners import Caption, CaptionerSettings, Captions, Shown
from lorakit.data.caption_files import agreed, files_beside, line_by_line

LIGHT = True


def load(how: CaptionerSettings) -> Captions:
    def carried(one: Shown) -> Caption:
        files = files_beside(one.source) if one.beside is None else one.beside
        found = line_by_line(agreed(files, how.encoding))
        if not found.text and one.told:
            return line_by_line("\n".join(one.told))
        return found if found.text else Caption("", [*found.notes, "no caption beside it"])

    return lambda shown: [carried(one) for one in shown]
