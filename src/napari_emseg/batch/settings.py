"""The one record of settings that a batch runs by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from napari_emseg.core.settings import CellSettings, PredictSettings, Settings
from napari_emseg.io.formats import OutputFormat

Step = Literal["membranes", "cells", "link"]
STEPS: tuple[Step, ...] = ("membranes", "cells", "link")


class BatchSettings(Settings):
    """What is done with every input, and how."""

    steps: tuple[Step, ...] = Field(
        ("membranes", "cells"),
        title="Steps",
        description="What is done: membranes, cells, link; in this order, none left "
        "out between. Without membranes, inputs are probabilities.",
    )
    predict: PredictSettings = PredictSettings()
    cells: CellSettings = CellSettings()
    probabilities: Literal["uint8", "float32"] = Field(
        "uint8",
        title="Probabilities as",
        description="Stored as round(255 p) in a byte, or as float32.",
    )
    output: Literal["zarr", "tiff"] = Field(
        "zarr",
        title="Results as",
        description="OME-Zarr, or TIFF made of it at the end.",
    )
    export: tuple[OutputFormat, ...] = Field(
        (),
        title="Also as",
        description="Formats in which each result is written besides.",
    )
    table: bool = Field(
        False,
        title="Table of cells",
        description="Also a CSV file with each cell's area and volume in nm, its "
        "sections, and the strength of the membrane around it.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=10,
        title="Retries",
        description="How often a block that failed is tried again.",
    )
    block: int = Field(
        2048,
        ge=1024,
        le=16384,
        multiple_of=1024,
        title="Block",
        description="Side of the parts that large sections are worked in.",
        json_schema_extra={"unit": "px"},
    )
    whole: int = Field(
        4096,
        ge=64,
        le=32768,
        title="Whole sections up to",
        description="Sections of up to this squared are worked in one piece.",
        json_schema_extra={"unit": "px"},
    )

    @field_validator("steps", "export", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Take `a,b` for `a` and `b`, as on the command line."""
        words = [value] if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(w, str) for w in words):
            return tuple(p.strip() for w in words for p in w.split(","))
        return value

    @model_validator(mode="after")
    def _in_order(self) -> BatchSettings:
        places = [STEPS.index(step) for step in self.steps]
        wanted = list(range(places[0], places[0] + len(places))) if places else []
        if not places or places != wanted or self.steps[0] == "link":
            msg = (
                "steps are membranes, cells and link, in this order and without gaps, "
                f"beginning with membranes or cells; got {', '.join(self.steps)}"
            )
            raise ValueError(msg)
        if self.table and "cells" not in self.steps:
            msg = "a table of cells needs the step cells"
            raise ValueError(msg)
        return self

    @property
    def cell_settings(self) -> CellSettings:
        """Settings of cells with what the steps say about linking."""
        return self.cells.model_copy(update={"link": "link" in self.steps})
