"""Train the classifier of edges between fragments: `python benchmarks/train_edges.py`.

Learns from cortex (SNEMI3D training volume) sections 36–64, on the probabilities of
`em-membranes`, which learnt from 0–13. Writes `edges.json` into napari-emseg-data,
since the data isn't for commercial use; sections 14–29 are what `volume.py` scores on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tifffile import imread
from torch import nn

import napari_emseg as emseg
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import load_weights
from napari_emseg.segmentation.stack_graph import (
    CrossEdges,
    SectionGraph,
    StackGraph,
)

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "packages/napari-emseg-data/src/napari_emseg_data/weights"
VOXEL_SIZE = (30.0, 6.0, 6.0)
FIRST, SECTIONS = 30, range(36, 65)
PURE = 0.5
NETWORKS, HIDDEN, EPOCHS = 3, 24, 40

Rows = list[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]


class Recorder(StackGraph):
    """Keeps the features of edges, and whether they join one true cell."""

    def __init__(self) -> None:
        super().__init__(None, 40)
        self.rows: dict[str, Rows] = {"within": [], "between": []}
        self.truth: dict[int, NDArray[np.int64]] = {}

    def odds_within(self, section: SectionGraph, *others: Any) -> Any:
        """Note the boundaries of a section."""
        from napari_emseg.segmentation.stack_graph import edges_within

        ids = self.truth[id(section)]
        edges = section.fragments.regions.edges
        self._note("within", edges_within(section, *others), ids, ids, edges)
        return super().odds_within(section, *others)

    def note_between(self, a: SectionGraph, b: SectionGraph, cross: CrossEdges) -> None:
        """Note the edges between two sections."""
        ids = self.truth[id(a)], self.truth[id(b)]
        self._note("between", cross.features, *ids, cross.ends)

    def _note(self, kind: str, features: Any, a: Any, b: Any, edges: Any) -> None:
        one, other = a[edges[:, 0]], b[edges[:, 1]]
        self.rows[kind].append((features, (one > 0) & (other > 0), one == other))


def true_ids(section: SectionGraph, ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return the true cell of each fragment, 0 where it has no clear one."""
    labels = section.fragments.labels[section.inside].astype(np.int64)
    width = int(ids.max()) + 1
    key, count = np.unique(labels * width + ids[section.inside], return_counts=True)
    fragment, cell = np.divmod(key, width)
    order = np.argsort(count, kind="stable")
    most, who = np.zeros(section.n), np.zeros(section.n, np.int64)
    most[fragment[order]], who[fragment[order]] = count[order], cell[order]
    total = np.maximum(np.bincount(labels, minlength=section.n), 1)
    return np.where(most / total > PURE, who, 0)


def record(
    membrane: NDArray[np.float32], ids: NDArray[Any], threshold: float
) -> Recorder:
    """Return what is seen at the edges of a stack, and what is true of them."""
    from napari_emseg.segmentation.stack_graph import edges_between, shift_of

    found, last, kept = Recorder(), None, []
    for p, true in zip(membrane, ids, strict=True):
        section = SectionGraph.of(p, threshold)
        kept.append(section)  # or another would get its id
        found.truth[id(section)] = true_ids(section, true.astype(np.int64))
        if last is not None:
            cross = edges_between(last, section, shift_of(last, section, 40))
            found.note_between(last, section, cross)
        found.add(section)
        last = section
    found.finish()
    return found


def fit(rows: Rows, seed: int) -> dict[str, Any]:
    """Train networks on edges whose two ends are known."""
    x = np.concatenate([r[0][r[1]] for r in rows])
    y = np.concatenate([r[2][r[1]] for r in rows]).astype(np.float32)
    mean, scale = np.nanmean(x, 0), np.nanstd(x, 0) + 1e-6
    features = torch.from_numpy(np.clip(np.nan_to_num((x - mean) / scale), -8, 8))
    target = torch.from_numpy(y)
    networks = []
    for k in range(NETWORKS):
        torch.manual_seed(seed + k)
        network = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1),
        )
        _descend(network, features, target)
        layers = [m for m in network if isinstance(m, nn.Linear)]
        networks.append(
            [
                (
                    np.round(m.weight.detach().double().numpy().T, 4).tolist(),
                    np.round(m.bias.detach().double().numpy(), 4).tolist(),
                )
                for m in layers
            ]
        )
    return {
        "mean": [round(float(v), 5) for v in mean],
        "scale": [round(float(v), 5) for v in scale],
        "networks": networks,
    }


def _descend(network: nn.Module, features: torch.Tensor, target: torch.Tensor) -> None:
    batch, steps = 512, EPOCHS * max(1, len(features) // 512)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(features), (batch,))
        odds = network(features[chosen])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(odds, target[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()


def main() -> None:
    """Predict, record, train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--membranes", type=Path, help="of sections 30–64, .npy")
    parser.add_argument("--out", type=Path, default=OUT / "edges.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.data / "cortex_ac4"
    weights = load_weights("em-membranes")
    at = slice(SECTIONS[0] - FIRST, SECTIONS[-1] - FIRST + 1)
    if given.membranes is None:
        images = Stack(imread(folder / "raw_30-64.tif")[at], voxel_size_nm=VOXEL_SIZE)
        one = PredictSettings(threads=1)
        membrane = emseg.predict(images, weights, settings=one)
    else:
        membrane = np.load(given.membranes)[at]
    ids = imread(folder / "ids_30-64.tif")[at]
    found = record(membrane, ids, weights.card.threshold)
    told = {name: fit(rows, 0) for name, rows in found.rows.items()}
    about = {
        "about": "Which fragments of a stack of sections are one cell",
        "learnt_from": "SNEMI3D training volume (AC4), mouse cortex, sections 36-64",
        "probabilities_by": "em-membranes",
        "licence": "CC BY-NC-SA 3.0, as em-membranes, on whose results it learnt; "
        "none is stated for the data",
        "citation": "Kasthuri et al.: Saturated Reconstruction of a Volume of "
        "Neocortex. Cell 162(3):648-661 (2015); SNEMI3D challenge",
    }
    given.out.write_text(json.dumps(about | told) + "\n")
    print(given.out, given.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
