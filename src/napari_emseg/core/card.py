"""The card: what a weights file says about itself. JSON in the file's header."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from napari_emseg.core.settings import Normalisation
from napari_emseg.core.tiles import Geometry


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataSet(_Part):
    """Some of the data that weights were made with."""

    name: str
    sections: str
    """In words or ranges, e.g. `9-21`."""
    licence: str = ""
    citation: str = ""


class Training(_Part):
    """How weights came to be."""

    hardware: str = ""
    seconds: float = 0.0
    steps: int = 0
    seed: int = 0
    date: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class Card(_Part):
    """What a weights file says about itself.

    `architecture` and `config` rebuild the network; `classes[k]` names channel k of its
    logits; `pixel_size_nm` `(y, x)` is what it was trained at (None: any).
    """

    name: str
    summary: str = ""
    architecture: str
    config: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = ("membrane", "inside")
    pixel_size_nm: tuple[float, float] | None = None
    normalisation: Normalisation = Normalisation()
    threshold: float = 0.5
    """Of membrane probability, fixed on the validation set."""
    training_data: tuple[DataSet, ...] = ()
    validation_data: tuple[DataSet, ...] = ()
    held_out_data: tuple[DataSet, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    """On the held-out data, scored once, at the end."""
    notes: tuple[str, ...] = ()
    licence: str = ""
    parameters: int = 0
    geometry: Geometry | None = None
    """Of the network, so that a run can be estimated without building it."""
    bytes_per_pixel: float | None = None
    """Peak memory of a float32 forward pass per pixel of the window, likewise."""
    ms_per_megapixel: dict[str, float] = Field(default_factory=dict)
    """Measured time by device, e.g. `{"cpu": 900}`; the hardware is in `training`."""
    parent_sha256: str | None = None
    training: Training = Training()
