"""Membrane of regions of sections, for what measures or completes by weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference.predictor import Predictor
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.models.weights import Weights

if TYPE_CHECKING:
    import torch


class RegionPredictor:
    """Predicts regions as `Predictor.run` does for users; keeps the last section.

    Parameters
    ----------
    device
        Where the network runs, by PyTorch.
    """

    def __init__(self, weights: Weights, device: torch.device | str) -> None:
        self.weights = weights
        self._settings = PredictSettings(device=str(device), runtime="torch")
        self._predictor = Predictor(weights)
        self._reader: SectionReader | None = None

    def open(self, stack: Stack, z: int, *, invert: bool) -> Section:
        """Return section `z` as the network sees it.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        return self._reader_of(stack, invert=invert).open(z)

    def membrane(
        self, stack: Stack, region: Region, *, invert: bool
    ) -> NDArray[np.float32] | None:
        """Return probabilities `(y, x)` of a region; None if its section is blank.

        Raises
        ------
        OSError, ValueError
            As `open`.
        """
        if self.open(stack, region.z, invert=invert).blank:
            return None
        run = self._predictor.run(
            stack,
            settings=self._settings,
            sections=(region.z,),
            roi=region.area,
            reader=self._reader_of(stack, invert=invert),
        )
        found = drain(run).probabilities
        return None if found is None else found[0]

    def _reader_of(self, stack: Stack, *, invert: bool) -> SectionReader:
        rule = self.weights.card.normalisation
        reader = self._reader
        if reader is None or not reader.serves(stack, rule, invert=invert):
            reader = SectionReader(stack, rule, invert=invert, remember=True)
            self._reader = reader
        return reader
