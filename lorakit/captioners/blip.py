"""A sentence by BLIP or BLIP-2 (Li et al., 2022 and 2023), by beam search, so that it repeats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorakit.captioners import Caption, CaptionerSettings, Captions, Shown

LARGE = "Salesforce/blip-image-captioning-large"
_BEAMS, _WORDS = 3, 40


def name_of(how: CaptionerSettings) -> str:
    """The model that is asked: the one named; beside the built-in model its own, which knows emoji and nothing else."""
    if how.model:
        return how.model
    return str(Path(__file__).parents[1] / "models" / "tiny" / "captioner") if how.base == "tiny" else LARGE


def identity(how: CaptionerSettings) -> list[str]:
    return ["built in" if not how.model and how.base == "tiny" else name_of(how), f"{_BEAMS} beams", how.dtype]


def load(how: CaptionerSettings) -> Captions:
    from lorakit.models.fetch import folder_of, whole
    from lorakit.runtime.device import pick_device, pick_dtype

    folder = folder_of(name_of(how), "--caption-model")
    where = pick_device(how.device)
    kind = pick_dtype(how.dtype, where)
    with whole(folder, "--caption-model", "BLIP model") as folder:
        import torch
        from transformers import AutoConfig, AutoProcessor, Blip2ForConditionalGeneration, BlipForConditionalGeneration

        model_type = AutoConfig.from_pretrained(folder).model_type
        kinds = {"blip": BlipForConditionalGeneration, "blip-2": Blip2ForConditionalGeneration}
        if model_type not in kinds:
            raise ValueError(f"it is of the kind '{model_type}', not one of {', '.join(kinds)}")
        processor: Any = AutoProcessor.from_pretrained(folder)
        model = kinds[model_type].from_pretrained(folder, use_safetensors=True, dtype=kind).to(where).eval()
    if where.type == "cpu" and model.num_parameters() < 50e6:
        torch.set_num_threads(1)  # operators this short only wait for one another

    @torch.inference_mode()
    def captions(shown: Sequence[Shown]) -> list[Caption]:
        pictures = [one.opened() for one in shown]
        pixels = processor(images=pictures, return_tensors="pt").pixel_values.to(where, kind)
        said = model.generate(pixel_values=pixels, num_beams=_BEAMS, do_sample=False, max_new_tokens=_WORDS)
        return [Caption(" ".join(text.split())) for text in processor.batch_decode(said, skip_special_tokens=True)]

    return captions
