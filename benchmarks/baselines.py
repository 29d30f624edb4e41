"""Time U-Net's forebears beside it, and train them: `python benchmarks/baselines.py`.

What overlap-tile saves: the same section of 512² px by

- the sliding window of Cireşan et al., Deep Neural Networks Segment Neuronal Membranes
  in Electron Microscopy Images, NIPS 2012: one forward pass of a small classifier for
  every pixel. Measured on a strip of rows and extrapolated to the section.
- FCN-8s of Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic
  Segmentation, CVPR 2015: one pass over the section, padded by 100 px as there.
- U-Net in its paper's form and this project's width 16, by overlap-tile.

Random weights: time doesn't depend on them. One thread, processor time. Writes
results/baselines.json and the table of docs/speed.md.

`--train` trains the first two instead, each for the processor time that
`isbi2012-unet` took, or for so many seconds, on the same sections with the same changes
of patches, and scores them as that was scored: the threshold by the cells of the
validation sections, scores on the held-out ones. It goes on from checkpoints in
`runs/`. Writes results/baselines_trained.json and a table of docs/accuracy.md. FCN-8s
begins with random weights, as all here do; in its paper it begins with VGG16's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from data_sets import DATA, ROOT, RUNS
from machine import describe
from numpy.typing import NDArray
from pages import put
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from napari_emseg.core.tiles import TilePlan
from napari_emseg.core.training import TrainSettings
from napari_emseg.metrics import isbi_scores
from napari_emseg.models.forward import inner_logits
from napari_emseg.models.weights import load_weights
from napari_emseg.models.zoo import build
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.losses import (
    INSIDE,
    LOSSES,
    MEMBRANE,
)
from napari_emseg.training.patches import PatchSource
from napari_emseg.training.validation import (
    LEVELS,
    best_threshold,
    bits_lost,
    scores_of_cells,
    truth_of,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "baselines.json"
DOCS = HERE.parent / "docs" / "speed.md"

SIDE, WINDOW, STRIP = 512, 65, 4
"""The section's side, the classifier's window, and rows that are measured, in px."""


class PixelClassifier(nn.Sequential):
    """Cireşan's N4 (four stages of convolution and pooling, 48 maps, 200 hidden units).

    Its kernels are such that a window of 65² px ends in one pixel.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for n_in, kernel in ((1, 4), (48, 4), (48, 5), (48, 4)):
            layers += [nn.Conv2d(n_in, 48, kernel), nn.Tanh(), nn.MaxPool2d(2)]
        super().__init__(
            *layers, nn.Flatten(), nn.Linear(48, 200), nn.Tanh(), nn.Linear(200, 2)
        )


class FCN8s(nn.Module):
    """VGG16 made convolutional, with scores of pools 3 and 4 added to the last."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        stages = ((1, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
        self.stages = nn.ModuleList(_stage(*stage) for stage in stages)
        self.classifier = nn.Sequential(
            *(nn.Conv2d(512, 4096, 7), nn.ReLU(inplace=True)),
            *(nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True)),
            nn.Conv2d(4096, n_classes, 1),
        )
        self.score4 = nn.Conv2d(512, n_classes, 1)
        self.score3 = nn.Conv2d(256, n_classes, 1)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(n_classes, n_classes, 2 * s, stride=s, bias=False)
            for s in (2, 2, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, n_classes, y, x)`, as large as `x`."""
        size = x.shape[2:]
        x, pools = F.pad(x, [100] * 4), []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        x = self.up[0](self.classifier(x))
        x = self.up[1](x + _middle(self.score4(pools[3]), x.shape[2:]))
        x = self.up[2](x + _middle(self.score3(pools[2]), x.shape[2:]))
        return _middle(x, size)


def _stage(n_in: int, n_out: int, n: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(n):
        layers += [nn.Conv2d(n_out if k else n_in, n_out, 3, padding=1)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True))


