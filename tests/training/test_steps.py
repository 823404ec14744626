"""One training step of every family and process, against the arithmetic of diffusers' schedulers: loss and gradient."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from lorakit import process_config
from lorakit.config import TrainConfig
from lorakit.models.load import load
from lorakit.models.sample import Drawing, solver_of
from lorakit.modes import lora
from lorakit.runtime.world import World
from lorakit.training.objective import Objective
from lorakit.training.precision import precision
from lorakit.training.samples import TrainingSource
from lorakit.training.texts import Texts
from tests.support.cached import cached
from tests.support.saying import PROCESSES, says
from tests.tiny import FAMILIES, make

CPU = torch.device("cpu")


def run(folder, **options):
    config = TrainConfig(model=str(folder), batch_size=3, steps=3, min_snr=0.0, **options).suited()
    components = load(str(folder), CPU, torch.float32, wanted=config.of_model)
    source = TrainingSource(
        name="data",
        cached=cached([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]),
        captions=[("a",)] * 3,
        batch=3,
    )
    trained = lora.begin(components, config)
    with torch.no_grad():
        for i, p in enumerate(
            trained.parameters.values()
        ):  # up factors start at 0, and down ones then have no gradient
            p.copy_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    how = precision("float32", CPU, whole=False)
    return Objective(components, [source], Texts(components), config, World(), how, attached=trained.attached), trained


def theirs(objective, scheduler, t):
    """(noisy, target, what the model is told) by a config of theirs."""
    samples = objective.samples.at(0)
    clean, noise = (torch.stack([getattr(s, name) for s in samples]) for name in ("latents", "noise"))
    if process_config.is_flow(scheduler):
        solver = FlowMatchEulerDiscreteScheduler(shift=process_config.shift_of(scheduler))
        at = solver.timesteps.flip(0)[t]
        return solver.scale_noise(clean, at, noise), noise - clean, at
    solver = DDPMScheduler.from_config({**scheduler, "_class_name": "DDPMScheduler"})
    noisy = solver.add_noise(clean, noise, t)
    wanted = {"epsilon": noise, "sample": clean}.get(solver.config.prediction_type)
    return noisy, solver.get_velocity(clean, noise, t) if wanted is None else wanted, t


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_diffusers(tmp_path, family, name):
    objective, trained = run(says(make(tmp_path / "m", family), PROCESSES[name]))
    parameters = [*trained.parameters.values()]
    done = objective(0, parameters)
    samples = objective.samples.at(0)
    t = torch.tensor([s.timestep for s in samples])
    noisy, wanted, told = theirs(objective, PROCESSES[name], t)
    text = objective.texts(0, [s.caption for s in samples])
    components = objective.components
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(3, -1)  # whole pictures
    added = {"text_embeds": text.pooled, "time_ids": sizes} if components.sized else None
    answer = components.unet(noisy, told, text.states, added_cond_kwargs=added).sample
    loss = (answer - wanted).square().mean()
    torch.testing.assert_close(done.loss, loss, rtol=1e-5, atol=1e-6)
    for mine, own in zip(done.gradients, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-6)
    assert max(float(g.abs().max()) for g in done.gradients) > 1e-5


def test_what_the_user_says_is_what_is_trained(tmp_path):
    folder = make(tmp_path / "m", "sdxl")
    plain, _ = run(folder)
    for options, name in (
        ({"prediction_type": "flow", "shift": 2.5}, "flow"),
        ({"prediction_type": "v_prediction", "zero_snr": True}, "v, zero"),
    ):
        other, trained = run(folder, **options)
        parameters = [*trained.parameters.values()]
        same, again = run(says(make(tmp_path / name, "sdxl"), PROCESSES[name]))
        mine, own = other(0, parameters), same(0, [*again.parameters.values()])
        torch.testing.assert_close(mine.loss, own.loss)
        assert mine.timesteps.tolist() == own.timesteps.tolist() == plain(0, parameters).timesteps.tolist()


def test_min_snr_leaves_a_flow_alone(tmp_path):
    folder = says(make(tmp_path / "m", "sdxl"), PROCESSES["flow"])
    objective, trained = run(folder)
    weighed = Objective(
        objective.components,
        objective.samples.sources,
        objective.texts,
        TrainConfig(batch_size=3, steps=3).suited(),
        World(),
        objective.precision,
        attached=trained.attached,
    )
    parameters = [*trained.parameters.values()]
    assert weighed(0, parameters).loss == objective(0, parameters).loss


def test_a_flow_that_grows_with_the_picture_is_one_of_its_shift(tmp_path):
    growing = {**PROCESSES["flow"], "use_dynamic_shifting": True, "base_shift": 0.3}
    grown, trained = run(says(make(tmp_path / "grown", "sdxl"), growing))
    length = 16 * 16 // 4
    shift = math.exp(0.3 + (1.15 - 0.3) / (4096 - 256) * (length - 256))
    plain, again = run(says(make(tmp_path / "plain", "sdxl"), {**PROCESSES["flow"], "shift": shift}))
    mine, own = grown(0, [*trained.parameters.values()]), plain(0, [*again.parameters.values()])
    torch.testing.assert_close(mine.loss, own.loss, rtol=1e-6, atol=0)
    side = 16 * grown.components.vae_factor
    how = Drawing(size=(side, side), steps=4, guidance=1.0, scheduler="euler")
    times = [solver_of(one.components, how).times for one in (grown, plain)]
    torch.testing.assert_close(*times)
    assert not torch.allclose(times[0], solver_of(grown.components, replace(how, size=(2 * side, side))).times)
