"""Settings of correcting by hand."""

from __future__ import annotations

from pydantic import Field

from napari_emseg.core.settings import Settings


class CorrectSettings(Settings):
    """How the tools draw, and how far they look."""

    width: int = Field(
        3,
        ge=1,
        le=51,
        title="Width",
        description="Of membranes that are drawn.",
        json_schema_extra={"unit": "px"},
    )
    reach: int = Field(
        48,
        ge=4,
        le=512,
        title="Reach",
        description="How far from a click the ends of a gap, or cells, are looked for.",
        json_schema_extra={"unit": "px"},
    )
    window: int = Field(
        256,
        ge=32,
        le=2048,
        title="Live-wire reach",
        description="How far from its last point the live-wire follows the pointer.",
        json_schema_extra={"unit": "px"},
    )
    sliver: int = Field(
        16,
        ge=0,
        le=10_000,
        title="Slivers",
        description="Smaller pieces that an edit cuts off become no cells.",
        json_schema_extra={"unit": "px"},
    )
    steps: int = Field(
        1000,
        ge=100,
        le=100_000,
        title="Steps to undo",
        description="How many edits are kept to be undone.",
    )
    memory: int = Field(
        256,
        ge=16,
        le=65_536,
        title="Memory to undo",
        description="Oldest edits are forgotten when all of them take more than this.",
        json_schema_extra={"unit": "MB"},
    )
