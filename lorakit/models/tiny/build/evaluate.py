"""What the model can do, in figures: a small classifier trained on the real pictures names what the model draws."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.models.encode import conditioning_of, to_tensor
from lorakit.models.load import Components
from lorakit.models.sample import Drawing, draw
from lorakit.models.tiny.build.captions import article
from lorakit.models.tiny.build.render import Pictures, place, premultiplied, random_backgrounds
from lorakit.models.tiny.build.sources import TRAIN_STYLES


class Classifier(nn.Module):
    """A residual network of half a million parameters: pictures [b, 3, 64, 64] to concepts."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, 2, 2)
        widths = (32, 64, 96, 128)
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.inner = nn.ModuleList(nn.Conv2d(b, b, 3, 1, 1) for b in widths[1:])
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in widths[1:])
        self.head = nn.Linear(widths[-1] * 4, concepts)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.stem(x))
        for down, inner, norm in zip(self.steps, self.inner, self.norms, strict=True):
            x = down(x)
            x = x + inner(functional.silu(norm(x)))
        return self.head(functional.adaptive_avg_pool2d(functional.silu(x), 2).flatten(1))


@dataclass(frozen=True)
class Task:
    """The trained pictures and the concept of each as a number."""

    which: Sequence[int]
    labels: Tensor
    names: Sequence[str]


def task(pictures: Pictures) -> Task:
    which = pictures.where(styles=TRAIN_STYLES, trained=True)
    names = sorted({pictures.concepts[i].label for i in which})
    return Task(which, torch.tensor([names.index(pictures.concepts[i].label) for i in which]), names)


def _views(pictures: Pictures, which: Sequence[int], draw: random.Random) -> Tensor:
    count = len(which)
    _, colours = random_backgrounds(count, 0.6, draw)
    scale = torch.tensor([draw.uniform(0.7, 1.0) for _ in which])
    shift = torch.tensor([[draw.uniform(-0.12, 0.12) for _ in "xy"] for _ in which])
    x = place(premultiplied(pictures, which), colours, scale, shift)
    # What a denoiser gets wrong and a person overlooks: blur, and colours a little off.
    if draw.random() < 0.5:
        x = functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    return x + 0.08 * torch.randn(count, 3, 1, 1) + 0.04 * torch.randn_like(x)


def train_classifier(pictures: Pictures, goal: Task, epochs: int = 40, batch: int = 64) -> Classifier:
    """Trained on moved, scaled, blurred views of the real pictures; never on a drawn one."""
    torch.manual_seed(0)
    model, order = Classifier(len(goal.names)), random.Random(0)
    steps = epochs * (len(goal.which) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = [order.randrange(len(goal.which)) for _ in range(batch)]
        logits = model(_views(pictures, [goal.which[i] for i in chosen], order))
        loss = functional.cross_entropy(logits, goal.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, x: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of pictures whose concept is the first, and among the first five."""
    best = torch.cat([model(part).topk(5).indices for part in x.split(128)])
    hit = best == labels[:, None]
    return float(hit[:, 0].float().mean()), float(hit.any(1).float().mean())


def judge(
    components: Components, pictures: Pictures, seeds: int = 4, steps: int = 20, guidance: float = 4.0
) -> dict[str, tuple[float, float]]:
    """Top-1 and top-5 of the classifier on real views and on drawn pictures, by style, `seeds` of each picture."""
    goal = task(pictures)
    model = train_classifier(pictures, goal)
    views = torch.cat(
        [
            _views(pictures, part, random.Random(1))
            for part in (goal.which[i : i + 64] for i in range(0, len(goal.which), 64))
        ]
    )
    result = {"real": accuracy(model, views, goal.labels)}
    drawn, labels, styles = [], [], []
    for start in range(0, len(goal.which), 32):
        part = goal.which[start : start + 32]
        prompts = [
            f"{article(pictures.styles[i])} emoji of {article(pictures.concepts[i].label)}"
            for i in part
            for _ in range(seeds)
        ]
        told, _ = conditioning_of(components, [*prompts, ""])
        how = Drawing(size=(64, 64), steps=steps, guidance=guidance, scheduler="dpm++")
        made = draw(
            components, [told[i] for i in range(len(told) - 1)], told[-1], [s for _ in part for s in range(seeds)], how
        )
        drawn += [to_tensor(picture) for picture in made]
        labels += [int(goal.labels[start + k]) for k in range(len(part)) for _ in range(seeds)]
        styles += [pictures.styles[i] for i in part for _ in range(seeds)]
    x, y = torch.stack(drawn), torch.tensor(labels)
    result["drawn"] = accuracy(model, x, y)
    for style in TRAIN_STYLES:
        mask = torch.tensor([s == style for s in styles])
        result[style] = accuracy(model, x[mask], y[mask])
    return result
