import pytest
import torch

from lorakit.deltas.low_rank import LowRank
from lorakit.registry import MERGE_METHODS


@pytest.mark.parametrize("method", MERGE_METHODS.names())
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (4, 5, 3, 3)])
def test_a_lone_delta_is_scaled_by_its_weight(method, shape):
    down, up = torch.randn(2, *shape[1:]), torch.randn(shape[0], 2, *[1] * (len(shape) - 2))
    part, kept = LowRank(down, up, 1.0), (down.clone(), up.clone())
    merged_up, merged_down = MERGE_METHODS[method].merge([part, None], [0.7, 0.3])
    torch.testing.assert_close((merged_up @ merged_down).reshape(shape), 0.7 * part.delta())
    assert torch.equal(down, kept[0]) and torch.equal(up, kept[1])
