"""What a training run depends on besides its data. The one place for a default, its type and its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Annotated, Any, get_args, get_type_hints

from lorakit import effects
from lorakit.effects import Only
from lorakit.errors import UsageError
from lorakit.fields import Bounds, Flags, OneOf, option, refuse_faults
from lorakit.patterns import Pattern
from lorakit.process_config import Overrides
from lorakit.registry import MODES, OPTIMIZERS, TRAINABLE

# What suits a model of this size, where the user names nothing. The built-in model is small and learns fast.
SUITED: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 300, "batch_size": 8, "lr": 2e-3, "lr_text": 5e-4, "lr_token": 1e-2, "ti_steps": 150},
    "": {"steps": 1000, "batch_size": 1, "lr": 1e-4, "lr_text": 5e-5, "lr_token": 5e-4, "ti_steps": 500},
}
SUITED_FULL = {"tiny": {"steps": 250, "lr": 3e-4, "lr_text": 1e-4}, "": {"lr": 2e-6, "lr_text": 2e-6}}
TARGETS = ("attention", "attention+ff", "all")
RATES = ("lr", "lr_text", "lr_token")


class Recorded(Enum):
    """A mark of a text option: what `train --config ADAPTER` takes over of it from the metadata of a file.

    Numbers and flags of the config are taken over without a mark. Text without one is not, since it can name files, and
    an option that is no part of the config is not either: where to write, and how, is for the user to say.
    """

    ANY = "any value"
    NAME = "a name that lorakit gives a meaning, and no path, hub id or import path"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of `train`, and the notes in its output."""

    mode: Annotated[str, "What is trained.", OneOf(MODES.names), Recorded.ANY] = "lora"
    model: Annotated[
        str,
        "tiny (built in), sd15, sd21, sdxl, a hub id, a folder or one checkpoint file.",
        Flags("--model", "-m"),
        Recorded.NAME,
    ] = "tiny"
    tokenizer: Annotated[str | None, "Folder of another tokenizer than the model's; most single files have none."] = (
        None
    )
    vae: Annotated[str | None, "Another autoencoder than the model's: a hub id, a folder or a file."] = None
    prediction_type: Annotated[
        str | None, "epsilon, v_prediction, sample or flow, whatever the model says of itself.", Recorded.ANY
    ] = None
    zero_snr: Annotated[bool | None, "Whether the model's noise ends in zero terminal SNR, whatever it says."] = None
    shift: Annotated[float | None, "Of a rectified flow, whatever the model says."] = None

    instance_prompt: Annotated[
        str | None, "One prompt for all pictures, instead of their captions.", Recorded.ANY, effects.CAPTIONS
    ] = None
    class_prompt: Annotated[str | None, "Prompt of the class prior.", Recorded.ANY, effects.BUT_TI] = None
    prior_dir: Annotated[
        str | None, "Your class pictures; all are used, and what is missing to --prior-count is drawn.", effects.BUT_TI
    ] = None
    prior_count: Annotated[int, "How many class pictures.", Bounds(least=1), effects.PRIOR] = 100
    prior_weight: Annotated[float, "Weight of the class loss.", Bounds(least=0.0), effects.PRIOR] = 1.0
    prior_target: Annotated[
        str,
        "What class pictures are learnt from; teacher is what the untrained model says of them.",
        OneOf(lambda: ("noise", "teacher")),
        Recorded.ANY,
        effects.PRIOR,
    ] = "noise"
    token: Annotated[list[str], "Placeholder token to learn, such as <s1>; repeatable.", Recorded.ANY] = field(
        default_factory=list
    )
    init_token: Annotated[
        list[str], "Words that a token starts from; one for all, or one for each.", Recorded.ANY, effects.TOKENS
    ] = field(default_factory=list)
    vectors: Annotated[int, "Vectors of each token.", Bounds(least=1), effects.TOKENS] = 1
    template: Annotated[
        str,
        "Sentences that tokens are learnt in.",
        OneOf(lambda: ("object", "style", "none")),
        Recorded.ANY,
        effects.TOKENS,
    ] = "none"
    token_norm: Annotated[
        float, "Norm that learned vectors are drawn to; 0 leaves them.", Bounds(least=0.0), effects.TOKENS
    ] = 0.0

    repeats: Annotated[
        str,
        "How often an epoch shows a picture: auto (numbers in tables and in names of folders as 10_dog, as far as they are "
        "plausible), kohya (whatever the numbers), none (once), or a number for all.",
        Recorded.ANY,
    ] = "auto"
    mask_weight: Annotated[
        float | None, "Weight of what a mask leaves out, 0 to 1; masks are read where given.", Bounds(least=0, most=1)
    ] = None
    flip: Annotated[bool, "Show every second picture mirrored."] = False
    caption_dropout: Annotated[float, "Share of captions left out, 0 to 1.", Bounds(least=0, most=1)] = 0.0
    tag_dropout: Annotated[float, "Share of comma-separated tags left out, 0 to 1.", Bounds(least=0, most=1)] = 0.0
    shuffle_tags: Annotated[bool, "Show the tags in another order each time.", effects.MOVED_TAGS] = False
    keep_tokens: Annotated[int, "So many tags at the front stay in place.", Bounds(least=0), effects.TAGS] = 0
    keep_separator: Annotated[str, "Tags before this mark stay in place.", Recorded.ANY, effects.TAGS] = ""
    caption_separator: Annotated[str, "What stands between tags.", Recorded.ANY, effects.SEPARATOR] = ","
    wildcards: Annotated[bool, "Take one of the choices of {red|blue} in captions."] = False
    tag_warmup: Annotated[
        int, "Epochs over which the tags come in one after another.", Bounds(least=0), effects.MOVED_TAGS
    ] = 0
    caption_prefix: Annotated[str, "Put before every caption.", Recorded.ANY] = ""
    caption_suffix: Annotated[str, "Put after every caption.", Recorded.ANY] = ""
    size: Annotated[int | None, "Side in pixels; default, the model's own.", Bounds(least=1)] = None
    upscale: Annotated[bool, "Enlarge pictures that are smaller than --size."] = False
    validation_split: Annotated[float, "Share of the pictures held out, 0 to 0.5.", Bounds(least=0, most=0.5)] = 0.0

    rank: Annotated[int, "Rank of the low-rank factors.", Bounds(least=1), effects.ADAPTERS] = 8
    alpha: Annotated[
        float | None,
        "Scale numerator: delta = up @ down * alpha / rank; default, the rank.",
        Bounds(above=0),
        effects.ADAPTERS,
    ] = None
    target: Annotated[
        str, "attention, attention+ff, all, or a regular expression of module names.", Recorded.ANY, effects.ADAPTERS
    ] = "attention"
    text_encoder: Annotated[bool, "Train the text encoder too.", effects.BUT_TI] = False
    text_steps: Annotated[
        int | None, "Steps after which the text encoder rests; default, never.", Bounds(least=0), effects.TEXT
    ] = None
    dropout: Annotated[
        float, "Share of the adapter's inner numbers left out, 0 to 1.", Bounds(least=0, most=1), effects.ADAPTERS
    ] = 0.0
    variant: Annotated[
        str, "What an adapter learns beside a layer.", OneOf(TRAINABLE.names), Recorded.ANY, effects.ADAPTERS
    ] = "lora"
    dora_axis: Annotated[
        str,
        "What DoRA learns a length of: output (rows; diffusers and PEFT read it), input (columns; ComfyUI and A1111 do), or "
        "auto, what the programs that read the --format apply.",
        Recorded.ANY,
        effects.DORA,
    ] = "auto"
    init: Annotated[
        str, "How factors start.", OneOf(lambda: ("gaussian", "kaiming", "pissa")), Recorded.ANY, effects.INIT
    ] = "gaussian"
    init_from: Annotated[str | None, "Adapter to go on from, in any format.", effects.ADAPTERS] = None
    block_rank: Annotated[
        list[str],
        "PATTERN=RANK[:ALPHA][@RATE] or PATTERN=off; the first that matches a module wins; repeatable.",
        Recorded.ANY,
        effects.ADAPTERS,
    ] = field(default_factory=list)
    lora_plus: Annotated[
        float, "Rate of the up factors over that of the down factors (LoRA+).", Bounds(above=0), effects.ADAPTERS
    ] = 1.0

    steps: Annotated[int | None, "Optimizer steps; default, what suits the model.", Bounds(least=1)] = None
    ti_steps: Annotated[
        int | None, "Steps of pivotal's first phase, tokens alone.", Bounds(least=1), effects.PIVOTAL
    ] = None
    joint: Annotated[
        str,
        "How pivotal refines token and adapter.",
        OneOf(lambda: ("alternate", "together", "off")),
        Recorded.ANY,
        effects.PIVOTAL,
    ] = "alternate"
    joint_token_weight: Annotated[
        float, "Weight of the loss at the token's turns.", Bounds(least=0.0), effects.JOINT
    ] = 1.0
    batch_size: Annotated[
        int | None, "Pictures a step and process; default, what suits the model.", Bounds(least=1)
    ] = None
    accumulate: Annotated[int, "Batches a step.", Bounds(least=1)] = 1
    lr: Annotated[
        float | None, "Learning rate; default, what suits the model and the optimizer.", Bounds(above=0), effects.RATE
    ] = None
    lr_text: Annotated[float | None, "Rate of the text encoder's adapter.", Bounds(above=0), effects.TEXT] = None
    lr_token: Annotated[float | None, "Rate of learned tokens.", Bounds(above=0), effects.TOKENS] = None
    optimizer: Annotated[
        str,
        "How gradients become steps.",
        OneOf(OPTIMIZERS.names, "module:Class", lambda name: ":" in name),
        Recorded.NAME,
    ] = "adamw"
    optimizer_args: Annotated[list[str], "KEY=VALUE for the optimizer; repeatable.", Recorded.ANY] = field(
        default_factory=list
    )
    lr_schedule: Annotated[
        str,
        "How the rate goes from its peak to --floor of it.",
        OneOf(lambda: ("constant", "linear", "cosine", "cosine-restarts", "polynomial")),
        Recorded.ANY,
    ] = "cosine"
    warmup: Annotated[
        int | None, "Steps over which the rate rises; default 10, or half of a shorter run.", Bounds(least=0)
    ] = None
    cycles: Annotated[
        int | None,
        "How often cosine-restarts begins at the peak; default 3, or less in a run of few steps.",
        Bounds(least=1),
        effects.RESTARTS,
    ] = None
    power: Annotated[
        float, "Power of the polynomial schedule: 1 falls in a line.", Bounds(above=0), effects.POLYNOMIAL
    ] = 2.0
    floor: Annotated[
        float,
        "Share of the peak that rates have fallen to at the end, 0 to 1.",
        Bounds(least=0, most=1),
        effects.FALLING,
    ] = 0.2
    max_grad_norm: Annotated[float, "Gradients are scaled down to this norm; 0 turns it off.", Bounds(least=0.0)] = 1.0
    ema: Annotated[float, "Decay of averaged weights, such as 0.999; 0 turns it off.", Bounds(least=0, most=1)] = 0.0

    min_snr: Annotated[float, "Cap of the loss weights (min-SNR); 0 turns it off.", Bounds(least=0.0)] = 5.0
    debiased: Annotated[bool, "Debiased loss weights, instead of min-SNR."] = False
    v_like: Annotated[bool, "Loss weights as of a model that predicts v, instead of min-SNR."] = False
    loss: Annotated[
        str, "The loss between prediction and target.", OneOf(lambda: ("l2", "huber", "smooth-l1")), Recorded.ANY
    ] = "l2"
    huber: Annotated[
        float,
        "Where huber and smooth-l1 turn linear at the last timestep; at t of T it is HUBER^(t/(T-1)), 1 at the first. "
        "sd-scripts' exponential schedule has HUBER^(t/T).",
        Bounds(above=0),
        effects.HUBER,
    ] = 0.1
    noise_offset: Annotated[float, "Spread of an offset to each channel's noise.", Bounds(least=0.0)] = 0.0
    multires_noise: Annotated[float, "Share of coarser noise, 0 to 1.", Bounds(least=0, most=1)] = 0.0
    perturbation: Annotated[float, "Spread of extra noise in what the model sees.", Bounds(least=0.0)] = 0.0
    timesteps: Annotated[
        str, "How timesteps are drawn.", OneOf(lambda: ("uniform", "logit-normal", "importance")), Recorded.ANY
    ] = "uniform"
    stratify: Annotated[bool, "Spread the timesteps of each step's pictures evenly."] = False
    timestep_range: Annotated[str, "FIRST:LAST of the model's timesteps; empty, all.", Recorded.ANY] = ""

    gradient_checkpointing: Annotated[bool, "Less memory, about a third more time."] = False
    compile: Annotated[bool, "Compile the UNet's blocks (torch.compile)."] = False
    seed: Annotated[int, "Same seed, same result.", Bounds(least=0)] = 0

    def __post_init__(self) -> None:
        refuse_faults(self, [*self._choices(), *self._tokens(), *self._phases(), *self._of_model()])

    def _choices(self) -> list[str]:
        wrong = []
        if not re.fullmatch(r"auto|kohya|none|[1-9]\d{0,3}", self.repeats):
            wrong.append(f"--repeats {self.repeats}: there are auto, kohya, none, and numbers from 1 to 9999")
        if self.timestep_range and not re.fullmatch(r"\d+:\d+", self.timestep_range):
            wrong.append(f"--timestep-range {self.timestep_range}: expected FIRST:LAST, such as 0:500")
        if self.target not in TARGETS and (broken := _broken(self.target)):
            wrong.append(f"--target {self.target}: not a regular expression: {broken}")
        ways = {"--debiased": self.debiased, "--v-like": self.v_like, "--min-snr": self.min_snr not in (0, 5.0)}
        if sum(ways.values()) > 1:
            given = " and ".join(name for name, on in ways.items() if on)
            wrong.append(f"{given} are ways to weigh timesteps; choose one")
        return wrong

    def _of_model(self) -> list[str]:
        try:
            _ = self.of_model
        except UsageError as error:
            return [str(error)]
        return []

    def _tokens(self) -> list[str]:
        wrong = []
        if self.mode in effects.WITH_TOKENS and not self.token:
            wrong.append(f'--mode {self.mode} needs --token, such as --token "<s1>"')
        if self.token and self.mode not in effects.WITH_TOKENS:
            wrong.append(f"--token is for --mode ti and pivotal, not for {self.mode}")
        if len(self.init_token) > 1 and len(self.init_token) != len(self.token):
            wrong.append(
                f"{len(self.init_token)} --init-token for {len(self.token)} --token; give one, or one for each"
            )
        wrong += [f"{option(name)} is empty" for name in ("class_prompt", "prior_dir") if getattr(self, name) == ""]
        if len(set(self.token)) != len(self.token):
            wrong.append("--token is given twice with the same name")
        return wrong

    def _phases(self) -> list[str]:
        """What of a schedule does not fit into a phase of the run."""
        lengths = {"steps": self.steps}
        lengths |= {"ti_steps": self.ti_steps} if self.mode == "pivotal" else {}
        lengths |= {"text_steps": self.text_steps or None} if effects.TEXT.holds(self) else {}
        known = {option(name): length for name, length in lengths.items() if length is not None}
        return [
            f"--warmup {self.warmup} is not shorter than {name} {length}: the rate would never be reached"
            for name, length in known.items()
            if self.warmup and self.warmup >= length
        ] + [
            f"--cycles {self.cycles} do not fit into {name} {length}, each of two steps at least"
            for name, length in known.items()
            if self.lr_schedule == "cosine-restarts" and self.cycles is not None and 2 * self.cycles > length
        ]

    @property
    def has_prior(self) -> bool:
        """Whether class pictures are trained on beside the user's."""
        return self.mode == "dreambooth" or (self.mode != "ti" and bool(self.class_prompt or self.prior_dir))

    @property
    def sentences(self) -> str:
        """The template in force: none where no words are learnt."""
        return self.template if self.mode in effects.WITH_TOKENS else "none"

    def idle(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Options that were given and that a run of this config makes no use of, and what to say of each.

        sources   option to where its value came from. What a file or the environment has at its default is not given,
                  for configs are printed whole; nor is an option that is said to be off, and is
        """
        found = {}
        for name, only in self.marked():
            value, usual = getattr(self, name), self.__dataclass_fields__[name].default
            given = sources.get(name) == "option" and not (value == usual and value in (False, 0, "", "none"))
            if (given or value != usual) and value != [] and not only.holds(self):
                found[name] = f"{option(name)} has an effect only {only.when}"
        return found

    def chosen(self) -> dict[str, tuple[Any, str]]:
        """What is taken where the user left it open and the run makes use of it: field to (value, what it follows from)."""
        idle = {name for name, only in self.marked() if not only.holds(self)}
        return {name: value for name, value in self._suited().items() if name not in idle}

    def _suited(self) -> dict[str, tuple[Any, str]]:
        """A number for every field that was left open.

        Rates are those that suit AdamW on the model, times what the optimizer's own is to AdamW's; an optimizer that
        finds its rate by itself has its own for all parameters.
        """
        suited = dict(SUITED.get(self.model, SUITED[""]))
        if self.mode == "full":
            suited |= SUITED_FULL.get(self.model, SUITED_FULL[""])
        if self.mode == "ti":
            suited["steps"] = suited["ti_steps"] * 2
        found = {name: (value, "model") for name, value in suited.items()} | {"alpha": (float(self.rank), "rank")}
        if ":" not in self.optimizer and self.optimizer in OPTIMIZERS.names():
            own, usual = (OPTIMIZERS.stated(name, "RATE") for name in (self.optimizer, "adamw"))
            finds = OPTIMIZERS.stated(self.optimizer, "FINDS_RATE", False)
            if finds or own != usual:
                found |= {name: (own if finds else suited[name] * (own / usual), "optimizer") for name in RATES}
        return {name: value for name, value in found.items() if getattr(self, name) is None}

    def suited(self) -> TrainConfig:
        """With every number that was left open filled in."""
        return replace(self, **{name: value for name, (value, _) in self._suited().items()})

    @property
    def of_model(self) -> Overrides:
        """What is said of the model in place of what it says itself."""
        return Overrides(self.prediction_type, self.zero_snr, self.shift)

    @property
    def total(self) -> int:
        """Optimizer steps of all phases."""
        return (self.steps or 0) + (self.ti_steps or 0 if self.mode == "pivotal" else 0)

    @classmethod
    def marked(cls) -> list[tuple[str, Only]]:
        """The fields that some runs alone make use of, and which do."""
        hints = get_type_hints(cls, include_extras=True)
        marks = ((f.name, mark) for f in fields(cls) for mark in get_args(hints[f.name])[2:])
        return [(name, mark) for name, mark in marks if isinstance(mark, Only)]

    def values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _broken(pattern: str) -> str:
    try:
        Pattern(pattern)
    except ValueError as error:
        return str(error)
    return ""
