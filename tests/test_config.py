"""What a run takes where its user names nothing."""

import pytest

from lorakit.config import RATES, TrainConfig
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


IDLE = {
    "lr_text": ({"lr_text": 5e-5}, {"text_encoder": True}),
    "text_steps": ({"text_steps": 5}, {"text_encoder": True}),
    "keep_tokens": ({"keep_tokens": 1}, {"shuffle_tags": True}),
    "huber": ({"huber": 0.5}, {"loss": "huber"}),
    "vectors": ({"vectors": 4}, {"mode": "ti", "token": ["<s1>"]}),
    "init_token": ({"init_token": ["dog"]}, {"mode": "pivotal", "token": ["<s1>"]}),
    "rank": ({"rank": 4, "mode": "full"}, {"mode": "lora"}),
    "prior_count": ({"prior_count": 4}, {"class_prompt": "a dog"}),
    "cycles": ({"cycles": 2}, {"lr_schedule": "cosine-restarts"}),
    "joint": ({"joint": "off"}, {"mode": "pivotal", "token": ["<s1>"]}),
    "dora_axis": ({"dora_axis": "input"}, {"variant": "dora"}),
}


@pytest.mark.parametrize("name", IDLE)
def test_an_option_that_the_run_makes_no_use_of_is_told(name):
    given, needed = IDLE[name]
    sources = {name: "option"}
    (line,) = TrainConfig(**given).without_effect(sources, ("option",))
    assert line.startswith(f"--{name.replace('_', '-')} has an effect only ")
    assert TrainConfig(**{**given, **needed}).without_effect(sources, ("option",)) == []
    assert TrainConfig(**given).without_effect(sources, ("file",)) == []  # it was not the file that said it
    assert TrainConfig().without_effect({name: "option"}, ("option",)) == []  # what stands at its default says nothing


@pytest.mark.parametrize(
    "mode", [{}, {"mode": "ti", "token": ["<s1>"]}, {"mode": "pivotal", "token": ["<s1>"]}, {"mode": "full"}]
)
def test_what_is_chosen_for_a_run_is_what_it_makes_use_of(mode):
    config = TrainConfig(**mode)
    chosen = config.chosen()
    assert (
        TrainConfig(**{**mode, **{n: v for n, (v, _) in chosen.items()}}).without_effect(
            dict.fromkeys(chosen, "file"), ("file",)
        )
        == []
    )
    assert ("lr_token" in chosen) == (mode.get("mode") in ("ti", "pivotal")) and "lr_text" not in chosen
    assert all(value is not None for value in (config.suited().lr, config.suited().lr_text, config.suited().lr_token))


@pytest.mark.parametrize("more", [{"steps": 10}, {"mode": "pivotal", "token": ["<s1>"], "steps": 100, "ti_steps": 10}])
def test_a_warm_up_that_outlasts_its_phase_is_an_error(more):
    with pytest.raises(UsageError, match=r"--warmup 10 is not shorter than --(ti-)?steps 10"):
        TrainConfig(warmup=10, **more)
    assert TrainConfig(warmup=9, **more).warmup == 9 and TrainConfig(**more).warmup is None
