"""Every tunable number once, with its bounds, default, unit and a line of help.

The same models are the form in a panel, the options on the command line, the JSON in a
project and the provenance of a result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["auto", "cpu", "cuda", "mps"]
Invert = Literal["auto", "yes", "no"]


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about names and bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Normalisation(Settings):
    """How grey values become network input; part of a weights' card."""

    low_percentile: float = Field(
        1.0,
        ge=0,
        lt=50,
        title="Low percentile",
        description="Grey value that becomes 0.",
    )
    high_percentile: float = Field(
        99.0,
        gt=50,
        le=100,
        title="High percentile",
        description="Grey value that becomes 1.",
    )
    scope: Literal["section", "stack"] = Field(
        "section",
        title="Statistics of",
        description="Percentiles of each section, or of the whole stack at once.",
    )


class PredictSettings(Settings):
    """One run of a network over a stack."""

    device: Device = Field(
        "auto", title="Device", description="Where the network runs; auto takes a GPU."
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        title="Runtime",
        description="What runs the network; on a CPU, OpenVINO is about twice as fast.",
    )
    tile: int | None = Field(
        None,
        ge=32,
        le=16384,
        title="Tile",
        description="Largest tile side in px; none chooses it from the free memory.",
        json_schema_extra={"unit": "px"},
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=256,
        title="Batch",
        description="Tiles computed at once; none chooses it.",
    )
    half_precision: bool = Field(
        True,
        title="Half precision on GPU",
        description="16-bit arithmetic on CUDA; changes probabilities by at most 0.01.",
    )
    invert: Invert = Field(
        "auto",
        title="Invert",
        description="Membranes are dark in EM; yes if they are bright in yours.",
    )
    statistics: Literal["card", "section", "stack"] = Field(
        "card",
        title="Statistics of",
        description="Percentiles per section or per stack; card: as the weights say.",
    )
    rescale: bool = Field(
        True,
        title="Rescale",
        description="Resample to the voxel size that the weights were trained at.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=512,
        title="Threads",
        description="CPU threads; none takes all cores.",
    )


class CellSettings(Settings):
    """Membrane probabilities to cells."""

    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="Threshold",
        description="Probability above which a pixel is membrane.",
    )
    minimum_size: int = Field(
        100,
        ge=0,
        le=10_000_000,
        title="Minimum size",
        description="Smaller cells are given to their neighbours.",
        json_schema_extra={"unit": "px"},
    )
    seed_distance: float = Field(
        2.0,
        ge=0,
        le=100,
        title="Seed depth",
        description="How much deeper than its surroundings a cell's middle must be.",
        json_schema_extra={"unit": "px"},
    )
