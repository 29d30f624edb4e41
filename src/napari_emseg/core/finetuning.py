"""Settings of learning from corrections, and of where to correct next."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from napari_emseg.core.settings import Device, Invert, Settings
from napari_emseg.core.training import TrainSettings

Trained = Literal["all", "decoder", "head"]


class FinetuneSettings(TrainSettings):
    """One round of learning from corrections."""

    steps: int = Field(
        200,
        ge=0,
        le=1_000_000,
        title="Steps",
        description="Number of updates of the weights.",
    )
    patch: int = Field(
        192,
        ge=32,
        le=4096,
        title="Patch",
        description="Side of a training patch.",
        json_schema_extra={"unit": "px"},
    )
    learning_rate: float = Field(
        3e-4,
        gt=0,
        le=1,
        title="Learning rate",
        description="Largest rate of the one-cycle; lower keeps more of the old.",
    )
    validate_every: int = Field(
        50,
        ge=1,
        le=100_000,
        title="Validate every",
        description="Steps between two measurements on held-out corrections.",
    )
    trained: Trained = Field(
        "all",
        title="What is trained",
        description="The whole network, all but its encoder, or its last layer only.",
    )
    rehearsal: float = Field(
        0.25,
        ge=0,
        le=0.9,
        title="Rehearsal",
        description="Share of what the network knew before; 0 lets it forget.",
    )
    confidence: float = Field(
        0.9,
        ge=0.5,
        le=1,
        title="Rehearse above",
        description="Only what the weights are so sure of is rehearsed.",
    )
    freeze_statistics: bool = Field(
        True,
        title="Freeze statistics",
        description="Keep batch normalisation's means and variances as they are.",
    )
    patience: int = Field(
        4,
        ge=0,
        le=1000,
        title="Patience",
        description="Measurements without gain after which it stops; 0: never.",
    )
    invert: Invert = Field(
        "auto",
        title="Invert",
        description="Membranes are dark in EM; yes if they are bright in yours.",
    )


class NewWeightsSettings(Settings):
    """New weights, trained from whole sections."""

    architecture: str = Field(
        "unetpp", title="Network", description="Which network is trained."
    )
    width: int = Field(
        16,
        ge=1,
        le=128,
        title="Width",
        description="Channels of the first level; twice as many take four times as "
        "long. CE-Net's are multiples of four.",
    )
    training: TrainSettings = TrainSettings()

    @property
    def device(self) -> Device:
        """Where to train."""
        return self.training.device

    @property
    def config(self) -> dict[str, Any]:
        """Of the network; networks of other packages are taken as they are."""
        if self.architecture == "cenet":
            return {"base": max(4, 4 * round(self.width / 4))}
        known = self.architecture in ("unet", "unetpp")
        return {"base": self.width} if known else {}


class SuggestSettings(Settings):
    """Where to correct next."""

    places: int = Field(
        12, ge=1, le=1000, title="Places", description="How many are listed."
    )
    side: int = Field(
        96,
        ge=16,
        le=4096,
        title="Size",
        description="Side of a place.",
        json_schema_extra={"unit": "px"},
    )
    sections: int = Field(
        12,
        ge=1,
        le=100_000,
        title="Sections",
        description="At most so many are looked at, evenly over the stack.",
    )
