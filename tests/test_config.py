"""What a run takes where its user names nothing."""

import pytest

from lorakit.config import RATES, TrainConfig
from lorakit.effects import refuse_idle
from lorakit.errors import UsageError
from lorakit.registry import OPTIMIZERS


def rates(**options: object) -> list[float]:
    config = TrainConfig(**options).suited()  # type: ignore[arg-type]
    return [getattr(config, name) for name in RATES]


def test_an_optimizer_that_finds_its_rate_is_told_its_own_for_everything():
    assert rates(optimizer="prodigy") == rates(optimizer="prodigy", model="sd15", mode="full") == [1.0] * 3
    assert rates(optimizer="prodigy", lr_text=0.5) == [1.0, 0.5, 1.0]


def test_rates_are_adamws_times_what_an_optimizers_own_is_to_its():
    assert rates(optimizer="lion", model="sd15") == pytest.approx([2e-5, 1e-5, 1e-4])  # a fifth
    assert rates(optimizer="lion") == pytest.approx([4e-4, 1e-4, 2e-3])
    assert rates(optimizer="schedulefree", model="sd15", mode="full")[0] == pytest.approx(6e-6)  # three times
    assert rates(optimizer="adamw8bit") == rates() == rates(optimizer="torch.optim:SGD") == [2e-3, 5e-4, 1e-2]


def test_it_is_told_what_each_number_follows_from():
    chosen = TrainConfig(optimizer="prodigy", lr=0.1, steps=7, text_encoder=True).chosen()
    assert chosen["lr_text"] == (1.0, "optimizer") and chosen["batch_size"] == (8, "model")
    assert chosen["alpha"] == (8.0, "rank") and "lr" not in chosen and "steps" not in chosen


def test_constants_are_read_as_they_would_be_imported():
    for name in OPTIMIZERS.names():
        assert OPTIMIZERS.stated(name, "RATE") == OPTIMIZERS[name].RATE
    assert OPTIMIZERS.stated("adamw", "FINDS_RATE", False) is False


TI, PIVOTAL, FULL = {"mode": "ti", "token": ["<s1>"]}, {"mode": "pivotal", "token": ["<s1>"]}, {"mode": "full"}
OF_ADAPTERS = (FULL, {})
# By option with a mark: a value, a config that makes no use of it, and one that does.
USES: dict[str, tuple[object, dict[str, object], dict[str, object]]] = {
    "instance_prompt": ("x", TI | {"template": "object"}, TI),
    "class_prompt": ("x", TI, FULL),
    "prior_dir": ("x", TI, PIVOTAL),
    "prior_count": (4, {}, {"class_prompt": "x"}),
    "prior_weight": (0.5, {}, {"prior_dir": "x"}),
    "prior_target": ("teacher", {}, {"mode": "dreambooth"}),
    "init_token": (["dog"], {}, PIVOTAL),
    "vectors": (4, {}, TI),
    "template": ("style", FULL, TI),
    "token_norm": (1.0, {}, TI),
    "shuffle_tags": (True, TI | {"template": "style"}, TI),
    "tag_warmup": (3, TI | {"template": "style"}, {}),
    "keep_tokens": (1, {}, {"shuffle_tags": True}),
    "keep_separator": ("|||", {}, {"tag_dropout": 0.5}),
    "caption_separator": (";", {}, {"caption_suffix": "x"}),
    "text_encoder": (True, TI, FULL),
    "text_steps": (5, {}, FULL | {"text_encoder": True}),
    "lr_text": (5e-5, {}, {"text_encoder": True}),
    "rank": (4, *OF_ADAPTERS),
    "alpha": (4.0, *OF_ADAPTERS),
    "target": ("all", *OF_ADAPTERS),
    "dropout": (0.5, *OF_ADAPTERS),
    "variant": ("dora", *OF_ADAPTERS),
    "init_from": ("x", *OF_ADAPTERS),
    "block_rank": (["mid=2"], *OF_ADAPTERS),
    "lora_plus": (4.0, *OF_ADAPTERS),
    "init": ("kaiming", {"variant": "loha"}, {"variant": "dora"}),
    "dora_axis": ("input", {}, {"variant": "dora"}),
    "ti_steps": (50, TI, PIVOTAL),
    "joint": ("off", {}, PIVOTAL),
    "joint_token_weight": (0.5, PIVOTAL | {"joint": "off"}, PIVOTAL),
    "lr": (0.1, TI, FULL),
    "lr_token": (0.1, FULL, TI),
    "cycles": (2, {}, {"lr_schedule": "cosine-restarts"}),
    "power": (1.0, {}, {"lr_schedule": "polynomial"}),
    "floor": (0.0, {"lr_schedule": "constant"}, {"lr_schedule": "linear"}),
    "huber": (0.5, {}, {"loss": "smooth-l1"}),
}


