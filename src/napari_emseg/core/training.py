"""Settings of training: steps, rates, the loss, and how patches are varied."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_emseg.core.settings import Device, Settings

LossName = Literal["cross-entropy", "bce-dice", "dice"]


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
        description="Extra weight of thin walls between cells, in every loss; U-Net's "
        "paper takes 10.",
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
