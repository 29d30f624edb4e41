"""Cells that somebody is done with → a classifier of edges between fragments.

See `segmentation/stack_graph.py` for what is made of it. It learns from every boundary
and every overlap of which both sides are clearly in a known cell.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.atomic import atomic_write
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import LazyArray
from napari_emseg.segmentation.affinities import Affinities
from napari_emseg.segmentation.edge_classifier import (
    SEEN,
    EdgeClassifier,
    Features,
)
from napari_emseg.segmentation.edge_features import (
    CrossEdges,
    SectionGraph,
    edges_within,
)
from napari_emseg.segmentation.stack_graph import StackGraph, faces_of

if TYPE_CHECKING:
    from torch import nn

KINDS = ("within", "between")

PURE = 0.5
"""A fragment is of the known cell that has more than this part of it."""

LEAST = 50
"""So many edges of a kind are needed to learn, and of either answer a tenth of that."""

NETWORKS, HIDDEN = 3, 24

LEAST_SPREAD = 1e-4

BATCH = 512

EPOCHS, STEPS, RATE = 40, 300, 3e-3
"""From nothing, and at least so many steps; from a classifier that is there a third."""

HELD_OUT = 5
"""Every fifth section is left out first, to see how good it gets."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class KnownEdges:
    """Edges whose answer is known: features, whether they join, and the section."""

    features: Features
    join: NDArray[np.bool_]
    section: Ids

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return those of several sections as one."""
        return cls(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.join for part in parts]),
            np.concatenate([part.section for part in parts]),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of them."""
        return type(self)(
            self.features[chosen], self.join[chosen], self.section[chosen]
        )


class _Recorder(StackGraph):
    """Keeps the features of edges, and whether they join one known cell."""

    def __init__(self, largest_shift: int) -> None:
        super().__init__(None, largest_shift)
        self.rows: dict[str, list[KnownEdges]] = {kind: [] for kind in KINDS}
        # the last three sections, and what their fragments are
        self._known: list[tuple[SectionGraph, Ids, int]] = []

    def learn(self, section: SectionGraph, ids: NDArray[Any], z: int) -> None:
        """Take the next section and its known cells `(y, x)`, 0 where unknown."""
        true = true_ids(section, ids.astype(np.int64))
        self._known = [*self._known[-2:], (section, true, z)]
        self.add(section)

    def odds_within(
        self,
        section: SectionGraph,
        before: tuple[SectionGraph, CrossEdges] | None,
        after: tuple[SectionGraph, CrossEdges] | None,
    ) -> NDArray[np.float64]:
        """Note the boundaries of a section."""
        features = edges_within(section, before, after)
        _, ids, z = next(known for known in self._known if known[0] is section)
        self._note("within", features, ids, ids, section.fragments.regions.edges, z)
        return super().odds_within(section, before, after)

    def odds_between(self, cross: CrossEdges) -> NDArray[np.float64]:
        """Note the edges between the last two sections."""
        (_, one, _), (_, other, z) = self._known[-2:]
        self._note("between", cross.features, one, other, cross.ends, z)
        return super().odds_between(cross)

    def _note(
        self, kind: str, features: Features, a: Ids, b: Ids, edges: Ids, z: int
    ) -> None:
        one, other = a[edges[:, 0]], b[edges[:, 1]]
        known = (one > 0) & (other > 0)
        place = np.full(int(known.sum()), z)
        found = KnownEdges(features[known], (one == other)[known], place)
        self.rows[kind].append(found)


def true_ids(section: SectionGraph, ids: Ids) -> Ids:
    """Return the known cell of each fragment of a section, 0 where it has no clear one.

    Parameters
    ----------
    ids
        Known cells `(y, x)`, 0 where nothing is known.
    """
    labels = section.fragments.labels[section.inside].astype(np.int64)
    width = int(ids.max(initial=0)) + 1
    key, count = np.unique(labels * width + ids[section.inside], return_counts=True)
    fragment, cell = np.divmod(key, width)
    order = np.argsort(count, kind="stable")
    most, who = np.zeros(section.n), np.zeros(section.n, np.int64)
    most[fragment[order]], who[fragment[order]] = count[order], cell[order]
    total = np.maximum(np.bincount(labels, minlength=section.n), 1)
    return np.where(most / total > PURE, who, 0)


