"""A byte-level BPE vocabulary of 2,048 in CLIP's own format, learnt from the captions."""

import json
import random
from pathlib import Path

from lorakit.models.tiny.build.captions import caption
from lorakit.models.tiny.build.concepts import Concept
from lorakit.models.tiny.build.render import COLOURS
from lorakit.models.tiny.build.sources import TRAIN_STYLES

SIZE = 2048
LENGTH = 32  # tokens of a prompt: the text encoder has as many positions
_COMMON = """a an the of in on with and photo picture image painting drawing sketch style portrait background emoji
icon cartoon person man woman boy girl child cute small big old young beautiful colorful my your this that large
watercolor oil pixel art flat three d render wearing hat sitting standing running flying sleeping next to under over
behind front snow rain beach city forest night day sunset happy sad angry sks zwx ohwx toy dog cat"""
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def byte_letters() -> list[str]:
    """The printable stand-ins of the 256 bytes in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def train(concepts: list[Concept], work: Path) -> Path:
    """Learn the merges; writes `vocab.json` and `merges.txt` and gives their folder."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    out = work / "tokenizer"
    if (out / "merges.txt").is_file():
        return out
    draw = random.Random(0)
    corpus = [
        caption(concept, draw.choice(TRAIN_STYLES), draw.choice(list(COLOURS)), draw)
        for concept in concepts
        for _ in range(16)
    ]
    corpus += [_COMMON] * 20 + [" ".join(COLOURS)] * 50 + [" ".join(concept.tags) for concept in concepts]
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    )
    letters = byte_letters()
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for pair in json.loads(learner.to_str())["model"]["merges"]:
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        if left + right not in vocabulary and len(vocabulary) < SIZE - 2:
            vocabulary.append(left + right)
            merges.append(f"{left} {right}")
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False), encoding="utf-8", newline="\n"
    )
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8", newline="\n")
    return out
