import torch

from lorakit.diffusion.noise import generator, multires, offset, perturbed

STRENGTHENED = (offset, multires, perturbed)


def many(change, strength, shape=(4, 12, 20), count=600):
    draws = []
    for i in range(count):
        g = generator("noise", i)
        draws.append(change(torch.randn(shape, generator=g), strength, g))
    return torch.stack(draws)


def test_at_strength_0_noise_is_what_it_was_and_nothing_is_drawn():
    noise = torch.randn(4, 8, 8)
    for change in STRENGTHENED:
        g = generator("off")
        assert change(noise, 0.0, g) is noise
        assert torch.equal(torch.rand(3, generator=g), torch.rand(3, generator=generator("off")))


def test_a_draw_depends_on_its_generator_alone_and_leaves_the_noise():
    noise = torch.randn(4, 9, 7)
    before = noise.clone()
    for change in STRENGTHENED:
        one, two, other = (change(noise, 0.3, generator("a", k)) for k in (1, 1, 2))
        assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(noise, before)
        assert one.shape == noise.shape


def test_an_offset_moves_each_channel_as_a_whole():
    noise = torch.zeros(4, 6, 6)
    moved = offset(noise, 0.1, generator("offset"))
    assert bool((moved == moved[:, :1, :1]).all()) and len(set(moved[:, 0, 0].tolist())) == 4
    spread = many(offset, 0.5).mean((2, 3)).std()
    assert abs(float(spread) - (0.25 + 1 / 240) ** 0.5) < 0.02


def test_multires_noise_is_normal_everywhere_and_coarser():
    x = many(multires, 0.7)
    assert float((x.std(0) - 1).abs().max()) < 0.2 and float(x.mean().abs()) < 0.03  # 600 draws: 0.03 a place
    assert abs(float(x.std((0, 1)).mean()) - 1) < 0.01
    plain = many(multires, 0.0)
    neighbours = [float((n[..., 1:] * n[..., :-1]).mean()) for n in (plain, x)]
    assert abs(neighbours[0]) < 0.01 and neighbours[1] > 0.4


def test_input_perturbation_adds_its_power():
    assert abs(float(many(perturbed, 0.5).var()) - 1.25) < 0.01
