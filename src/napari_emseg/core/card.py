"""The card: what a weights file says about itself. JSON in the file's header."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from napari_emseg.core.settings import Heads, Normalisation
from napari_emseg.core.stack import LARGEST_NM, SMALLEST_NM
from napari_emseg.core.tiles import Geometry

MOST_CONTEXT = 2**14
"""Pixels on each side; that of the deepest U-Net is 764."""


def _believable(geometry: Geometry) -> Geometry:
    """Refuse what would make tiles without end."""
    rest = (geometry.context, geometry.remainder, geometry.blend, geometry.smallest)
    if not 1 <= geometry.stride <= MOST_CONTEXT or not all(
        0 <= n <= MOST_CONTEXT for n in rest
    ):
        msg = f"no network has such a geometry: {geometry}"
        raise ValueError(msg)
    return geometry


BelievableGeometry = Annotated[Geometry, AfterValidator(_believable)]
Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=SMALLEST_NM, le=LARGEST_NM)]
BytesPerPixel = Annotated[float, Field(gt=0, le=2**30)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataSet(_Part):
    """Some of the data that weights were made with."""

    name: str
    sections: str
    """In words or ranges, e.g. `9-21`."""
    licence: str = ""
    citation: str = ""


class TrainingRecord(_Part):
    """How weights came to be."""

    hardware: str = ""
    seconds: float = 0.0
    steps: int = 0
    seed: int = 0
    date: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class Variant(_Part):
    """One way to run the same weights, and how well and how fast it does.

    `depth` is None for networks without; `tta` averages mirrors and rotations.
    """

    depth: int | None = None
    heads: Heads = "last"
    tta: bool = False
    config: dict[str, Any] = Field(default_factory=dict)
    """Of the network that is cut to this, and the same three facts as in `Card`."""
    parameters: int = 0
    geometry: BelievableGeometry | None = None
    bytes_per_pixel: BytesPerPixel | None = None
    threshold: Share | None = None
    """Fixed on the validation set; None if never measured."""
    scores: dict[str, float] = Field(default_factory=dict)
    ms_per_megapixel: dict[str, float] = Field(default_factory=dict)

    @property
    def words(self) -> str:
        """Which way it is: `depth 2`, `depth 4, mean of heads`, `mirrors averaged`."""
        parts = [] if self.depth is None else [f"depth {self.depth}"]
        parts += ["mean of heads"] * (self.heads == "mean")
        parts += ["mirrors averaged"] * self.tta
        return ", ".join(parts) or "as it is"


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
    pixel_size_nm: tuple[Length, Length] | None = None
    normalisation: Normalisation = Normalisation()
    threshold: Share = 0.5
    """Of membrane probability, fixed on the validation set."""
    training_data: tuple[DataSet, ...] = ()
    validation_data: tuple[DataSet, ...] = ()
    held_out_data: tuple[DataSet, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    """On the held-out data, scored once, at the end."""
    notes: tuple[str, ...] = ()
    licence: str = ""
    parameters: int = 0
    geometry: BelievableGeometry | None = None
    """Of the network, so that a run can be estimated without building it."""
    bytes_per_pixel: BytesPerPixel | None = None
    """Peak memory of a float32 forward pass per pixel of the window, likewise."""
    ms_per_megapixel: dict[str, float] = Field(default_factory=dict)
    """Measured time by device, e.g. `{"cpu": 900}`; the hardware is in `training`."""
    variants: tuple[Variant, ...] = ()
    """Other ways to run the same weights; the one by default may be among them."""
    parent_sha256: str | None = None
    training: TrainingRecord = TrainingRecord()

    @property
    def further_classes(self) -> tuple[str, ...]:
        """Classes beside membrane and inside, such as mitochondria."""
        return self.classes[2:]

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths to which the network can be cut; empty if it has none."""
        return tuple(sorted({v.depth for v in self.variants if v.depth is not None}))

    def variant(
        self, depth: int | None = None, heads: Heads = "last", *, tta: bool = False
    ) -> Variant | None:
        """Return what is known of one way to run these weights."""
        wanted = depth, heads, tta
        found = (v for v in self.variants if (v.depth, v.heads, v.tta) == wanted)
        return next(found, None)

    def threshold_of(
        self, depth: int | None = None, heads: Heads = "last", *, tta: bool = False
    ) -> float:
        """Return the threshold of membrane of one way to run these weights.

        That of the weights as they are where none was fixed for it.
        """
        known = self.variant(depth, heads, tta=tta)
        fixed = None if known is None else known.threshold
        return self.threshold if fixed is None else fixed
