"""Every tunable number once, with its bounds, default, unit and a line of help.

The same models are the form in a panel, the options on the command line, the JSON in a
project and the provenance of a result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Device = Literal["auto", "cpu", "cuda", "mps"]
Invert = Literal["auto", "yes", "no"]
CellMethod = Literal["agglomeration", "multicut", "mutex-watershed"]
LossName = Literal["cross-entropy", "bce-dice", "dice"]
Heads = Literal["last", "mean"]


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

    depth: int | None = Field(
        None,
        ge=1,
        le=4,
        title="Depth",
        description="U-Net++ cut to this depth: faster; auto: as the weights are.",
    )
    heads: Heads = Field(
        "last",
        title="Heads",
        description="U-Net++: its last head (fast), or the mean of all (accurate).",
    )
    tta: bool = Field(
        False,
        title="Average mirrors",
        description="Mean over 8 mirrors and rotations; takes 8 times as long.",
    )
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
        description="Largest tile side in px; auto chooses it from the free memory.",
        json_schema_extra={"unit": "px"},
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=256,
        title="Batch",
        description="Tiles computed at once; auto chooses it.",
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
        description="CPU threads; auto takes all cores.",
    )

    @field_validator("depth", "tile", "batch", "threads", mode="before")
    @classmethod
    def _auto_is_none(cls, value: object) -> object:
        return None if value == "auto" else value


class CellSettings(Settings):
    """Membrane probabilities to cells."""

    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="Threshold",
        description="Probability above which a pixel is membrane.",
    )
    method: CellMethod = Field(
        "agglomeration",
        title="Method",
        description="How fragments become cells: joined weakest membrane first, by the "
        "best cut of all, or kept apart by the strongest membranes.",
    )
    join: float = Field(
        0.62,
        ge=0,
        le=1,
        title="Join below",
        description="Fragments are one cell where the membrane between them is weaker "
        "than this; a probability at the threshold counts as 0.5, wide openings weaken "
        "it.",
    )
    minimum_size: int = Field(
        100,
        ge=0,
        le=10_000_000,
        title="Minimum size",
        description="Cells of fewer pixels are too small to be cells.",
        json_schema_extra={"unit": "px"},
    )
    small: Literal["merge", "remove"] = Field(
        "merge",
        title="Small cells",
        description="Give them to the cell they flow into, or make them background.",
    )
    grow: int = Field(
        12,
        ge=0,
        le=100,
        title="Grow cells",
        description="How far cells reach into membranes; a line always stays between.",
        json_schema_extra={"unit": "px"},
    )
    link: bool = Field(
        False,
        title="Link sections",
        description="Give the profiles of one cell in all sections the same id.",
    )
    overlap: float = Field(
        0.2,
        gt=0,
        le=1,
        title="Least overlap",
        description="Profiles of one cell share at least this much of what either "
        "covers.",
    )
    shift: int = Field(
        40,
        ge=0,
        le=1000,
        title="Largest shift",
        description="Sections may be displaced against each other by this much.",
        json_schema_extra={"unit": "px"},
    )
    branches: Literal["returning", "all", "none"] = Field(
        "returning",
        title="Branches",
        description="Which profiles within another are branches of its cell: those "
        "that leave and return to it and short bits, all, or none.",
    )


class AugmentSettings(Settings):
    """How training patches are varied; what the paper does, and what real EM does."""

    elastic_sigma: float = Field(
        10.0,
        ge=0,
        le=50,
        title="Elastic deformation",
        description="Standard deviation of the displacements on the coarse grid.",
        json_schema_extra={"unit": "px"},
    )
    elastic_grid: int = Field(
        3,
        ge=2,
        le=32,
        title="Elastic grid",
        description="Displacements are drawn on a grid of this many points squared.",
    )
    warp: float = Field(
        0.7,
        ge=0,
        le=1,
        title="Warped patches",
        description="Share of patches that are deformed and turned by any angle.",
    )
    contrast: float = Field(
        0.25,
        ge=0,
        le=0.9,
        title="Grey-value changes",
        description="Largest relative change of contrast, brightness and gamma.",
    )
    noise: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Noise",
        description="Largest standard deviation of added noise (1 = the grey range).",
    )
    invert: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Inverted patches",
        description="Share of patches in which dark and bright are swapped.",
    )
    artefacts: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Artefacts",
        description="Chance of each: blank area, knife mark, streaks, blur, step.",
    )


class TrainSettings(Settings):
    """One training run."""

    steps: int = Field(
        1500,
        ge=1,
        le=1_000_000,
        title="Steps",
        description="Number of updates of the weights.",
    )
    patch: int = Field(
        256,
        ge=32,
        le=4096,
        title="Patch",
        description="Side of a training patch.",
        json_schema_extra={"unit": "px"},
    )
    batch: int = Field(
        4, ge=1, le=256, title="Batch", description="Patches in one step."
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw",
        title="Optimiser",
        description="adamw with a one-cycle rate; sgd with momentum 0.99 (paper).",
    )
    learning_rate: float = Field(
        2e-3,
        gt=0,
        le=1,
        title="Learning rate",
        description="Largest rate of the one-cycle; the constant rate of sgd.",
    )
    weight_decay: float = Field(
        1e-4, ge=0, le=1, title="Weight decay", description="Decoupled, for adamw."
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Averaging",
        description="Keep a running mean of the weights, with this share of the old "
        "mean at every step; 0 keeps the weights themselves.",
    )
    loss: LossName = Field(
        "cross-entropy",
        title="Loss",
        description="cross-entropy is U-Net's, bce-dice U-Net++'s, dice CE-Net's.",
    )
    border_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        title="Border weight w0",
        description="Extra weight of thin walls between cells; the paper takes 10.",
    )
    border_sigma: float = Field(
        5.0,
        gt=0,
        le=100,
        title="Border width σ",
        description="How fast that weight falls with the distance to both cells.",
        json_schema_extra={"unit": "px"},
    )
    balance: bool = Field(
        False,
        title="Balance classes",
        description="Weight w_c: every class counts alike, however rare it is.",
    )
    validate_every: int = Field(
        250,
        ge=1,
        le=100_000,
        title="Validate every",
        description="Steps between two measurements on the validation set.",
    )
    half_precision: bool = Field(
        True,
        title="Half precision",
        description="bfloat16 where the device computes faster with it.",
    )
    device: Device = Field(
        "auto", title="Device", description="Where to train; auto takes a GPU."
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        title="Seed",
        description="The same seed gives the same result on one device.",
    )
    augment: AugmentSettings = AugmentSettings()


class CheckSettings(Settings):
    """What of a section is worth a word, measured against the rest of its stack."""

    blur: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="Blurred below",
        description="Sharpness as a share of the stack's median.",
    )
    contrast: float = Field(
        2.0,
        gt=1,
        le=100,
        title="Contrast changed by",
        description="Factor between its grey range and the stack's median.",
    )
    jump: float = Field(
        14.0,
        gt=0,
        le=10_000,
        title="Jump of",
        description="Shift against the section before.",
        json_schema_extra={"unit": "px"},
    )