def test_every_mark_is_tried():
    assert {name for name, _ in TrainConfig.marked()} == USES.keys()


@pytest.mark.parametrize("name", USES)
def test_an_option_that_the_run_makes_no_use_of_is_told(name):
    value, without, needed = USES[name]
    for source in ("option", "file", "environment"):
        idle, used = (TrainConfig(**{**config, name: value}) for config in (without, needed))
        assert name not in used.idle({name: source})
        assert idle.idle({name: source})[name].startswith(f"--{name.replace('_', '-')} has an effect only ")
    usual = TrainConfig(**without)
    assert name not in usual.idle({name: "file"}) and name not in usual.idle({name: "default"})


def test_what_stands_at_its_default_counts_as_given_on_the_command_line_alone_and_only_where_it_is_not_off():
    given = dict.fromkeys(("vectors", "prior_count", "keep_tokens", "template", "init_token"), "option")
    assert TrainConfig().idle(given).keys() == {"vectors", "prior_count"}


def test_options_are_refused_and_settings_of_a_file_are_noted():
    idle, said = {"huber": "--huber is idle", "rank": "--rank is idle", "lr": "--lr is idle"}, list[str]()
    refuse_idle(idle, {"huber": "file", "rank": "environment", "lr": "default"}, said.append)
    assert said == ["settings that this run makes no use of: --huber is idle; --rank is idle"]
    with pytest.raises(UsageError, match=r"^--rank is idle$"):
        refuse_idle(idle, {"huber": "file", "rank": "option"}, said.append)


@pytest.mark.parametrize("mode", [{}, TI, PIVOTAL, FULL])
def test_what_is_chosen_for_a_run_is_what_it_makes_use_of(mode):
    config = TrainConfig(**mode)
    chosen = config.chosen()
    whole = TrainConfig(**{**mode, **{name: value for name, (value, _) in chosen.items()}})
    assert whole.idle(dict.fromkeys(chosen, "file")) == {}
    assert ("lr_token" in chosen) == (mode.get("mode") in ("ti", "pivotal")) and "lr_text" not in chosen
    assert all(value is not None for value in (config.suited().lr, config.suited().lr_text, config.suited().lr_token))


@pytest.mark.parametrize(
    "more",
    [{"steps": 10}, PIVOTAL | {"steps": 100, "ti_steps": 10}, {"steps": 100, "text_encoder": True, "text_steps": 10}],
)
def test_a_warm_up_that_outlasts_its_phase_is_an_error(more):
    with pytest.raises(UsageError, match=r"--warmup 10 is not shorter than --(ti-|text-)?steps 10"):
        TrainConfig(warmup=10, **more)
    assert TrainConfig(warmup=9, **more).warmup == 9 and TrainConfig(**more).warmup is None


def test_cycles_that_do_not_fit_into_the_run_are_an_error():
    with pytest.raises(UsageError, match="--cycles 6 do not fit into --steps 10"):
        TrainConfig(lr_schedule="cosine-restarts", cycles=6, steps=10)
    assert TrainConfig(lr_schedule="cosine-restarts", cycles=5, steps=10).cycles == 5
    assert TrainConfig(lr_schedule="cosine-restarts", steps=2).cycles is None
