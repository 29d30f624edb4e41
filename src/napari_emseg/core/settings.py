"""Settings of runs, checks, cells, tools and the preview, with their bounds."""

from collections.abc import Mapping
from re import fullmatch
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
    model_validator,
)

DeviceKind = Literal["auto", "cpu", "cuda", "mps"]


def _check_device(name: str) -> str:
    """Let kinds of devices pass, and GPUs by number; if they exist is known later."""
    if name not in get_args(DeviceKind) and not fullmatch("cuda:[0-9]{1,3}", name):
        msg = "'auto', 'cpu', 'cuda' or 'mps', or a GPU by its number such as 'cuda:1'"
        raise ValueError(msg)
    return name


Device = Annotated[DeviceKind | str, AfterValidator(_check_device)]
"""`cuda` is the first GPU, `cuda:1` the second."""

Invert = Literal["auto", "yes", "no"]
CellMethod = Literal["agglomeration", "multicut", "mutex-watershed"]
Through = Literal["sections", "auto", "3-d", "graph"]
Heads = Literal["last", "mean"]
Precision = Literal["auto", "float32", "bf16", "int8"]


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
        title="Normalise per",
        description="Percentiles of each section, or of the whole stack at once.",
    )


class PredictSettings(Settings):
    """One run of a network over a stack."""

    depth: int | None = Field(
        None,
        ge=1,
        le=4,
        title="Depth",
        description="Prune U-Net++ to this depth (shallower is faster); auto keeps the "
        "model's own.",
    )
    heads: Heads = Field(
        "last",
        title="Heads",
        description="U-Net++: its last head (fast), or the mean of all (accurate).",
    )
    tta: bool = Field(
        False,
        title="Test-time augmentation",
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
    precision: Precision = Field(
        "auto",
        title="Precision",
        description="Arithmetic of the network. float32: exact. bf16, int8: faster on "
        "a CPU, by OpenVINO. auto: for long runs the fastest that changes cells on "
        "parts of the stack by at most 0.002, else float32; float16 on CUDA.",
    )
    invert: Invert = Field(
        "auto",
        title="Invert",
        description="Membranes are dark in EM; yes if they are bright in yours.",
    )
    statistics: Literal["card", "section", "stack"] = Field(
        "card",
        title="Normalise per",
        description="Percentiles per section or per stack; card: as the weights say.",
    )
    views: Literal[1, 3] = Field(
        1,
        title="Views",
        description="3: mean of what the network says of planes along z, y and x; for "
        "voxels no more than twice as long as wide. Takes three to five times as long; "
        "the live preview shows one view.",
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

    @field_validator("views", mode="before")
    @classmethod
    def _views_in_words(cls, value: object) -> object:
        return int(value) if value in ("1", "3") else value

    @model_validator(mode="before")
    @classmethod
    def _without_half_precision(cls, values: Any) -> Any:
        """Read `half_precision`, which was there before `precision`: off is float32."""
        if not isinstance(values, Mapping) or "half_precision" not in values:
            return values
        now = dict(values)
        half = TypeAdapter(bool).validate_python(now.pop("half_precision"))
        if not half and now.get("precision", "auto") == "auto":
            now["precision"] = "float32"
        return now


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
        title="Merge threshold",
        description="Fragments are one cell where the membrane between them is weaker "
        "than this; a probability at the threshold counts as 0.5, wide openings weaken "
        "it.",
    )
    minimum_size: int = Field(
        100,
        ge=0,
        le=10_000_000,
        title="Minimum size",
        description="Cells smaller than this are merged or removed.",
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
        description="How far cells reach into membranes; in sections a line stays "
        "between them, in 3-D they touch.",
        json_schema_extra={"unit": "px"},
    )
    through: Through = Field(
        "sections",
        title="Through the stack",
        description="Find cells section by section; in three dimensions, for voxels no "
        "more than twice as long as wide; or by one graph of all sections, for longer "
        "ones. Auto goes by the voxel size.",
    )
    link: bool = Field(
        False,
        title="Link sections",
        description="Give the profiles of one cell in all sections the same id; cells "
        "found in three dimensions have one anyhow.",
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


class LiveSettings(Settings):
    """How the field of view is predicted while one moves."""

    rest_ms: int = Field(
        80,
        ge=0,
        le=5000,
        title="Rest",
        description="The view must rest for so long before it is predicted.",
        json_schema_extra={"unit": "ms"},
    )
    first_s: float = Field(
        0.3,
        gt=0,
        le=60,
        title="First picture",
        description="Off by default if 512² px take longer at the lowest depth.",
        json_schema_extra={"unit": "s"},
    )
    refined_s: float = Field(
        1.0,
        gt=0,
        le=600,
        title="Refined picture",
        description="A depth that takes longer than this for the view is left out.",
        json_schema_extra={"unit": "s"},
    )
    tile: int = Field(
        640,
        ge=128,
        le=4096,
        title="Tile",
        description="Largest tile side; a view that is outdated stops between two.",
        json_schema_extra={"unit": "px"},
    )
    most_megapixels: float = Field(
        4.2,
        gt=0,
        le=1000,
        title="Largest view",
        description="Larger views are never previewed.",
        json_schema_extra={"unit": "Mpx"},
    )


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
        title="Search radius",
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
        title="Minimum fragment",
        description="Pieces smaller than this are discarded when an edit cuts them "
        "off.",
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
