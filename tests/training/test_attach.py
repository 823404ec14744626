"""Variants on whole models: names, rules, presets, threads, checkpointing, the first step."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lorakit import deltas
from lorakit.deltas.low_rank import LowRank
from lorakit.diffusion.noise import normal
from lorakit.errors import InputError, UsageError
from lorakit.registry import TRAINABLE
from lorakit.targets import is_known
from lorakit.training.variants import TargetRule, attach, parse, table, targets


def draw(shape, key):
    return normal(shape, "attach", key)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    )
    unet.requires_grad_(False), text.requires_grad_(False)
    return {"unet": unet.train(), "text_encoder": text}


X = normal((2, 4, 8, 8), "x")
STATES = normal((2, 5, 24), "states")


def said(unet, x=X, states=STATES):
    return unet(x, torch.full((len(x),), 5), states).sample


@contextlib.contextmanager
def attached(parts, target="attention", variant="lora", rules=(), rank=4, move=True, **options):
    found = attach(targets(parts, target, rules, rank, None), TRAINABLE[variant], draw, **options)
    if move:
        with torch.no_grad():
            for name, p in found.parameters.items():
                p.add_(0.1 * draw(tuple(p.shape), f"moved {name}"))
    try:
        yield found
    finally:
        found.detach()


@pytest.mark.parametrize("variant", TRAINABLE.names())
@pytest.mark.parametrize("target", ["attention", "all"])
def test_a_whole_unet_says_what_its_merged_weights_say(parts, variant, target):
    unet = parts["unet"]
    before = said(unet)
    with attached(parts, target, variant) as found:
        live, written = said(unet), found.deltas()
        gradients = torch.autograd.grad(
            live.square().mean(), [p for n, p in found.parameters.items() if n[:4] == "unet"]
        )
        assert all(bool(g.isfinite().all() and g.abs().sum() > 0) for g in gradients)
    assert torch.equal(said(unet), before)
    kept = {name: x.clone() for name, x in unet.state_dict().items()}
    with torch.no_grad():
        for name, delta in written.items():
            if name.startswith("unet."):
                weight = unet.get_submodule(name[5:]).weight
                weight += torch.as_tensor(delta.delta(weight)).view_as(weight)
        merged = said(unet)
    unet.load_state_dict(kept)
    assert float(((live - merged).norm() / (merged - before).norm()).detach()) < 1e-3


def test_text_encoders_are_trained_under_the_names_that_files_have(parts):
    tokens = torch.tensor([[1, 5, 9, 2]])
    before = parts["text_encoder"](tokens).last_hidden_state
    with attached({"text_encoder": parts["text_encoder"]}) as found:
        assert len(found.branches) == 8 and all(is_known(name) for name in found.branches)
        assert next(iter(found.branches)) == "text_encoder.text_model.encoder.layers.0.self_attn.k_proj"
        assert not torch.equal(parts["text_encoder"](tokens).last_hidden_state, before)
    assert torch.equal(parts["text_encoder"](tokens).last_hidden_state, before)


def test_presets_name_what_they_say(parts):
    def found(preset: str) -> set[str]:
        return {t.name for t in targets({"unet": parts["unet"]}, preset, [], 4, None)}

    assert all(".attn" in name for name in found("attention")) and found("attn2") < found("attention")
    assert all(".attn" in name or ".ff." in name for name in found("attention+ff"))
    assert found("attention") < found("attention+ff") < found("all")
    assert any(".resnets." in name for name in found("all"))
    assert all(is_known(t.name) for t in targets(parts, "all", [], 4, None))


def test_the_first_rule_that_matches_decides(parts):
    rules = [
        TargetRule(pattern=r"down_blocks.*to_q", rank=2),
        TargetRule(pattern=r"down_blocks", rank=1, alpha=3.0, rate=0.5),
        TargetRule(pattern=r"mid_block", on=False),
        TargetRule(pattern=r"to_q$", rank=7),
    ]
    found = {t.name: t for t in targets({"unet": parts["unet"]}, "attention", rules, 4, 8.0)}
    assert not [name for name in found if "mid_block" in name]
    by = lambda text: {(t.rank, t.alpha, t.rate) for name, t in found.items() if text(name)}  # noqa: E731
    assert by(lambda n: "down" in n and "to_q" in n) == {(2, 4.0, 1.0)}  # alpha over rank stays 2
    assert by(lambda n: "down" in n and "to_q" not in n) == {(1, 3.0, 0.5)}
    assert by(lambda n: "up_" in n and "to_q" in n) == {(7, 14.0, 1.0)}
    assert by(lambda n: "up_" in n and "to_q" not in n) == {(4, 8.0, 1.0)}


def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest(parts):
    with pytest.raises(UsageError, match=r"'dwon_blocks' matches no target module; near it are down_blocks"):
        targets(parts, "attention", [TargetRule(pattern="dwon_blocks", rank=2)], 4, None)
    with pytest.raises(UsageError, match=r"--target to_qq: .*near it are to_q"):
        targets(parts, "to_qq", [], 4, None)
    with pytest.raises(UsageError, match="no regular expression"):
        targets(parts, "attention", [TargetRule(pattern="down(", rank=2)], 4, None)
    with pytest.raises(InputError, match="leave no module"):
        targets(parts, "attention", [TargetRule(pattern="", on=False)], 4, None)


def test_rules_are_read():
    assert parse("down=4") == TargetRule(pattern="down", rank=4) and parse(r"a=b\.c=4:2.5") == TargetRule(
        pattern=r"a=b\.c", rank=4, alpha=2.5
    )
    assert parse("mid=off") == TargetRule(pattern="mid", on=False) and parse("a=4:2@0.5") == TargetRule(
        pattern="a", rank=4, alpha=2.0, rate=0.5
    )
    for bad in ("down", "down=", "=4", "down=0", "down=x", "down=4:", "down=4:0", "down=4:nan"):
        if bad == "down=4:":
            assert parse(bad) == TargetRule(pattern="down", rank=4)
            continue
        with pytest.raises(UsageError, match="expected PATTERN=RANK"):
            parse(bad)


def test_the_table_counts_what_is_trained(parts):
    for variant in TRAINABLE.names():
        rows = table(targets(parts, "all", [], 4, None), TRAINABLE[variant])
        with attached(parts, "all", variant, move=False) as found:
            assert sum(row.parameters for row in rows) == sum(p.numel() for p in found.parameters.values())
            assert [row.module for row in rows] == list(found.branches)
    assert {row.kind for row in rows} == {"linear", "conv"}


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_pissa_starts_at_the_models_answer_and_is_written_as_plain_lora(parts, variant):
    unet, before = parts["unet"], said(parts["unet"])
    with attached({"unet": unet}, "all", variant, init="pissa", move=False, rank=3) as found:
        torch.testing.assert_close(said(unet), before, rtol=1e-4, atol=1e-5)
        name, branch = next((n, b) for n, b in found.branches.items() if n.endswith("to_q"))
        weight = unet.get_submodule(name[5:]).weight
        s = torch.linalg.svdvals(weight)
        product = branch.spec.scale * branch.up @ branch.down
        torch.testing.assert_close(torch.linalg.matrix_norm(weight - product), s[3:].square().sum().sqrt())
        with torch.no_grad():
            branch.up += 0.1
        delta = deltas.read(deltas.write(found.deltas()[name]))
        assert isinstance(delta, LowRank) and delta.rank == 6  # the trained factors less the first ones
        x = normal((3, weight.shape[1]), "pissa")
        wanted = x @ (weight + delta.delta()).T
        torch.testing.assert_close(unet.get_submodule(name[5:])(x), wanted, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="pissa"):
            found.load({name: delta})
    with pytest.raises(ValueError, match="pissa is for lora"), attached(parts, variant="dora", init="pissa"):
        pass


def test_a_large_matrix_starts_pissa_near_its_best():
    layer = nn.Linear(300, 200)
    with torch.no_grad():
        layer.weight.copy_(normal((200, 300), "w") * 0.9 ** torch.arange(300))
    with attached({"unet": nn.ModuleDict({"layer": layer})}, "layer", init="pissa", move=False) as found:
        (branch,) = found.branches.values()
        left = torch.linalg.matrix_norm(layer.weight - branch.spec.scale * branch.up @ branch.down)
        best = torch.linalg.svdvals(layer.weight)[4:].square().sum().sqrt()
        assert best <= left * 1.0001 < best * 1.001


def test_kaiming_is_uniform_within_its_bound():
    layer = nn.Linear(400, 300)
    with attached({"unet": nn.ModuleDict({"layer": layer})}, "layer", init="kaiming", rank=64, move=False) as found:
        down = next(iter(found.branches.values())).down.detach() * 400**0.5
        assert float(down.abs().max()) <= 1 and abs(float(down.square().mean()) - 1 / 3) < 0.01
    with (
        pytest.raises(ValueError, match="no init 'kaimin'"),
        attached({"unet": nn.ModuleDict({"layer": layer})}, "layer", init="kaimin"),
    ):
        pass


def test_going_on_at_another_rank_is_exact_upwards_and_tells_the_error_downwards(parts):
    unet = {"unet": parts["unet"]}
    with attached(unet, rank=6) as found:
        written, live = found.deltas(), said(parts["unet"])
    with attached(unet, rank=9, move=False) as found:
        assert max(found.load(written).errors.values()) == 0
        torch.testing.assert_close(said(parts["unet"]), live, rtol=1e-4, atol=1e-5)
    with attached(unet, rank=2, move=False) as found:
        errors = found.load(written).errors
        for name, delta in found.deltas().items():
            gone = torch.linalg.matrix_norm(delta.delta() - written[name].delta())
            assert float(gone / torch.linalg.matrix_norm(written[name].delta())) == pytest.approx(
                errors[name], rel=1e-3
            )
            assert 0 < errors[name] < 1
    with attached(unet, variant="dora", move=False) as found:  # from LoRA of rank 6 cut to 4, lengths and all
        assert set(
            found.load({n: LowRank(d.down[:4], d.up[:, :4], 4.0) for n, d in written.items()}).errors.values()
        ) == {0.0}


def test_lora_plus_raises_the_rate_of_up(parts):
    with attached(parts, rules=[TargetRule(pattern="text_encoder", rate=0.5)], plus=16.0) as found:
        rates = {(n.partition(".")[0], n.rpartition(".")[2]): r for n, r in found.rates.items()}
    assert rates == {
        ("unet", "down"): 1.0,
        ("unet", "up"): 16.0,
        ("text_encoder", "down"): 0.5,
        ("text_encoder", "up"): 8.0,
    }


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_computed_again_in_checkpointing_gives_the_same_gradients(parts, dropout):
    def descend(unet, found):
        with found.dropping([torch.Generator().manual_seed(i) for i in range(2)]):
            return torch.autograd.grad(said(unet).square().mean(), list(found.parameters.values()))

    unet = parts["unet"]
    with attached({"unet": unet}, dropout=dropout) as found:
        plain = descend(unet, found)
        unet.enable_gradient_checkpointing()
        try:
            again = descend(unet, found)
        finally:
            unet.disable_gradient_checkpointing()
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_threads_that_share_a_model_keep_their_masks_apart(parts):
    unet = parts["unet"]
    with attached({"unet": unet}, dropout=0.5) as found:

        def one(key):
            with torch.no_grad(), found.dropping([torch.Generator().manual_seed(key)]):
                return said(unet, X[:1], STATES[:1])

        alone = [one(key) for key in range(8)]
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone, pool.map(one, range(8)), strict=True))
        assert not torch.allclose(alone[0], alone[1], atol=1e-4)


def test_two_at_once_on_one_module_are_refused(parts):
    with attached(parts), pytest.raises(ValueError, match="has a branch already"), attached(parts):
        pass


def test_a_delta_of_another_shape_or_kind_is_refused_by_name(parts):
    with attached({"unet": parts["unet"]}) as found:
        name = next(iter(found.branches))
        with pytest.raises(InputError, match=f"{name}: cannot go on"):
            found.load({name: LowRank(torch.ones(2, 5), torch.ones(16, 2), 2.0)})
    with attached({"unet": parts["unet"]}, variant="lokr") as found, pytest.raises(InputError, match="is no LoKr"):
        found.load({name: LowRank(torch.ones(2, 16), torch.ones(16, 2), 2.0)})


def test_a_dora_of_the_other_axis_is_refused_with_what_to_do(parts):
    unet = {"unet": parts["unet"]}
    with attached(unet, variant="dora", axis=1) as found:
        written = found.deltas()
    assert {delta.axis for delta in written.values()} == {1}
    with attached(unet, variant="dora", axis=1, move=False) as found:
        assert max(found.load(written).errors.values()) < 1e-6
    with attached(unet, variant="dora") as found, pytest.raises(InputError, match="train with --dora-axis input"):
        found.load(written)
