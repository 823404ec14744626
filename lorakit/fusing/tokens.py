"""Learned tokens in a model's text encoders and tokenizers, or beside a file that has no tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import SIZES, Stored, cast, floats, raw
from lorakit.errors import InputError
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.layouts import FOLDER, Model
from lorakit.formats.layouts.architecture import tokenizer_of
from lorakit.fusing.layout import architecture
from lorakit.io.endings import A1111_EMBEDDING
from lorakit.io.files import check_target
from lorakit.io.plain import read_json
from lorakit.merging.kernel.operands import as_numpy
from lorakit.registry import ADAPTER_FORMATS

TOKENS = "text_model.embeddings.token_embedding.weight"
_MOST_ADDED = 100_000  # tokens beside those of the text encoder's table
_MOST = 64 << 20  # bytes of a tokenizer's file
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class EncoderVocabulary:
    """The learned tokens of one text encoder: its tokenizer's files, the numbers of the tokens, their vectors."""

    source: Path
    rows: Mapping[str, int]
    vectors: Mapping[str, np.ndarray]
    end: int | None

    def embedded(self, table: Stored) -> Stored:
        size = max(table.shape[0], *(row + 1 for row in self.rows.values()))

        def read() -> Any:
            held = np.zeros((size, table.shape[1] * SIZES[table.dtype]), np.uint8)
            held[: table.shape[0]] = np.frombuffer(table.raw(), np.uint8).reshape(table.shape[0], -1)
            for token, row in self.rows.items():
                held[row] = np.frombuffer(raw(cast(self.vectors[token], table.dtype)), np.uint8)
            return held.reshape(-1).data

        return Stored(table.dtype, (size, table.shape[1]), read)


def vocabulary_of(adapter: Adapter, base: Model, given: Path | None) -> dict[str, EncoderVocabulary]:
    """Text encoder to its tokens. A token of n vectors is n entries: `<s1>`, `<s1>_1` ... as diffusers has it."""
    found: dict[str, EncoderVocabulary] = {}
    for part in ("text_encoder", "text_encoder_2"):
        vectors = {
            token if i == 0 else f"{token}_{i}": row
            for token, by in adapter.embeddings.items()
            if part in by
            for i, row in enumerate(np.atleast_2d(as_numpy(floats(by[part]))))
        }
        if not vectors:
            continue
        table = base.arrays.get(f"{part}.{TOKENS}")
        if table is None:
            raise InputError(f"{base.path} has no {part}, which the learned tokens are for")
        if wrong := [token for token, row in vectors.items() if row.shape != table.shape[1:]]:
            raise InputError(
                f"token {wrong[0]} has vectors of {vectors[wrong[0]].shape[0]}, {base.path}'s {part} takes {table.shape[1]}"
            )
        source = tokenizer_files(base, part, given)
        known = _known_tokens(source)
        if max(known.values()) > table.shape[0] + _MOST_ADDED:
            raise InputError(f"{source}: a token has the number {max(known.values())}, the table {table.shape[0]} rows")
        numbers, free = {}, max(known.values(), default=-1) + 1
        for token in vectors:
            numbers[token] = known.get(token, free)
            free += token not in known
        found[part] = EncoderVocabulary(source, numbers, vectors, known.get("<|endoftext|>"))
    return found


def _known_tokens(source: Path) -> dict[str, int]:
    """Every token of a tokenizer's files and its number."""
    known: dict[str, int] = {}
    for name in ("vocab.json", "added_tokens.json"):
        if (source / name).is_file():
            known |= read_json(source / name, "vocabulary", _MOST)
    config = source / "tokenizer_config.json"
    if config.is_file():
        added = read_json(config, "config", _MOST).get("added_tokens_decoder", {})
        try:
            known |= {str(entry["content"]): int(number) for number, entry in added.items()}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(f"{config}: added_tokens_decoder is not a table of tokens by their numbers") from None
    if wrong := [token for token, number in known.items() if not isinstance(number, int) or number < 0]:
        raise InputError(f"{source}: the token {wrong[0][:40]!r} has no number")
    if not known:
        raise InputError(f"{source}: no tokenizer that tokens can be added to (vocab.json)")
    return known


def tokenizer_files(base: Model, part: str, given: Path | None) -> Path:
    """The folder of a text encoder's tokenizer: the given one, the model's own, or the hub's as it lies in the cache."""
    from lorakit.models.places import tokenizer_folder

    return tokenizer_folder(base.path, None if base.layout == FOLDER else architecture(base)[1], part, given)


def files_beside(adapter: Adapter, output: Path, force: bool) -> dict[Path, Encoded]:
    """The learned tokens as files beside a checkpoint, which has no tokenizer to put them in."""
    found: dict[Path, Encoded] = {}
    for token, by in adapter.embeddings.items():
        plain = re.sub(r"[^\w.-]", "", token) or hashlib.sha256(token.encode()).hexdigest()[:8]
        path = output.with_name(f"{output.stem}.{plain}.safetensors")
        if any(path.name.casefold() == other.name.casefold() for other in (*found, output)):
            raise InputError(f"two outputs would be {path}; rename the learned token {token}")
        check_target(path, A1111_EMBEDDING, force=force)
        found[path] = ADAPTER_FORMATS["a1111-embedding"].encode(Adapter(modules={}, embeddings={token: by}), Context())
    return found


def add_tokens(model: Path, part: str, added: EncoderVocabulary) -> None:
    """Write the tokens into the tokenizer's files, and what follows from them into the text encoder's config."""
    place = model / tokenizer_of(part)
    if not place.is_dir():
        place = model / "tokenizer"
    known = _known_tokens(place)
    fresh = {token: row for token, row in added.rows.items() if token not in known}
    own = place / "added_tokens.json"
    held = read_json(own, "vocabulary", _MOST) if own.is_file() else {}
    _dump(own, {**held, **fresh})
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    config = place / "tokenizer_config.json"
    if config.is_file():
        content = read_json(config, "config", _MOST)
        decoder = content.setdefault("added_tokens_decoder", {})
        for token in ("<|startoftext|>", "<|endoftext|>"):  # a decoder that names any must name these
            if token in known:
                decoder.setdefault(str(known[token]), {"content": token, **entry, "normalized": True, "special": True})
        decoder |= {str(row): {"content": token, **entry} for token, row in fresh.items()}
        _dump(config, content)
    whole = place / "tokenizer.json"
    if whole.is_file():
        content = read_json(whole, "tokenizer", _MOST)
        content.setdefault("added_tokens", []).extend(
            {"id": row, "content": token, **entry} for token, row in fresh.items()
        )
        _dump(whole, content)
    config = model / part / "config.json"
    content = read_json(config, "config", _MOST)
    content["vocab_size"] = max(content.get("vocab_size", 0), *(row + 1 for row in added.rows.values()))
    if content.get("eos_token_id") == 2 and added.end is not None:
        # with 2 transformers takes the largest number for the end of the text, which a learned token now is
        content["eos_token_id"] = added.end
    _dump(config, content)


def _dump(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def texts_of(base: Model) -> list[str]:
    return [part for part in ("text_encoder", "text_encoder_2") if f"{part}.{TOKENS}" in base.arrays]