def iter_known_edges(
    membrane: LazyArray,
    cells: LazyArray,
    settings: CellSettings,
    affinities: Affinities | None = None,
) -> Generator[Record, None, dict[str, KnownEdges]]:
    """Return the edges of a stack whose answer cells tell, by kind.

    Parameters
    ----------
    membrane
        Probabilities `(z, y, x)` in [0, 1], NaN where there is no picture.
    cells
        Ids of that shape, right through the stack; 0 says nothing.
    affinities
        Of that shape, where a network gives them.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if tuple(membrane.shape) != tuple(cells.shape):
        msg = (
            f"probabilities are {tuple(membrane.shape)} (z, y, x), but the cells "
            f"{tuple(cells.shape)}"
        )
        raise ValueError(msg)
    recorder, n = _Recorder(settings.shift), int(membrane.shape[0])
    for z in range(n):
        values = np.asarray(membrane[z], np.float32)
        missing = np.isnan(values)
        values = np.where(missing, np.float32(0), values)
        faces = faces_of(affinities, z - 1, z)
        section = SectionGraph.of(values, settings.threshold, missing, faces)
        recorder.learn(section, np.asarray(cells[z]), z)
        yield Progress("edges", z + 1, n)
    recorder.finish()
    nothing = KnownEdges(
        np.zeros((0, 1), np.float32), np.zeros(0, bool), np.zeros(0, np.int64)
    )
    return {
        kind: KnownEdges.together(rows) if rows else nothing
        for kind, rows in recorder.rows.items()
    }


def iter_learn_edges(
    membrane: LazyArray,
    cells: LazyArray,
    settings: CellSettings | None = None,
    *,
    affinities: Affinities | None = None,
    start: EdgeClassifier | None = None,
    about: str = "",
    seed: int = 0,
) -> Generator[Record, None, EdgeClassifier]:
    """Let a classifier of edges learn from cells; yields Progress and a Note.

    The Note says how many edges of every fifth section, which are left out at first, it
    gets right, and how many `start` does; then it learns from all.

    Parameters
    ----------
    membrane, cells, affinities
        As in `iter_known_edges`.
    settings
        Threshold and largest shift.
    start
        Learns on; else it begins from nothing.
    about
        What the cells are, for the file.

    Raises
    ------
    ValueError
        If there are too few edges to learn from, or the shapes differ.
    """
    settings = settings or CellSettings()
    known = yield from iter_known_edges(membrane, cells, settings, affinities)
    for kind, edges in known.items():
        check_enough(kind, edges)
    said, kinds = {}, {}
    for done, (kind, edges) in enumerate(known.items()):
        yield Progress("learning", done, len(known))
        before = None if start is None else start.kinds[kind]
        left_out = edges.section % HELD_OUT == HELD_OUT // 2
        if 0 < left_out.sum() < len(left_out):
            tried = fit(kind, edges.where(~left_out), seed, before)
            said[kind] = _right(kind, edges.where(left_out), tried, before)
        kinds[kind] = fit(kind, edges, seed, before)
    yield Progress("learning", len(known), len(known))
    for words in said.values():
        yield Note(words)
    told = {
        "about": about or "Which fragments of a stack of sections are one cell",
        "edges": {kind: len(edges.join) for kind, edges in known.items()},
        "held_out": list(said.values()),
        "learnt_on": "" if start is None else str(start.about.get("about", "")),
        "licence": "" if start is None else str(start.about.get("licence", "")),
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    return EdgeClassifier(kinds, told | kinds)


def check_enough(kind: str, edges: KnownEdges) -> None:
    """Check that there is enough to learn from.

    Raises
    ------
    ValueError
        If not, with the numbers.
    """
    n, joins = len(edges.join), int(edges.join.sum())
    if n >= LEAST and LEAST // 10 <= joins <= n - LEAST // 10:
        return
    where = "within sections" if kind == "within" else "between sections"
    msg = (
        f"of {n} known edges {where} {joins} join one cell; at least {LEAST} are "
        f"needed, {LEAST // 10} of them joining and {LEAST // 10} not: give more cells"
    )
    raise ValueError(msg)


def _right(
    kind: str, edges: KnownEdges, tried: dict[str, Any], before: dict[str, Any] | None
) -> str:
    """Say how many edges a classifier gets right, and how many another one did."""

    def share(numbers: dict[str, Any]) -> float:
        one = EdgeClassifier({kind: numbers}, {})
        return float(((one.log_odds(kind, edges.features) > 0) == edges.join).mean())

    words = f"{share(tried):.1%} of {len(edges.join)} left-out edges {kind} sections"
    if before is None:
        return f"{words} are right"
    return f"{words} are right, {share(before):.1%} were before"


def _known_features(kind: str, features: Features) -> Features:
    """Leave out those of affinities where none are known."""
    seen = SEEN[kind]
    if np.isnan(features[:, seen:]).all():
        return features[:, :seen]
    return features


def fit(
    kind: str, edges: KnownEdges, seed: int, start: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train small networks on known edges; return their numbers, for `EdgeClassifier`.

    Parameters
    ----------
    kind
        `within` or `between`.
    start
        Numbers to learn on from.
    """
    import torch

    if start is None:
        x = _known_features(kind, edges.features)
        mean, scale = np.nanmean(x, 0), np.nanstd(x, 0)
        # what is the same everywhere says nothing, and must not count where it differs
        scale = np.where(scale < LEAST_SPREAD, 1, scale)
    else:
        mean, scale = (
            np.asarray(start[name], np.float32) for name in ("mean", "scale")
        )
        x = edges.features[:, : len(mean)]
    values = np.clip(np.nan_to_num((x - mean) / scale), -8, 8).astype(np.float32)
    join = edges.join
    if x.shape[1] > SEEN[kind]:
        # it must be right without affinities, too: the mean stands for what isn't known
        blind = values.copy()
        blind[:, SEEN[kind] :] = 0
        values, join = np.concatenate([values, blind]), np.concatenate([join, join])
    features = torch.from_numpy(values)
    target = torch.from_numpy(join.astype(np.float32))
    networks = []
    with torch.random.fork_rng(devices=[]):
        for k in range(NETWORKS if start is None else len(start["networks"])):
            torch.manual_seed(seed + k)
            network = _network(
                x.shape[1], None if start is None else start["networks"][k]
            )
            share = 1 if start is None else 1 / 3
            steps = max(STEPS, EPOCHS * (len(features) // BATCH)) * share
            _descend(network, features, target, RATE * share, int(steps))
            networks.append(_numbers(network))
    return {
        "mean": [round(float(v), 5) for v in mean],
        "scale": [round(float(v), 5) for v in scale],
        "networks": networks,
    }


def _network(inputs: int, numbers: Any | None) -> "nn.Sequential":
    """Return a network, with the numbers of its layers if there are any."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 1),
    )
    layers = [m for m in network if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for layer, (weights, bias) in zip(layers, numbers or (), strict=False):
            layer.weight.copy_(torch.tensor(weights).T)
            layer.bias.copy_(torch.tensor(bias))
    return network


def _numbers(network: "nn.Sequential") -> list[Any]:
    from torch import nn

    return [
        [
            np.round(m.weight.detach().double().numpy().T, 4).tolist(),
            np.round(m.bias.detach().double().numpy(), 4).tolist(),
        ]
        for m in network
        if isinstance(m, nn.Linear)
    ]


def _descend(
    network: "nn.Sequential", features: Any, target: Any, rate: float, steps: int
) -> None:
    import torch
    from torch import nn

    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for _ in range(steps):
        chosen = torch.randint(len(features), (min(BATCH, len(features)),))
        odds = network(features[chosen])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(odds, target[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.eval()


def save_edges(classifier: EdgeClassifier, path: Path) -> Path:
    """Write a classifier as JSON; what is there is replaced.

    Raises
    ------
    OSError
        If it can't be written.
    """
    told = classifier.about | classifier.kinds
    with atomic_write(path) as file:
        file.write((json.dumps(told) + "\n").encode())
    return path
