"""Settings of training and of learning from corrections, with their bounds."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from napari_emseg.core.card import Context, Offset
from napari_emseg.core.settings import Device, Invert, Settings

LossName = Literal["cross-entropy", "bce-dice", "dice"]


Artefact = Literal["blur", "contrast_step", "charging", "knife_mark", "missing_tissue"]
"""What cutting and imaging do to sections."""


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
    scale: float = Field(
        0.2,
        ge=0,
        le=2,
        title="Size",
        description="Largest change of size of warped patches either way, in octaves: "
        "0.2 is × 0.87 to 1.15, 0.7 × 0.62 to 1.62.",
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
        description="Share of patches for each of the following that has none itself.",
    )
    blur: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Blurred patches",
        description="Share of patches that are out of focus.",
    )
    contrast_step: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Contrast steps",
        description="Share with a step of contrast, as in a montage.",
    )
    charging: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Charging",
        description="Share with bright or dark streaks along rows.",
    )
    knife_mark: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Knife marks",
        description="Share with a straight scratch.",
    )
    missing_tissue: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Missing tissue",
        description="Share with a blank part, of which nothing is learnt.",
    )

    shift: float = Field(
        3.0,
        ge=0,
        le=50,
        title="Misalignment",
        description="Standard deviation of shifts of neighbouring sections.",
        json_schema_extra={"unit": "px"},
    )
    shifted: float = Field(
        0.3,
        ge=0,
        le=1,
        title="Shifted neighbours",
        description="Share of sides of a patch whose neighbouring sections lie beside "
        "their place: one of them, or all.",
    )
    missing_neighbour: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Missing neighbours",
        description="Share of sides on which a neighbouring section is missing, or all "
        "from there on.",
    )
    blank_neighbour: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Blank neighbours",
        description="Share of sides on which nothing is seen in one section.",
    )

    def share_with(self, artefact: Artefact) -> float:
        """Return the share of patches with an artefact."""
        own: float | None = getattr(self, artefact)
        return self.artefacts if own is None else own


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
    self_distillation: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Self-distillation",
        description="Share of what shallower heads (U-Net++) learn that the deepest "
        "one says; 0: from labels alone.",
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
    affinity_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        title="Affinity weight",
        description="What affinities count beside the classes, for networks that have "
        "them.",
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


Trained = Literal["all", "decoder", "head"]


class FinetuneSettings(TrainSettings):
    """One round of learning from corrections."""

    steps: int | None = Field(  # type: ignore[assignment] # a number once a round begins
        None,
        ge=0,
        le=1_000_000,
        title="Steps",
        description="Number of updates of the weights; auto follows how many places "
        "are labelled, and how unlike they are.",
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
    keep_coarse: bool = Field(
        True,
        title="Keep coarse levels",
        description="Give the coarse levels of a U-Net's decoder their numbers back "
        "after learning: old tissue is forgotten there, and new gains little by them.",
    )
    keep_old: float = Field(
        0.15,
        ge=0,
        lt=1,
        title="Keep old",
        description="Of a U-Net: share of the old numbers in those after learning; a "
        "larger one forgets less of old tissue, and learns less of new.",
    )
    rehearsal: float = Field(
        0.25,
        ge=0,
        le=0.9,
        title="Rehearsal",
        description="Share of what the network knew before; 0 lets it forget.",
    )
    rehearsed_share: float = Field(
        0.7,
        gt=0,
        le=1,
        title="Surest",
        description="Of each class the surest predictions are rehearsed, this share.",
    )
    confidence: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Rehearse above",
        description="Rehearse only predictions at least this confident; 0: any.",
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
    context: Context = Field(
        1,
        title="Sections seen",
        description="The section itself and its neighbours: where these show how "
        "membranes go on, and are aligned, fewer cells run together.",
    )
    affinities: bool = Field(
        False,
        title="Affinities",
        description="Learn which voxels are of one cell, too; cells through the stack "
        "are found by them beside membranes.",
    )
    training: TrainSettings = TrainSettings()

    @property
    def device(self) -> Device:
        """Where to train."""
        return self.training.device

    @property
    def is_bundled(self) -> bool:
        """True of our own networks; those of other packages are taken as they are."""
        return self.architecture in ("unet", "unetpp", "cenet")

    def config(self, affinities: Sequence[Offset] = ()) -> dict[str, Any]:
        """Return the configuration of the network.

        Parameters
        ----------
        affinities
            Those that can be learnt, taken if they are wanted.
        """
        if not self.is_bundled:
            return {}
        width = self.width
        if self.architecture == "cenet":
            width = max(4, 4 * round(width / 4))
        config: dict[str, Any] = {"base": width}
        if self.context > 1:
            config["context"] = self.context
        if self.affinities and affinities:
            config["affinities"] = tuple(affinities)
        return config


class SuggestSettings(Settings):
    """Where to correct next."""

    places: int = Field(
        12, ge=1, le=1000, title="Regions", description="How many are listed."
    )
    at_random: float = Field(
        1 / 3,
        ge=0,
        le=1,
        title="At random",
        description="Share of the places that lie anywhere: they tell when to stop "
        "learning, and which threshold is right.",
    )
    side: int = Field(
        96,
        ge=16,
        le=4096,
        title="Size",
        description="Side of a region.",
        json_schema_extra={"unit": "px"},
    )
    sections: int = Field(
        12,
        ge=1,
        le=100_000,
        title="Sections",
        description="At most so many are looked at, evenly over the stack.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        title="Seed",
        description="Another one draws other places at random.",
    )
