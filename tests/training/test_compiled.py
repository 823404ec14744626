from torch import nn

from lorakit.training.compiled import compile_blocks


class Blocks(nn.Sequential):
    def compile_repeated_blocks(self):
        for block in self:
            block.compile(backend="eager")


def test_what_does_not_compile_goes_on_uncompiled_with_one_line():
    said, blocks = [], Blocks(nn.Linear(2, 2), nn.Linear(2, 2))

    def probe():
        raise RuntimeError("no compiler\nwith a long story")

    assert not compile_blocks(blocks, probe, said.append)
    assert said == ["--compile: RuntimeError: no compiler; going on without it"]
    assert all(block._compiled_call_impl is None for block in blocks)


def test_what_compiles_stays_compiled():
    said, blocks = [], Blocks(nn.Linear(2, 2))
    assert compile_blocks(blocks, lambda: None, said.append)
    assert said == [] and blocks[0]._compiled_call_impl is not None
