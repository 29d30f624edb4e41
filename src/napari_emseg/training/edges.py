"""Cells that somebody is done with → a classifier of edges between fragments.

See `segmentation/stack_graph.py` for what is made of it. It learns from every boundary
and every overlap of which both sides are clearly in a known cell.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.labels import Numbering, as_labels
from napari_emseg.core.records import Note, Progress, Record, drain
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
"""Every fifth section with known edges, or the last of fewer than three, is left out
first, to see how good it gets."""

MOST_DENSE = 2**31
"""Ids up to here are told from one another without being ranked."""

TOLD = 50
"""So many steps are made before anybody is told."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class KnownEdges:
    """Edges whose answer is known.

    Parameters
    ----------
    usual
        Log-odds that they join by membrane and size alone.
    """

    features: Features
    join: NDArray[np.bool_]
    section: Ids
    usual: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        features: Features,
        join: NDArray[np.bool_],
        z: int,
        usual: NDArray[np.float64],
    ) -> Self:
        """Return those of one section."""
        return cls(features, join, np.full(len(join), z), usual)

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return those of several sections as one."""
        return cls(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.join for part in parts]),
            np.concatenate([part.section for part in parts]),
            np.concatenate([part.usual for part in parts]),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of them."""
        return type(self)(
            self.features[chosen],
            self.join[chosen],
            self.section[chosen],
            self.usual[chosen],
        )

    @property
    def left_out(self) -> NDArray[np.bool_]:
        """Those by which it is told how good a classifier gets; none of one section."""
        sections = np.unique(self.section)
        if len(sections) < HELD_OUT // 2 + 1:
            apart = sections[1:][-1:]
        else:
            apart = sections[HELD_OUT // 2 :: HELD_OUT]
        return np.isin(self.section, apart)


class CellOrigin(Protocol):
    """Where the ids of cells are from: not all that differ are of two cells."""

    @property
    def apart(self) -> frozenset[tuple[int, int, int]]:
        """A section, an id in the one before, and one in it, that are two cells."""

    def runs(self, z: int) -> Ids:
        """Return which run gave the ids of section `z` `(y, x)`, from 0."""


class _KnownSection(NamedTuple):
    section: SectionGraph
    cells: Ids
    runs: Ids
    z: int


class _Recorder(StackGraph):
    """Keeps the features of edges, and whether they join one known cell."""

    def __init__(self, largest_shift: int, origin: CellOrigin | None) -> None:
        super().__init__(None, largest_shift)
        self.rows: dict[str, list[KnownEdges]] = {kind: [] for kind in KINDS}
        self._origin = origin
        # the last three sections, and what their fragments are
        self._known: list[_KnownSection] = []

    def learn(self, section: SectionGraph, ids: NDArray[Any], z: int) -> None:
        """Take the next section and its known cells `(y, x)`, 0 where unknown."""
        cells = true_ids(section, ids.astype(np.int64))
        runs = np.zeros(section.n, np.int64)
        if self._origin is not None:
            # 0 where a fragment has no clear one
            runs = true_ids(section, self._origin.runs(z) + 1)
        known = _KnownSection(section, cells, runs, z)
        self._known = [*self._known[-2:], known]
        self.add(section)

    def odds_within(
        self,
        section: SectionGraph,
        before: tuple[SectionGraph, CrossEdges] | None,
        after: tuple[SectionGraph, CrossEdges] | None,
    ) -> NDArray[np.float64]:
        """Note the boundaries of a section."""
        features = edges_within(section, before, after)
        known = next(known for known in self._known if known.section is section)
        odds = super().odds_within(section, before, after)
        one, other = known.cells[section.fragments.regions.edges].T
        said = (one > 0) & (other > 0)
        self._note("within", KnownEdges.of(features, one == other, known.z, odds), said)
        return odds

    def odds_between(self, cross: CrossEdges) -> NDArray[np.float64]:
        """Note the edges between the last two sections."""
        before, after = self._known[-2:]
        odds = super().odds_between(cross)
        a, b = cross.ends.T
        one, other = before.cells[a], after.cells[b]
        join, known = one == other, (one > 0) & (other > 0)
        said = join | self._are_two(before, after, a, b)
        if self._origin is None and not (join & known).any():
            # all cells end nowhere in tissue, but where two pieces of work meet
            said[:] = False
        edges = KnownEdges.of(cross.features, join, after.z, odds)
        self._note("between", edges, known & said)
        return odds

    def _are_two(
        self, before: _KnownSection, after: _KnownSection, a: Ids, b: Ids
    ) -> NDArray[np.bool_]:
        """Tell of which fragments it is known that other ids are other cells."""
        if self._origin is None:
            return np.ones(len(a), bool)
        runs = before.runs[a]
        together: NDArray[np.bool_] = (runs == after.runs[b]) & (runs > 0)
        for z, one, other in self._origin.apart:
            if z == after.z:
                together |= (before.cells[a] == one) & (after.cells[b] == other)
        return together

    def _note(self, kind: str, edges: KnownEdges, known: NDArray[np.bool_]) -> None:
        self.rows[kind].append(edges.where(known))


def true_ids(section: SectionGraph, ids: Ids) -> Ids:
    """Return the known cell of each fragment of a section, 0 where it has no clear one.

    Parameters
    ----------
    ids
        Known cells `(y, x)`, 0 where nothing is known.
    """
    labels = section.fragments.labels[section.inside].astype(np.int64)
    here, names = ids[section.inside], None
    width = int(here.max(initial=0)) + 1
    if (
        width > MOST_DENSE
    ):  # ids of 64 bits: a fragment's number beside one wouldn't fit
        names, here = np.unique(here, return_inverse=True)
        width = len(names)
    key, count = np.unique(labels * width + here, return_counts=True)
    fragment, cell = np.divmod(key, width)
    cell = cell if names is None else names[cell]
    order = np.argsort(count, kind="stable")
    most, who = np.zeros(section.n), np.zeros(section.n, np.int64)
    most[fragment[order]], who[fragment[order]] = count[order], cell[order]
    total = np.maximum(np.bincount(labels, minlength=section.n), 1)
    return np.where(most / total > PURE, who, 0)


def check_linked(cells: LazyArray) -> None:
    """Check that cells go on through sections; reads until one does.

    Raises
    ------
    ValueError
        If there is but one section, no id at all, or none that is in two sections.
    """
    n = int(cells.shape[0])
    if n < 2:
        msg = "edges are learnt from two neighbouring sections at least; there is one"
        raise ValueError(msg)
    before = np.zeros(0, np.int64)
    for z in range(n):
        ids = np.unique(as_labels(np.asarray(cells[z]), "cells"))
        ids = ids[ids > 0]
        if np.isin(ids, before).any():
            return
        before = ids if ids.size else before
    if not before.size:
        msg = "no pixel has the id of a cell: all are 0, which says nothing"
        raise ValueError(msg)
    msg = (
        "no id is in two neighbouring sections: these are cells of single sections, "
        "which don't tell how cells go on. Find cells through the stack, and correct "
        "these"
    )
    raise ValueError(msg)


def iter_known_edges(
    membrane: LazyArray,
    cells: LazyArray,
    settings: CellSettings,
    affinities: Affinities | None = None,
    origin: CellOrigin | None = None,
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
    origin
        Where ids are from: across the border of two runs different ids say nothing.
        Without it, that is where no known id goes on to the next section.

    Raises
    ------
    ValueError
        If the shapes differ, or as `check_linked` where no origin is given.
    """
    if tuple(membrane.shape) != tuple(cells.shape):
        msg = (
            f"probabilities are {tuple(membrane.shape)} (z, y, x), but the cells "
            f"{tuple(cells.shape)}"
        )
        raise ValueError(msg)
    if origin is None:
        check_linked(cells)
    recorder, n = _Recorder(settings.shift, origin), int(membrane.shape[0])
    number = Numbering()
    for z in range(n):
        values = np.asarray(membrane[z], np.float32)
        missing = np.isnan(values)
        values = np.where(missing, np.float32(0), values)
        faces = faces_of(affinities, z - 1, z)
        section = SectionGraph.of(values, settings.threshold, missing, faces)
        ids = as_labels(np.asarray(cells[z]), "cells")
        # ids of other programs may be beyond 63 bits; origins tell of them as they are
        recorder.learn(section, number(ids) if origin is None else ids, z)
        yield Progress("edges", z + 1, n)
    recorder.finish()
    nothing = KnownEdges(
        np.zeros((0, 1), np.float32), np.zeros(0, bool), *np.zeros((2, 0), np.int64)
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
    origin: CellOrigin | None = None,
    start: EdgeClassifier | None = None,
    about: str = "",
    seed: int = 0,
) -> Generator[Record, None, EdgeClassifier]:
    """Let a classifier of edges learn from cells; yields Progress and a Note.

    The Note says how many edges that are left out at first it gets right, and how many
    `start` does, or membrane and size alone; then it learns from all. `about` of the
    classifier has that as `scores`.

    Parameters
    ----------
    membrane, cells, affinities, origin
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
        If there are too few edges to learn from, or as `iter_known_edges`.
    """
    settings = settings or CellSettings()
    known = yield from iter_known_edges(membrane, cells, settings, affinities, origin)
    for kind, edges in known.items():
        check_enough(kind, edges)
    kinds: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, float]] = {}
    for kind, edges in known.items():
        before = None if start is None else start.kinds[kind]
        left_out = edges.left_out
        if 0 < left_out.sum() < len(left_out):
            apart = edges.where(left_out)
            rest = edges.where(~left_out)
            tried = yield from iter_fit(kind, rest, seed, before, "without held-out")
            old = apart.usual if start is None else start.log_odds(kind, apart.features)
            new = EdgeClassifier({kind: tried}, {}).log_odds(kind, apart.features)
            scores[kind] = {
                "edges": len(apart.join),
                "right": float(((new > 0) == apart.join).mean()),
                "before": float(((old > 0) == apart.join).mean()),
            }
        kinds[kind] = yield from iter_fit(kind, edges, seed, before)
    said = [_describe(*each, new=start is None) for each in scores.items()]
    yield from map(Note, said)
    told = {
        "about": about or "Which fragments of a stack of sections are one cell",
        "edges": {kind: len(edges.join) for kind, edges in known.items()},
        "held_out": said,
        "scores": scores,
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
        f"{n} edges between fragments {where} are known: {joins} join one cell, "
        f"{n - joins} don't; at least {LEAST} are needed, {LEAST // 10} of either. "
        "Correct or review more cells"
    )
    raise ValueError(msg)


def _describe(kind: str, scores: dict[str, float], *, new: bool) -> str:
    """Say how many edges a classifier gets right, and how many another one did."""
    before = "by membrane and size alone" if new else "were before"
    return (
        f"{scores['right']:.1%} of {scores['edges']} left-out edges {kind} sections "
        f"are right, {scores['before']:.1%} {before}"
    )


def _known_features(kind: str, features: Features) -> Features:
    """Leave out those of affinities where none are known."""
    seen = SEEN[kind]
    if np.isnan(features[:, seen:]).all():
        return features[:, :seen]
    return features


def fit(
    kind: str, edges: KnownEdges, seed: int, start: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train small networks on known edges; see `iter_fit`."""
    return drain(iter_fit(kind, edges, seed, start))


def iter_fit(
    kind: str,
    edges: KnownEdges,
    seed: int,
    start: dict[str, Any] | None = None,
    which: str = "all",
) -> Generator[Record, None, dict[str, Any]]:
    """Train small networks on known edges; return their numbers, for `EdgeClassifier`.

    Parameters
    ----------
    kind
        `within` or `between`.
    start
        Numbers to learn on from.
    which
        Edges, in words, for those who follow it.
    """
    import torch

    if start is None:
        x = _known_features(kind, edges.features)
        # of what is known of each feature, which may be nothing
        count = np.maximum((~np.isnan(x)).sum(0), 1)
        mean = np.nansum(x, 0, np.float64) / count
        scale = np.sqrt(np.nansum((x - mean) ** 2, 0) / count)
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
    n = NETWORKS if start is None else len(start["networks"])
    share = 1 if start is None else 1 / 3
    steps = int(max(STEPS, EPOCHS * (len(features) // BATCH)) * share)
    for k in range(n):
        numbers = None if start is None else start["networks"][k]
        network = _network(x.shape[1], seed + k, numbers)
        learning = _descend(network, features, target, RATE * share, steps, seed + k)
        for done in learning:
            step = f"learning {kind} sections ({which})"
            yield Progress(step, k * steps + done, n * steps)
        networks.append(_numbers(network))
    return {
        "mean": [round(float(v), 5) for v in mean],
        "scale": [round(float(v), 5) for v in scale],
        "networks": networks,
    }


def _network(inputs: int, seed: int, numbers: Any | None) -> "nn.Sequential":
    """Return a network, with the numbers of its layers if there are any."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(inputs, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1),
        )
    layers = [m for m in network if isinstance(m, nn.Linear)]
    given = [] if numbers is None else [tuple(map(torch.tensor, n)) for n in numbers]
    wanted = [tuple(layer.weight.T.shape) for layer in layers]
    if given and [tuple(weights.shape) for weights, _ in given] != wanted:
        msg = f"the classifier to begin with has other layers than {wanted}"
        raise ValueError(msg)
    with torch.no_grad():
        for layer, (weights, bias) in zip(layers, given, strict=False):
            layer.weight.copy_(weights.T)
            layer.bias.copy_(bias)
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
    network: "nn.Sequential",
    features: Any,
    target: Any,
    rate: float,
    steps: int,
    seed: int,
) -> Iterator[int]:
    """Let a network learn; yield now and then how many steps are done."""
    import torch
    from torch import nn

    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    chance = torch.Generator().manual_seed(seed).get_state()
    for first in range(0, steps, TOLD):
        # numbers of its own, whatever others draw while nobody asks it to go on
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(chance)
            for _ in range(first, min(steps, first + TOLD)):
                chosen = torch.randint(len(features), (min(BATCH, len(features)),))
                odds = network(features[chosen])[:, 0]
                loss = nn.functional.binary_cross_entropy_with_logits(
                    odds, target[chosen]
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            chance = torch.get_rng_state()
        yield min(steps, first + TOLD)
    network.eval()
