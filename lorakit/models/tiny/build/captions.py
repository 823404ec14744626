"""What a picture is called: many wordings of one picture, drawn anew each time it is shown."""

import random

from lorakit.models.tiny.build.concepts import Concept

# Words without a plural or an article of their own; plurals are told by their ending.
_MASS = frozenset(
    [
        "bread",
        "garlic",
        "ginger",
        "root",
        "corn",
        "fire",
        "hair",
        "money",
        "mail",
        "art",
        "music",
        "medicine",
        "weather",
        "food",
        "fruit",
        "clothes",
    ]
)
_SINGULAR_S = ("ss", "us", "glass", "octopus", "cactus", "christmas", "dress", "tennis", "lotus")


def article(words: str) -> str:
    """`words` with the article that reads well: none for plurals and masses, "an" before a vowel."""
    last = words.rpartition(" ")[2]
    if last in _MASS or (last.endswith("s") and not last.endswith(_SINGULAR_S)):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(concept: Concept, style: str, background: str, draw: random.Random) -> str:
    """One wording. A twelfth names only the class ("a 3d emoji of an animal"), which is what a class prior is drawn
    from; a seventh leaves the style out ("a photo of a red apple"), as people write who do not know the styles."""
    kind = draw.random()
    if kind < 0.08:
        thing = article(concept.word)
    elif kind < 0.16:
        thing = f"{article(concept.label)}, {concept.word}"
    elif kind < 0.22 and concept.tags:
        thing = f"{article(concept.label)}, {draw.choice(concept.tags)}"
    else:
        thing = article(concept.label)
    wording = draw.random()
    if wording < 0.14:
        text = f"{draw.choice(('an emoji', 'a photo', 'a picture'))} of {thing}"
    elif wording < 0.20:
        text = f"{thing} in {style} style"
    else:
        text = f"{article(style)} emoji of {thing}"
    if background != "white" or draw.random() < 0.3:
        text += f" on {article(background)} background"
    return text
