"""Adapters that prompts name themselves, `<lora:name:0.8>` and `embedding:name`, found in a folder by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lorakit.composition import Composition, Member
from lorakit.data import prompt_tags
from lorakit.data.prompt_tags import PromptTag
from lorakit.drawing import composing
from lorakit.drawing.request import Shot
from lorakit.errors import InputError, UsageError, some
from lorakit.formats import files, recipes
from lorakit.io import safetensors
from lorakit.io.inputs import existing_folder
from lorakit.registry import nearest
from lorakit.talk import Note

_ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin", ".pti")
_PICTURE = ".png"  # an embedding can be in one; most are previews of the file beside them
_FOLDER_MARKS = ("adapter_config.json", "pytorch_lora_weights.safetensors")


class Library:
    """The adapters of a folder and of those in it, by their names."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = existing_folder(folder, "the folder of --lora-dir")
        self.paths = sorted(self._walk())

    def _walk(self) -> Iterator[Path]:
        seen: set[str] = set()
        for here, folders, names in os.walk(self.folder, followlinks=True):
            if (real := os.path.realpath(here)) in seen:  # a link that leads back
                folders.clear()
                continue
            seen.add(real)
            if any(mark in names for mark in _FOLDER_MARKS) and Path(here) != self.folder:
                folders.clear()
                yield Path(here)
                continue
            yield from (Path(here, name) for name in names if name.lower().endswith((*_ENDINGS, _PICTURE)))

    def find(self, name: str, tag: str, *, embedding: bool = False) -> Path:
        """The one adapter of this name: the file's, with or without its ending and its folder, else what its metadata
        calls it. Case counts only where it tells two apart. InputError where there is none, or more than one."""
        usable = [path for path in self.paths if path.suffix.lower() != _PICTURE]
        groups = [usable, [path for path in self.paths if path not in usable] if embedding else []]
        for paths in groups:
            for alike in (str, str.casefold):
                found = [path for path in paths if alike(name) in map(alike, self._names(path))]
                if len(found) > 1:
                    several = [self._relative(path) for path in found]
                    raise InputError(
                        f"{tag}: {some(several, 3)} in {self.folder} are all called {name}; say which, with folder and ending"
                    )
                if found:
                    return found[0]
        titled = [path for path in usable if path.suffix == ".safetensors" and path.is_file() and _title(path) == name]
        if len(titled) == 1:
            return titled[0]
        known = sorted({path.stem for path in usable})
        raise InputError(f"{tag}: no adapter called {name} in {self.folder}{nearest(name, known)}")

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _names(self, path: Path) -> list[str]:
        whole = self._relative(path)
        if path.is_dir():
            return [whole, path.name]
        return [whole, whole.removesuffix(path.suffix), path.name, path.stem]


def _title(path: Path) -> str:
    try:
        return safetensors.open_file(path, "adapter").metadata.get("ss_output_name", "")
    except InputError:
        return ""


class Tagged:
    """Puts the adapters that prompts name on the shots of these prompts."""

    def __init__(self, folder: str | Path | None, note: Note) -> None:
        self.library = None if folder is None else Library(folder)
        self.note = note
        self.used = False  # whether a prompt named an adapter of the folder
        self._made: dict[tuple[int, tuple[PromptTag, ...], tuple[str, ...]], tuple[Composition, Composition]] = {}
        self._told: set[str] = set()

    def shots(self, shots: Sequence[Shot]) -> list[Shot]:
        """The shots with the adapters that their prompts name, and without the tags for them."""
        return [shot if shot.request.plain else self._shot(shot) for shot in shots]

    def _shot(self, shot: Shot) -> Shot:
        tags = _adapters(shot.prompt)
        texts = (shot.prompt, shot.request.negative)
        embeddings = tuple(dict.fromkeys(tag.name for text in texts for tag in prompt_tags.embeddings(text)))
        if not tags and not embeddings:
            return shot
        key = id(shot.composition), tuple(tags), embeddings
        if key not in self._made:  # the composition it is made of is kept, so that its id stays its own
            self._made[key] = shot.composition, self._composed(shot.composition, tags, embeddings)
        prompt = shot.prompt
        for tag in tags:  # one that names nothing stays, and is told where it is left out
            if self.library is not None or _has(shot.composition, tag.name):
                prompt = prompt.replace(tag.spelled, "")
        return replace(shot, prompt=prompt, composition=self._made[key][1])

    def _composed(self, composition: Composition, tags: Sequence[PromptTag], embeddings: Sequence[str]) -> Composition:
        """The composition and the adapters that a prompt names and it has not."""
        members: list[Member] = []
        for tag in tags:
            if _has(composition, tag.name):
                self._say(f"{tag.spelled}: {tag.name} is given already, and the weight it is given with counts")
            elif self.library is not None:
                members.append(self._member(tag, self.library.find(tag.name, tag.spelled)))
        if self.library is not None and embeddings:
            known = _words_of(composition)
            for name in embeddings:
                if name.casefold() not in known and not _has(composition, name):
                    path = self.library.find(name, f"embedding:{name}", embedding=True)
                    members.append(Member(path=path, weight=1.0, name=path.stem, free=True))
        if not members:
            return composition
        self.used = True
        return replace(composition, members=composing.named([*composition.members, *members]))

    def _member(self, tag: PromptTag, path: Path) -> Member:
        if tag.unread:
            self._say(f"{tag.spelled}: not read: {', '.join(tag.unread)}")
        try:
            blocks = recipes.blocks_of(tag.blocks) if tag.blocks else {}
        except ValueError as error:
            raise UsageError(f"{tag.spelled}: {error}") from None
        if tag.text == tag.weight:
            return Member(path=path, weight=tag.weight, name=path.stem, blocks=blocks, free=True)
        texts = [part for part in ("text_encoder", "text_encoder_2") if _reaches(path, part)]
        if tag.weight == 0:  # a weight is the whole adapter's, and a part's is a factor to it
            parts = {"unet": 0.0} if _reaches(path, "unet") else {}
            return Member(
                path=path, weight=tag.text if texts else 0.0, name=path.stem, blocks=blocks, parts=parts, free=True
            )
        parts = dict.fromkeys(texts, tag.text / tag.weight)
        return Member(path=path, weight=tag.weight, name=path.stem, blocks=blocks, parts=parts, free=True)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.note(text)


def _adapters(prompt: str) -> list[PromptTag]:
    try:
        return prompt_tags.adapters(prompt)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _has(composition: Composition, name: str) -> bool:
    """Whether one of its adapters is called so, by its name or its file's."""
    wanted = name.casefold()
    return any(
        wanted in (one.casefold() for one in (member.name, member.path.name, member.path.stem))
        for member in composition.members
    )


def _words_of(composition: Composition) -> set[str]:
    """The learned words of a composition's adapters, without case."""
    return {token.casefold() for member in composition.members for token in files.look(member.path).embeddings}


def _reaches(path: Path, part: str) -> bool:
    adapter = files.look(path)
    return any(name.partition(".")[0] == part for name in (*adapter.modules, *adapter.biases))
