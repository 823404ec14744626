import pytest
import torch

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.models import inject
from lorakit.models.load import load
from lorakit.registry import MODES
from lorakit.training.cache import Cached
from lorakit.training.loop import Optimizer, Plan, train
from lorakit.training.objective import Source, objective
from tests.tiny import make


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("name", MODES.names())
def test_one_step_changes_what_the_mode_trains_and_nothing_else(name, family, tmp_path):
    components = load(str(make(tmp_path / "model", family)), torch.device("cpu"), torch.float32)
    before = {key: value.clone() for key, value in components.unet.state_dict().items()}
    config = TrainConfig(mode=name, class_prompt="a", steps=1, batch_size=2, lr=1e-3, warmup=0).suited()
    trained = MODES[name].begin(components, config)
    start = {key: p.detach().clone() for key, p in trained.parameters.items()}
    means = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    source = Source("data", Cached(means, [torch.zeros_like(m) for m in means], [], ["a", "b"], [1, 1]), 2)
    states = {caption: torch.randn(32, 32) for caption in ("", "a", "b")}
    optimizer = Optimizer(trained.parameters)
    descend = objective(components, [source], states, list(trained.parameters.values()), 0, 5.0)
    (step,) = train(optimizer, descend, Plan(1, 1e-3, "constant", 0, 1.0))
    assert step.number == 1 and step.loss > 0
    moved = [key for key, p in trained.parameters.items() if not torch.equal(p, start[key])]
    result = trained.result()
    if isinstance(result, Adapter):
        assert {key for key in start if key.endswith(".up")} <= set(moved)
        inject.remove([components.unet])
        assert all(torch.equal(value, before[key]) for key, value in components.unet.state_dict().items())
    else:
        assert len(moved) == len(start) and result.keys() == before.keys()