def _middle(x: Tensor, size: torch.Size) -> Tensor:
    y, x0 = (x.shape[2] - size[0]) // 2, (x.shape[3] - size[1]) // 2
    return x[:, :, y : y + size[0], x0 : x0 + size[1]]


@dataclass(frozen=True)
class Job:
    """One way to get a section; `run` does `share` of it in `evaluations` passes."""

    name: str
    network: nn.Module
    run: Callable[[], object]
    evaluations: int
    window: int
    share: float = 1.0


def sliding() -> Job:
    """One pass for every pixel of a strip."""
    network = PixelClassifier().eval()
    strip = torch.rand(1, 1, STRIP + WINDOW - 1, SIDE + WINDOW - 1)

    def run() -> None:
        for row in range(STRIP):
            lines = strip[:, :, row : row + WINDOW]
            patches = lines.unfold(3, WINDOW, 1)[0, 0].permute(1, 0, 2)[:, None]
            network(patches.contiguous())

    name = "sliding window, classifier like Cireşan's"
    return Job(name, network, run, SIDE * SIDE, WINDOW, STRIP / SIDE)


def fcn() -> Job:
    """One pass over the padded section."""
    network = FCN8s().eval().to(memory_format=torch.channels_last)
    section = torch.rand(1, 1, SIDE, SIDE)
    return Job("FCN-8s", network, lambda: network(section), 1, SIDE + 200)


def unet(name: str, config: dict[str, Any], tile: int | None) -> Job:
    """Overlap-tile, without the reading and writing around it."""
    network = build("unet", config).eval().to(memory_format=torch.channels_last)
    plan = TilePlan((SIDE, SIDE), network.geometry, tile=tile)
    window = torch.rand(1, 1, *plan.window_shape)

    def run() -> None:
        for _ in plan:
            inner_logits(network, window)

    return Job(name, network, run, len(plan), max(plan.window_shape))


def jobs() -> list[Job]:
    """Return everything that is measured."""
    paper = {"base": 64, "padding": "valid", "normalisation": "none"}
    return [
        sliding(),
        fcn(),
        unet("U-Net as in its paper, tiles up to 572 px", paper, 572),
        unet("U-Net of width 16, one tile", {"base": 16}, None),
    ]


