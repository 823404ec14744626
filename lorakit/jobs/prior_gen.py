"""Class pictures for prior preservation, drawn into a folder of the user's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.bounds import check_prompt
from lorakit.drawing import class_pictures
from lorakit.drawing.request import Request
from lorakit.drawing.session import load_model
from lorakit.errors import UsageError
from lorakit.runtime.world import place
from lorakit.talk import SILENT, Talk


def run(
    request: Request,
    out: Path,
    *,
    captions: Path | None,
    token: str,
    class_word: str,
    device: str,
    tokenizer: Path | None,
    force: bool,
    dry_run: bool,
    talk: Talk,
) -> dict[str, Any] | None:
    """Draw the request's pictures into `out`; what was done, or None in a process beside the main one.

    captions     a folder whose captions are prompts too, with `class_word` in the place of `token`
    raises       UsageError for prompts that cannot be drawn
    """
    turn = place()
    talk = talk if turn.main else SILENT
    prompts = list(request.prompts)
    if captions is not None:
        prompts += class_pictures.class_prompts(captions, token, class_word, talk.note)
        talk.note(f"{len(prompts)} prompts: {', '.join(prompts[:3])}{' ...' if len(prompts) > 3 else ''}")
    request = replace(request, prompts=_checked(prompts))
    components = load_model(
        request.model,
        turn.device(device),
        request.dtype,
        note=talk.note,
        tokenizer=tokenizer,
        wanted=request.wanted,
        vae=request.vae,
    )
    made = class_pictures.run(request, out, components, force=force, dry_run=dry_run, talk=talk, turn=turn)
    return made if turn.main else None


def _checked(prompts: list[str]) -> list[str]:
    """The prompts, each once."""
    for prompt in prompts:
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise UsageError(f"the prompt {prompt[:40]!r}... has {error}") from None
    return list(dict.fromkeys(prompts))
