"""How likely an edge between two fragments joins one cell: numbers that were learnt.

What is measured of edges is in `edge_features`, and `training/edges.py` makes it learn.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import data_folder
from napari_emseg.core.atomic import atomic_write
from napari_emseg.core.errors import SettingError
from napari_emseg.core.paths import read_bounded
from napari_emseg.core.records import ClassifierRef
from napari_emseg.core.settings import CellSettings

Features = NDArray[np.float32]

SEEN = {"within": 22, "between": 39}
"""What is measured of a boundary within a section, and of an overlap between two, in
membranes; behind it stand `SAID` of affinities, NaN where there are none."""

SAID = {"within": 2, "between": 3}

MOST_BYTES = 2**24
"""Of a file; one that was learnt here has a hundredth of that."""


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

    kinds: dict[str, dict[str, Any]] = field(repr=False)  # 70 kB in words
    about: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one from JSON.

        Raises
        ------
        ValueError
            If it isn't one.
        OSError
            If it can't be read, or is far too large.
        """
        content = read_bounded(path, MOST_BYTES)
        try:
            told = json.loads(content)
            kinds = {name: told[name] for name in SEEN}
        except (KeyError, RecursionError, TypeError, ValueError) as e:
            msg = f"{path} holds no classifier of edges"
            raise ValueError(msg) from e
        return cls(kinds, told)

    @property
    def name(self) -> str:
        """What it learnt from, for people, with the beginning of its checksum."""
        about = " ".join(str(self.about.get("about") or "unknown cells").split())
        return f"{about[:80]} ({self.sha256[:8]})"

    @property
    def ref(self) -> ClassifierRef:
        """What is remembered of it beside cells that were found by it."""
        return ClassifierRef(self.name, self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Checksum of its numbers, whatever is said of them."""
        numbers = json.dumps(self.kinds, sort_keys=True)
        return sha256(numbers.encode()).hexdigest()

    def check_numbers(self) -> None:
        """Check that it says something finite of all that is measured of edges.

        Raises
        ------
        ValueError
            If it doesn't.
        """
        for kind, seen in SEEN.items():
            mean, scale, networks = self._arrays[kind]
            values = [mean, scale, *(v for n in networks for layer in n for v in layer)]
            if not networks or not all(np.isfinite(v).all() for v in values):
                msg = f"no networks {kind} sections, or numbers that aren't finite"
                raise ValueError(msg)
            columns = mean.size
            known = columns in (seen, seen + SAID[kind]) and (scale > 0).all()
            if not known or not mean.shape == scale.shape == (columns,):
                msg = f"{columns} features of edges {kind} sections are not known here"
                raise ValueError(msg)
            found = self.log_odds(kind, np.zeros((2, columns), np.float32))
            if found.shape != (2,) or any(n[-1][1].size != 1 for n in networks):
                msg = f"networks {kind} sections give no log-odds"
                raise ValueError(msg)

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        with np.errstate(over="ignore"):  # infinite numbers are refused when it is read
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


class UnusedEdgesError(SettingError, ValueError):
    """A classifier of edges is given, and cells are found without one."""

    remedies: Mapping[str, object] = {"through": "graph"}


def check_used(settings: CellSettings) -> None:
    """Check that cells may be found by a classifier of edges.

    Raises
    ------
    UnusedEdgesError
        If they are found section by section, or in three dimensions.
    """
    if settings.through in ("sections", "3-d"):
        by = "section by section" if settings.through == "sections" else "by volume"
        msg = f"cells are found {by}, which asks no classifier of edges"
        raise UnusedEdgesError(msg)


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
        found.check_numbers()
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as e:
        msg = (
            f"{path} is damaged, or learnt of other features of edges than are "
            "measured here"
        )
        raise ValueError(msg) from e
    return found


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


def default_classifier() -> EdgeClassifier | None:
    """Return the classifier of napari-emseg-data; None if that isn't installed."""
    folder = data_folder()
    path = None if folder is None else folder / "weights" / "edges.json"
    return None if path is None or not path.is_file() else EdgeClassifier.load(path)
