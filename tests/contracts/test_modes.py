import pytest
import torch

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.models.load import load
from lorakit.registry import MODES
from lorakit.runtime.world import World
from lorakit.training import loop, optimizers
from lorakit.training.objective import Objective
from lorakit.training.placed import Hidden
from lorakit.training.precision import precision
from lorakit.training.samples import TrainingSource
from lorakit.training.texts import Texts
from tests.support.cached import cached
from tests.tiny import make


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("name", MODES.names())
def test_one_step_changes_what_the_mode_trains_and_nothing_else(name, family, tmp_path):
    components = load(str(make(tmp_path / "model", family)), torch.device("cpu"), torch.float32)
    before = {part: _weights(module) for part, module in components.parts.items()}
    tokens = {"token": ["<s1>"]} if name in ("ti", "pivotal") else {}
    rates = {"lr": 1e-3, "lr_text": 1e-3, "lr_token": 1e-2, "ti_steps": 1}
    config = TrainConfig(mode=name, steps=2, batch_size=2, warmup=0, text_encoder=True, **rates, **tokens).suited()
    trained = MODES[name].begin(components, config)
    start = {key: p.detach().clone() for key, p in trained.parameters.items()}
    means = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    source = TrainingSource(name="data", cached=cached(means), captions=[("a <s1>",), ("b <s1>",)], batch=2)
    objective = Objective(
        components,
        [source],
        Texts(components, trained.text_until),
        config,
        World(),
        precision("float32", components.device, whole=name == "full"),
        attached=trained.attached,
    )
    optimizer = loop.optimizer_of(trained.groups, lambda inner: optimizers.make("adamw", inner, 0.0))
    steps = list(loop.train(optimizer, trained.groups, objective, 2, after=trained.after))
    assert [step.number for step in steps] == [1, 2] and all(step.loss > 0 for step in steps)
    moved = {key for key, p in trained.parameters.items() if not torch.equal(p, start[key])}
    result = trained.result()
    if isinstance(result, Adapter):
        learn = {key for key in start if key.endswith(".up") or key.startswith("tokens.")}
        if family == "sdxl":  # it takes the last but one layer of both encoders, so the first one's last does nothing
            learn = {key for key in learn if not key.startswith("text_encoder.text_model.encoder.layers.1.")}
        assert learn <= moved
        assert bool(result.embeddings) == bool(tokens) and bool(result.modules) == MODES[name].ADAPTERS
        if trained.attached is not None:
            trained.attached.detach()
        for part, module in components.parts.items():
            now = _weights(module)
            assert all(torch.equal(now[key], x) for key, x in before[part].items())
    else:
        assert {key.partition(".")[0] for key in moved} == set(components.parts) and len(result) == len(start)


def test_an_inpainting_model_learns_to_fill_in(tmp_path):
    """Its UNet takes a mask and the latents of what it leaves: other masks, another loss."""
    components = load(str(make(tmp_path / "model", inputs=9)), torch.device("cpu"), torch.float32)
    config = TrainConfig(batch_size=2, steps=1).suited()
    trained = MODES["lora"].begin(components, config)
    picture = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))

    def loss(mask: torch.Tensor) -> float:
        hidden = [Hidden(mask, picture * (1 - mask), torch.zeros_like(picture))]
        objective = Objective(
            components,
            [
                TrainingSource(
                    name="data", cached=cached([picture] * 2, hidden=hidden), captions=[("a",), ("b",)], batch=2
                )
            ],
            Texts(components),
            config,
            World(),
            precision("float32", components.device, whole=False),
            attached=trained.attached,
        )
        return float(objective(0, list(trained.parameters.values())).loss)

    assert loss(torch.ones(1, 16, 16)) == loss(torch.ones(1, 16, 16)) != loss(torch.zeros(1, 16, 16))


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of a part, the table of words under its own name, whatever stands beside it."""
    return {key.replace("token_embedding.base", "token_embedding"): x.clone() for key, x in module.state_dict().items()}