@torch.inference_mode()
def measured(job: Job, runs: int) -> dict[str, Any]:
    """Return time, operations and passes for a whole section."""
    job.run()
    seconds = []
    for _ in range(runs):
        began = process_time()
        job.run()
        seconds.append(process_time() - began)
    with FlopCounterMode(display=False) as counter:
        job.run()
    return {
        "name": job.name,
        "parameters": sum(p.numel() for p in job.network.parameters()),
        "evaluations": job.evaluations,
        "window": job.window,
        "cpu_seconds": round(median(seconds) / job.share, 2),
        "measured_share": job.share,
        "gflop": round(counter.get_total_flops() / job.share / 1e9, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/speed.md."""
    lines = [
        "| what | parameters | passes | window | operations | processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        about = "about " if row["measured_share"] < 1 else ""
        lines.append(
            f"| {row['name']} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['evaluations']:,} | {row['window']}² "
            f"| {row['gflop']:,.0f} GFLOP | {about}{row['cpu_seconds']:,.1f} |"
        )
    return "\n".join(lines)


def write_docs(rows: list[dict[str, Any]]) -> None:
    """Put the table between its marks in docs/speed.md."""
    begin, end = "<!-- begin baselines -->", "<!-- end baselines -->"
    head, rest = DOCS.read_text().split(begin)
    DOCS.write_text(f"{head}{begin}\n\n{table(rows)}\n\n{end}{rest.split(end)[1]}")


TRAINED = HERE / "results" / "baselines_trained.json"

SAVE_EVERY = 60.0
"""Processor seconds between checkpoints."""


class DensePixels(nn.Module):
    """What a `PixelClassifier` says of every pixel of a picture, in one pass.

    The poolings keep their resolution, and what follows them looks so much farther
    apart (Giusti et al., ICIP 2013): the numbers are those of one pass for each pixel.
    """

    def __init__(self, classifier: PixelClassifier) -> None:
        super().__init__()
        self.layers = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, 2, y, x)` of `(n, 1, y, x)`, mirrored at the border."""
        x, apart = F.pad(x, [WINDOW // 2] * 4, mode="reflect"), 1
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, layer.bias, dilation=apart)
            elif isinstance(layer, nn.MaxPool2d):
                x = F.max_pool2d(x, 2, stride=1, dilation=apart)
                apart *= 2
            elif isinstance(layer, nn.Linear):
                x = F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
            elif isinstance(layer, nn.Tanh):
                x = x.tanh()
        return x


def loss_of_windows(network: nn.Module, step: int, patches: PatchSource) -> Tensor:
    """Take windows of some patches, as many of either class, as Cireşan et al. did."""
    image, target, _ = patches.batch(step)
    half = WINDOW // 2
    rng = torch.Generator().manual_seed(step)
    windows, classes = [], []
    for k in (MEMBRANE, INSIDE):
        n, y, x = torch.nonzero(target[:, half:-half, half:-half] == k, as_tuple=True)
        for at in torch.randint(max(1, len(n)), (32,), generator=rng).tolist():
            if len(n):
                rows, columns = (slice(int(v[at]), int(v[at]) + WINDOW) for v in (y, x))
                windows.append(image[n[at], :, rows, columns])
                classes.append(k)
    return F.cross_entropy(network(torch.stack(windows)), torch.tensor(classes))


def loss_of_patches(network: nn.Module, step: int, patches: PatchSource) -> Tensor:
    """Take whole patches, every pixel of which is known."""
    image, target, weight = patches.batch(step)
    return LOSSES["cross-entropy"](network(image), target, weight, "softmax")


@dataclass(frozen=True)
class Baseline:
    """What is trained: `loss` is that of a step, `dense` gives logits of a section."""

    name: str
    network: nn.Module
    loss: Callable[[nn.Module, int, PatchSource], Tensor]
    dense: nn.Module
    settings: TrainSettings
    rate: float


def baselines(seed: int) -> list[Baseline]:
    """Return both, with fresh weights."""
    torch.manual_seed(seed)
    pixels, fcn8 = PixelClassifier(), FCN8s()
    small = TrainSettings(patch=160, batch=4, seed=seed)
    whole = TrainSettings(patch=256, batch=2, seed=seed)
    return [
        Baseline(
            *("sliding window", pixels, loss_of_windows, DensePixels(pixels)),
            *(small, 1e-3),
        ),
        Baseline("FCN-8s", fcn8, loss_of_patches, fcn8, whole, 1e-4),
    ]


def train(
    what: Baseline, examples: Sequence[Example], seconds: float, checkpoint: Path
) -> tuple[int, float]:
    """Train for so much processor time, going on from a checkpoint; return steps, s."""
    patches = PatchSource(
        examples, what.settings, n_classes=2, device=torch.device("cpu")
    )
    optimiser = torch.optim.AdamW(what.network.parameters(), lr=what.rate)
    step, used = 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["seconds"] != seconds:
            msg = f"{checkpoint} is of a run for {saved['seconds']:g} s; delete it"
            raise ValueError(msg)
        what.network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        step, used = saved["step"], saved["used"]
    last = used
    while used < seconds:
        began = process_time()
        # the rate falls by the time that is spent, since nobody knows the steps
        for group in optimiser.param_groups:
            group["lr"] = what.rate * (1 + cos(pi * used / seconds)) / 2
        loss = what.loss(what.network.train(), step, patches)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step, used = step + 1, used + process_time() - began
        if used - last > SAVE_EVERY or used >= seconds:
            last = used
            print(f"{what.name}: step {step}, {used:.0f} s, {loss.item():.3f}")
            contents = {
                "network": what.network.state_dict(),
                "optimiser": optimiser.state_dict(),
                **{"step": step, "used": used, "seconds": seconds},
            }
            part = checkpoint.with_suffix(".part")
            torch.save(contents, part)
            part.replace(checkpoint)
    return step, used


@torch.inference_mode()
def inside_by(network: nn.Module, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Return the probability of inside `(z, y, x)`, each section in one pass."""
    network.eval()
    found = [
        network(torch.from_numpy(e.image)[None, None]).softmax(1)[0, INSIDE].numpy()
        for e in examples
    ]
    return np.stack(found)


def score(
    network: nn.Module, validation: Sequence[Example], held_out: Sequence[Example]
) -> dict[str, float]:
    """Choose the threshold by cells of the validation sections; score the others."""
    bits, walls = np.zeros((len(LEVELS), 2)), 0
    for example, inside in zip(validation, inside_by(network, validation), strict=True):
        lost, n = bits_lost(1 - inside, example.target)
        bits, walls = bits + lost, walls + n
    threshold = best_threshold(bits, walls, None)
    inside, truth = inside_by(network, held_out), truth_of(held_out)
    best = isbi_scores(inside, truth)
    masks = {"v_rand": float(best.v_rand), "v_info": float(best.v_info)}
    cells = scores_of_cells(inside, truth, threshold)
    return {"threshold": threshold, **masks, **cells}


def trained(seconds: float, data: Path, seed: int, runs: Path) -> dict[str, Any]:
    """Train and score both; return all that a table needs."""
    source = DATA["isbi2012"].source(data)
    sets = [
        read_examples(source.images, source.labels, source.meaning, sections=sections)
        for sections in (
            source.split.training,
            source.split.validation,
            source.split.held_out,
        )
    ]
    runs.mkdir(exist_ok=True)
    rows = []
    for what in baselines(seed):
        stem = what.name.replace(" ", "-")
        steps, used = train(what, sets[0], seconds, runs / f"{stem}-{seed}.checkpoint")
        scores = score(what.dense, sets[1], sets[2])
        rows.append({"name": what.name, "steps": steps, "seconds": used, **scores})
        print(rows[-1], flush=True)
    return {"machine": describe(1), "seconds": seconds, "seed": seed, "rows": rows}


def table_of_trained(found: dict[str, Any]) -> str:
    """Return the table of docs/accuracy.md, with U-Net's own line."""
    card = load_weights("isbi2012-unet").card
    unet = {
        "name": card.name,
        "steps": card.training.steps,
        "seconds": card.training.seconds,
        "threshold": card.threshold,
        **card.scores,
    }
    names = ("v_rand", "v_info", "cells_v_rand", "cells_v_info", "cells_vi")
    lines = [
        "| what | steps | processor s | threshold | masks: V_Rand | V_Info "
        "| cells: V_Rand | V_Info | VI, bits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (*found["rows"], unet):
        numbers = " | ".join(f"{row[name]:.4f}" for name in names)
        lines.append(
            f"| {row['name']} | {row['steps']:,} | {row['seconds']:,.0f} "
            f"| {row['threshold']:g} | {numbers} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--train",
        type=float,
        nargs="?",
        const=load_weights("isbi2012-unet").card.training.seconds,
        metavar="SECONDS",
        help="train and score FCN-8s and the sliding window, each for so much "
        "processor time; by default what isbi2012-unet took",
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--seed", type=int, default=2012)
    parser.add_argument(
        "--try-in",
        type=Path,
        help="with --train: a folder for checkpoints and results of a try, which no "
        "page shows",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train is not None:
        runs = options.try_in or RUNS
        found = trained(options.train, options.data, options.seed, runs)
        results = TRAINED if options.try_in is None else runs / TRAINED.name
        results.write_text(json.dumps(found, indent=1) + "\n")
        print(table_of_trained(found))
        if options.try_in is None:
            put("accuracy.md", "baselines", table_of_trained(found))
        return
    torch.manual_seed(0)
    rows = [measured(job, options.runs) for job in jobs()]
    found = {"machine": describe(1), "side": SIDE, "strip": STRIP, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    write_docs(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
