"""How likely an edge between two fragments joins one cell: numbers that were learnt.

What is measured of edges is in `edge_features`, and `training/edges.py` makes it learn.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import data_folder

Features = NDArray[np.float32]

SEEN = {"within": 22, "between": 39}
"""What is measured of a boundary within a section, and of an overlap between two, in
membranes; behind it stand `SAID` of affinities, NaN where there are none."""

SAID = {"within": 2, "between": 3}


@dataclass(frozen=True)
class EdgeClassifier:
    """Small neural networks that say how likely an edge joins one cell.

    Parameters
    ----------
    kinds
        For `within` and `between`: mean and scale of each feature, and for each of
        several networks the weights and biases of its layers.
    about
        What they learnt from, and its licence.
    """

    kinds: dict[str, dict[str, Any]]
    about: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one from JSON.

        Raises
        ------
        ValueError
            If it isn't one.
        """
        try:
            told = json.loads(path.read_text())
            found = cls({name: told[name] for name in ("within", "between")}, told)
        except (KeyError, TypeError, ValueError) as e:
            msg = f"{path} holds no classifier of edges"
            raise ValueError(msg) from e
        return found

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {
            name: (
                np.asarray(kind["mean"], np.float32),
                np.asarray(kind["scale"], np.float32),
                [
                    [
                        (np.asarray(w, np.float32), np.asarray(c, np.float32))
                        for w, c in network
                    ]
                    for network in kind["networks"]
                ],
            )
            for name, kind in self.kinds.items()
        }

    def knows_affinities(self, kind: str) -> bool:
        """Whether it learnt from affinities, too."""
        return len(self._arrays[kind][0]) > SEEN[kind]

    def log_odds(self, kind: str, features: Features) -> NDArray[np.float64]:
        """Log-odds `(m,)` that edges with features `(m, f)` join; unknown is NaN.

        One that learnt from membranes alone doesn't look at the last features.
        """
        mean, scale, networks = self._arrays[kind]
        features = features[:, : len(mean)]
        # what isn't known counts as usual
        x = np.clip(np.nan_to_num((features - mean) / scale), -8, 8)
        total = np.zeros(len(x))
        for network in networks:
            values = x
            for weights, bias in network[:-1]:
                values = np.maximum(values @ weights + bias, 0)
            weights, bias = network[-1]
            total += (values @ weights + bias)[:, 0]
        return total / max(len(networks), 1)


def read_edges(path: Path) -> EdgeClassifier:
    """Read a classifier that says something of all that is measured of edges.

    Raises
    ------
    ValueError
        If the file holds none.
    OSError
        If it can't be read.
    """
    found = EdgeClassifier.load(path)
    try:
        for kind, seen in SEEN.items():
            columns = len(found.kinds[kind]["mean"])
            if columns not in (seen, seen + SAID[kind]):
                raise ValueError(columns)
            found.log_odds(kind, np.zeros((1, columns), np.float32))
    except (KeyError, TypeError, ValueError, IndexError) as e:
        msg = f"{path} learnt of other features of edges than are measured here"
        raise ValueError(msg) from e
    return found


def default_classifier() -> EdgeClassifier | None:
    """Return the classifier of napari-emseg-data; None if that isn't installed."""
    folder = data_folder()
    path = None if folder is None else folder / "weights" / "edges.json"
    return None if path is None or not path.is_file() else EdgeClassifier.load(path)
