"""What a person said of two places, one cell or two, is kept by every solution."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Constraint
from napari_emseg.segmentation.rag import RegionGraph

Pair = tuple[int, int, bool]
"""Two nodes of a graph, and whether they are one cell."""


class GrowingSets:
    """Sets of nodes, of one each at first, that join unless they are kept apart."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._barred: dict[int, set[int]] = {}

    def find(self, node: int) -> int:
        """Return the node that stands for the set of one."""
        parents, root = self._parents, node
        while parents.get(root, root) != root:
            root = parents[root]
        while node != root:
            parents[node], node = root, parents[node]
        return root

    def bar(self, a: int, b: int) -> bool:
        """Keep two sets apart from now on; False if they are one already."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return False
        self._barred.setdefault(a, set()).add(b)
        self._barred.setdefault(b, set()).add(a)
        return True

    def join(self, a: int, b: int) -> bool:
        """Make two sets one; False if they are kept apart."""
        a, b = sorted((self.find(a), self.find(b)))
        if b in self._barred.get(a, ()):
            return False
        if a != b:
            self._parents[b] = a
            for other in self._barred.pop(b, ()):
                self._barred[other].discard(b)
                self._barred[other].add(a)
                self._barred.setdefault(a, set()).add(other)
        return True


@dataclass(frozen=True, slots=True, eq=False)
class NodeConstraints:
    """Constraints between the nodes of a graph, without contradictions.

    Parameters
    ----------
    joined, apart
        `(k, 2)` nodes of one cell, and of different ones.
    """

    joined: NDArray[np.int64]
    apart: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Self | None:
        """Return those of pairs of nodes; None if nothing is said.

        Where they contradict the last one counts. Node 0 is no fragment, and so nothing
        can be said of it.
        """
        parts = GrowingSets()
        found: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for a, b, same in reversed(pairs):
            if a > 0 and b > 0 and (parts.join if same else parts.bar)(a, b):
                found[same].append((a, b))
        if not pairs:
            return None
        both = (np.array(found[k], np.int64).reshape(-1, 2) for k in (True, False))
        return cls(*both)

    def obeyed(
        self, regions: RegionGraph, parts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Join and cut parts as was said, and change no others.

        Parts become one that hold two nodes of one cell. One that holds two nodes which
        are apart is put together anew, weakest boundaries first, by all that don't join
        them: so it falls apart where the strongest boundary is between.

        Parameters
        ----------
        parts
            `(n,)` what each node is a part of.
        """
        whole = GrowingSets()
        for a, b in parts[self.joined].tolist():
            whole.join(a, b)
        found = parts.copy()
        for part in np.unique(parts[self.joined]).tolist():
            found[parts == part] = whole.find(part)
        a, b = self.apart.T
        wrong = np.unique(found[a[found[a] == found[b]]])
        if len(wrong) == 0:
            return _by_first(found)
        # only what was one part before is joined along boundaries
        both = parts[regions.edges]
        inner = (both[:, 0] == both[:, 1]) & np.isin(found[regions.edges[:, 0]], wrong)
        edges = np.flatnonzero(inner)
        anew = GrowingSets()
        for one, other in self.apart.tolist():
            anew.bar(one, other)
        for one, other in self.joined.tolist():
            anew.join(one, other)
        for edge in edges[np.argsort(regions.strength[edges], kind="stable")]:
            anew.join(*regions.edges[edge].tolist())
        following = int(found.max(initial=0)) + 1
        nodes = np.flatnonzero(np.isin(found, wrong))
        found[nodes] = [following + anew.find(node) for node in nodes.tolist()]
        return _by_first(found)

    def protect(
        self, regions: RegionGraph, parts: NDArray[np.int64], least: int
    ) -> RegionGraph:
        """Return a graph of parts in which none that is kept apart counts as small.

        A small one would be given to its likeliest neighbour: what it was cut from.
        """
        sizes = regions.sizes.copy()
        own = parts[self.apart.ravel()]
        sizes[own] = np.maximum(sizes[own], least)
        return RegionGraph(
            sizes,
            regions.depths,
            regions.edges,
            regions.membrane,
            regions.length,
            regions.openings,
        )


def _by_first(parts: NDArray[Any]) -> NDArray[np.int64]:
    """Return parts numbered by their first nodes; that of node 0 is 0."""
    _, first, which = np.unique(parts, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which].astype(np.int64)


def pairs_of(labels: NDArray[Any], constraints: Iterable[Constraint]) -> list[Pair]:
    """Return the nodes of constraints, of a volume `(z, y, x)` of labels."""
    return [(int(labels[c.first]), int(labels[c.second]), c.same) for c in constraints]


def cut_fragments(
    labels: NDArray[np.uint32], constraints: Iterable[Constraint]
) -> None:
    """Cut fragments, in place, that hold two places of different cells.

    They are cut before the later of the two sections, as a split by hand cuts a cell.
    """
    following = int(labels.max(initial=0)) + 1
    for c in constraints:
        one, other = sorted((c.first, c.second))
        if c.same or labels[one] != labels[other] or one[0] == other[0]:
            continue
        behind = labels[other[0] :]
        behind[behind == labels[other]] = following
        following += 1
