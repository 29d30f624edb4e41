"""The one record of settings that a batch runs by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from pydantic import Field, field_validator, model_validator

from napari_emseg.core.settings import CellSettings, PredictSettings, Settings
from napari_emseg.io.formats import OutputFormat


class StepRule(Protocol):
    """What settings know of a step.

    Parameters
    ----------
    name
        As in `steps`.
    needs
        Steps that must come before it, unless it is the first one.
    reads
        What inputs hold if it is the first one; empty if it can't be.
    flag
        The setting that asks for it, instead of its name in `steps`.
    settings
        Fields of `BatchSettings` that are about it alone; the dock offers them.
    needs_weights
        It can't be done without weights.
    """

    name: str
    needs: tuple[str, ...]
    reads: str
    flag: str
    settings: tuple[str, ...]
    needs_weights: bool


RULES: dict[str, StepRule] = {}
"""Of all steps, in their order; `pipeline.py` fills it in when this part is loaded."""


def step_names() -> tuple[str, ...]:
    """Return the steps that are chosen by name, in their order."""
    return tuple(name for name, rule in RULES.items() if not rule.flag)


def settings_of_steps() -> tuple[str, ...]:
    """Return the fields of `BatchSettings` that are about one step alone."""
    return tuple(name for rule in RULES.values() for name in rule.settings)


class BatchSettings(Settings):
    """What is done with every input, and how."""

    steps: tuple[str, ...] = Field(
        ("membranes", "cells"),
        title="Stages",
        description="Stages to run, in order and without gaps: membranes, cells, link. "
        "Without membranes, inputs are probabilities.",
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
        title="Cell measurements",
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
        description="Sections up to this side length are processed whole.",
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

    @field_validator("export")
    @classmethod
    def _each_once(cls, names: tuple[OutputFormat, ...]) -> tuple[OutputFormat, ...]:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            msg = f"each format once, got {twice} twice"
            raise ValueError(msg)
        return names

    @model_validator(mode="after")
    def _in_order(self) -> BatchSettings:
        if not _fit_together(self.steps):
            names = step_names()
            first = (name for name in names if RULES[name].reads)
            msg = (
                f"steps are {_listed(names, 'and')}, in this order and without gaps, "
                f"beginning with {_listed(first, 'or')}; got {', '.join(self.steps)}"
            )
            raise ValueError(msg)
        for rule in RULES.values():
            lacking = [need for need in rule.needs if need not in self.steps]
            if rule.flag and getattr(self, rule.flag) and lacking:
                title = type(self).model_fields[rule.flag].title
                msg = f"“{title}” needs the step {lacking[0]}"
                raise ValueError(msg)
        return self

    @property
    def cell_settings(self) -> CellSettings:
        """Settings of cells with what the steps say about linking."""
        return self.cells.model_copy(update={"link": "link" in self.steps})

    @property
    def finds_through(self) -> bool:
        """True if cells may be found through the stack, and not in each section."""
        return "cells" in self.steps and self.cells.through != "sections"

    @property
    def need_weights(self) -> bool:
        """True if one of the steps does."""
        return any(RULES[name].needs_weights for name in self.steps)


def _fit_together(steps: tuple[str, ...]) -> bool:
    """Tell if steps are known, in order, and each has what it needs before it."""
    order = [name for name in step_names() if name in steps]
    if not steps or list(steps) != order or not RULES[steps[0]].reads:
        return False
    return all(set(RULES[name].needs) <= set(steps) for name in steps[1:])


def _listed(names: Iterable[str], word: str) -> str:
    """Return `a, b and c`."""
    *before, last = names
    return f"{', '.join(before)} {word} {last}" if before else last
