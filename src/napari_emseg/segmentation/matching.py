"""Weighted pairs → the pairs of the best one-to-one assignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def assign(
    left: NDArray[np.int64], right: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose pairs so that nothing is in two of them and their weights sum to most.

    Parts that no pair connects are solved by themselves, so thousands of pairs take
    milliseconds.

    Parameters
    ----------
    left, right
        `(k,)` what each pair consists of; a pair occurs once.
    weight
        `(k,)` above 0.

    Returns
    -------
    Places of the chosen pairs, ascending.
    """
    if len(left) == 0:
        return np.zeros(0, np.int64)
    a, b = (np.unique(side, return_inverse=True)[1] for side in (left, right))
    n = int(a.max()) + int(b.max()) + 2
    graph = coo_array((weight, (a, b + int(a.max()) + 1)), shape=(n, n))
    part = connected_components(graph, directed=False)[1][a]
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order])) + 1
    chosen = [_best(group, a, b, weight) for group in np.split(order, starts)]
    return np.sort(np.concatenate(chosen))


def _best(
    group: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.int64]:
    if len(group) == 1:
        return group
    a, b = (np.unique(side[group], return_inverse=True)[1] for side in (left, right))
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    which = np.full(table.shape, -1)
    table[a, b], which[a, b] = weight[group], group
    found = which[linear_sum_assignment(table, maximize=True)]
    pairs: NDArray[np.int64] = found[found >= 0]
    return pairs
