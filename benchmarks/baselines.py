"""Time U-Net's forebears beside it: `python benchmarks/baselines.py`.

What overlap-tile saves: the same section of 512² px by

- the sliding window of Cireşan et al., Deep Neural Networks Segment Neuronal Membranes
  in Electron Microscopy Images, NIPS 2012: one forward pass of a small classifier for
  every pixel. Measured on a strip of rows and extrapolated to the section.
- FCN-8s of Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic
  Segmentation, CVPR 2015: one pass over the section, padded by 100 px as there.
- U-Net in its paper's form and this project's width 16, by overlap-tile.

Random weights: time doesn't depend on them. One thread, processor time. Writes
results/baselines.json and the table of docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from machine import describe
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from napari_emseg.core.tiles import TilePlan
from napari_emseg.models.forward import inner_logits
from napari_emseg.models.zoo import build

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = [measured(job, options.runs) for job in jobs()]
    found = {"machine": describe(1), "side": SIDE, "strip": STRIP, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    write_docs(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
