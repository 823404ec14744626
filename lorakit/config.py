"""What a training run depends on besides its data. The one place for a default, its type and its help."""

from dataclasses import dataclass, fields
from typing import Annotated

from lorakit.errors import UsageError

# What suits a model of this size, where the user names nothing. The built-in model is small and learns fast.
SUITED = {"tiny": {"steps": 300, "batch_size": 8, "lr": 2e-3}, "": {"steps": 1000, "batch_size": 1, "lr": 1e-4}}
SUITED_FULL = {"tiny": {"steps": 250, "batch_size": 8, "lr": 3e-4}, "": {"steps": 1000, "batch_size": 1, "lr": 2e-6}}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of `train`, and the notes in its output."""

    mode: Annotated[str, "lora, dreambooth (with class prior) or full."] = "lora"
    model: Annotated[str, "tiny (built in), a hub id or a diffusers folder."] = "tiny"
    instance_prompt: Annotated[str | None, "One prompt for all pictures, instead of their captions."] = None
    class_prompt: Annotated[str | None, "Prompt of the class prior."] = None
    prior_dir: Annotated[str | None, "Class pictures; missing ones are drawn first."] = None
    prior_count: Annotated[int, "How many class pictures."] = 100
    prior_weight: Annotated[float, "Weight of the class loss."] = 1.0
    flip: Annotated[bool, "Show every second picture mirrored."] = False
    caption_dropout: Annotated[float, "Share of captions left out, 0 to 1."] = 0.0
    rank: Annotated[int, "Rank of the low-rank factors."] = 8
    alpha: Annotated[float | None, "Scale numerator: delta = up @ down * alpha / rank; default, the rank."] = None
    target: Annotated[str, "attention, attention+ff, all, or a regular expression of module names."] = "attention"
    size: Annotated[int | None, "Side in pixels; default, the model's own."] = None
    steps: Annotated[int | None, "Optimizer steps; default, what suits the model."] = None
    batch_size: Annotated[int | None, "Pictures a step; default, what suits the model."] = None
    lr: Annotated[float | None, "Learning rate; default, what suits the model."] = None
    optimizer: Annotated[str, "adamw."] = "adamw"
    lr_schedule: Annotated[str, "constant, linear or cosine."] = "cosine"
    warmup: Annotated[int, "Steps over which the rate rises."] = 10
    min_snr: Annotated[float, "Cap of the loss weights (min-SNR); 0 turns it off."] = 5.0
    max_grad_norm: Annotated[float, "Gradients are scaled down to this norm; 0 turns it off."] = 1.0
    seed: Annotated[int, "Same seed, same result."] = 0

    def __post_init__(self) -> None:
        at_least = {"rank": 1, "steps": 1, "batch_size": 1, "size": 1, "prior_count": 1, "warmup": 0, "seed": 0}
        wrong = [
            f"--{name.replace('_', '-')} must be at least {least}, got {value}"
            for name, least in at_least.items()
            if (value := getattr(self, name)) is not None and value < least
        ]
        wrong += [f"--lr must be above 0, got {self.lr}"] * (self.lr is not None and not 0 < self.lr < float("inf"))
        wrong += [f"--alpha must be above 0, got {self.alpha}"] * (self.alpha is not None and not self.alpha > 0)
        wrong += [f"--caption-dropout must be 0 to 1, got {self.caption_dropout}"] * (
            not 0 <= self.caption_dropout <= 1
        )
        wrong += [f"--optimizer {self.optimizer} is not built yet (there is: adamw)"] * (self.optimizer != "adamw")
        if self.lr_schedule not in ("constant", "linear", "cosine"):
            wrong.append(f"--lr-schedule {self.lr_schedule}: there are constant, linear, cosine")
        if wrong:
            raise UsageError("\n".join(wrong))

    def suited(self) -> "TrainConfig":
        """With every number that was left to the model filled in."""
        table = SUITED_FULL if self.mode == "full" else SUITED
        suited = table.get(self.model, table[""])
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: value for name, value in suited.items() if values[name] is None}
        values["alpha"] = self.alpha or float(self.rank)
        return TrainConfig(**values)
