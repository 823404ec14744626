"""The GPU's way, on torch's CPU device and, where there is one, on a GPU: the same triplets as numpy's."""

import numpy as np
import pytest
import torch

from lorakit.arrays import Stored, cast, raw
from lorakit.lowrank import on_device
from lorakit.lowrank.ranks import RankRule
from lorakit.lowrank.solve import Way, solve
from tests.support.matrices import fine_tuned, with_values

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def there(request):
    if "cuda" in request.node.name and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", [(200, 320), (320, 200), (40, 30, 3, 3)])
def test_it_takes_what_numpy_takes(device, exact, shape):
    delta = fine_tuned(shape[0], int(np.prod(shape[1:]))).reshape(shape)
    way = Way(RankRule("fixed", 8), exact=exact)
    here, there = solve("m", delta, way), solve("m", torch.from_numpy(delta).to(device), way)
    assert here.kept == pytest.approx(there.kept, rel=1e-5) and there.of_optimum > 0.999
    np.testing.assert_allclose(there.values, here.values, rtol=1e-3)
    assert isinstance(there.delta.down, np.ndarray)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", [RankRule("energy", 0.9), RankRule("full"), RankRule("budget", 9999.0, 4)])
def test_every_rule_works_there(device, rule):
    delta = with_values(60, 50, [3.0, 2.0, 1.0])
    here, there = solve("m", delta, Way(rule)), solve("m", torch.from_numpy(delta).to(device), Way(rule))
    assert here.rank == there.rank


@pytest.mark.parametrize("device", DEVICES)
def test_kernels_with_a_core_and_clamping_work_there(device):
    delta = fine_tuned(32, 288).reshape(32, 32, 3, 3)
    for way in (Way(RankRule("fixed", 4), tucker=True), Way(RankRule("fixed", 4), quantile=0.9)):
        here, there = solve("m", delta, way), solve("m", torch.from_numpy(delta).to(device), way)
        assert there.kept == pytest.approx(here.kept, rel=1e-4) and there.delta.kind == here.delta.kind


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_differences_are_those_of_the_values(device, kind):
    def stored(values):
        data = bytes(raw(cast(np.asarray(values, "f4"), kind)))
        return Stored(kind, (len(values),), lambda: data)

    where = on_device.device(device)
    found = on_device.difference(stored([1.0, 2.5, 3.0]), stored([1.0, 2.0, 4.0]), where)
    assert found.tolist() == [0.0, 0.5, -1.0]
    assert on_device.difference(stored([1.0]), stored([1.0]), where) is None
    with pytest.raises(ValueError, match="NaN or infinity"):
        on_device.difference(stored([np.inf]), stored([np.inf]), where)
