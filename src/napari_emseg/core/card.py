"""The card: what a weights file says about itself. JSON in the file's header."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


Context = Literal[1, 3, 5]
"""Sections that a network sees; it says something of the one in the middle."""

Offset = tuple[int, int, int]
"""From a voxel to another one `(z, y, x)`, in sections and network pixels."""

FARTHEST = 64
"""Of an offset along one axis."""

MOST_AFFINITIES = 32


def _distinct(offsets: tuple[Offset, ...]) -> tuple[Offset, ...]:
    """Refuse offsets that say nothing, or that no window could hold."""
    if len(offsets) > MOST_AFFINITIES or len(set(offsets)) < len(offsets):
        msg = f"affinities must be at most {MOST_AFFINITIES}, no two alike"
        raise ValueError(msg)
    for offset in offsets:
        if not any(offset) or max(map(abs, offset)) > FARTHEST:
            msg = (
                "an affinity's offset (z, y, x) leads to another voxel at most "
                f"{FARTHEST} away, got {offset}"
            )
            raise ValueError(msg)
    return offsets


Affinities = Annotated[tuple[Offset, ...], AfterValidator(_distinct)]

USUAL_AFFINITIES: tuple[Offset, ...] = (
    *((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    *((0, -3, 0), (0, 0, -3), (0, -9, 0), (0, 0, -9)),
)
"""To the neighbours along each axis, and in a section farther, too."""


def affinity_names(offsets: Sequence[Offset]) -> tuple[str, ...]:
    """Return what the classes of affinities are called: `affinity z1`, `affinity y9`.

    Offsets are usually negative; of others the sign is said: `affinity z+1`.
    """
    return tuple(f"affinity {_steps(offset)}" for offset in offsets)


def _steps(offset: Offset) -> str:
    along = zip("zyx", offset, strict=True)
    return " ".join(f"{a}{-n}" if n < 0 else f"{a}+{n}" for a, n in along if n)


BelievableGeometry = Annotated[Geometry, AfterValidator(_believable)]
Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=SMALLEST_NM, le=LARGEST_NM)]
BytesPerPixel = Annotated[float, Field(gt=0, le=2**30)]


def _as_now(scores: dict[str, float]) -> dict[str, float]:
    """Give scores of cells the names that they have everywhere.

    Weights of several data sets called them `cells`, 1 less the adapted Rand error, and
    `vi`, both with the data set's name before.
    """
    found = dict(scores)
    for name in scores:
        of = name.removesuffix("cells")
        if name == f"{of}cells" and f"{of}vi" in scores:
            found[f"{of}cells_adapted_rand_error"] = 1 - found.pop(name)
            found[f"{of}cells_vi"] = found.pop(f"{of}vi")
    return found


Scores = Annotated[dict[str, float], AfterValidator(_as_now)]


BY_AFFINITIES = "volume_"
"""How names of scores begin that cells through the stack have reached, which are found
by affinities where the network gives some."""

COUNTS = ("pixels", "splits", "mergers", "false_splits", "false_merges", "true_cells")
"""Ends of the names of scores that are numbers of something."""


def format_score(name: str, value: float) -> str:
    """Return a score of a card for people: counts are whole numbers."""
    return f"{value:,.0f}" if name.endswith(COUNTS) else f"{value:.4f}"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataSet(_Part):
    """Some of the data that weights were made with."""

    name: str
    sections: str
    """In words or ranges, e.g. `9-21`."""
    licence: str = ""
    citation: str = ""

    @property
    def words(self) -> str:
        """For people: `VNC, sections 9-21`, `VNC, parts of section 4`."""
        if not self.sections:
            return self.name
        parts, text = "parts of ", self.sections
        partly = text.startswith(parts)
        numbers = text.removeprefix(parts)
        several = "s" * ("," in numbers or "-" in numbers)
        return f"{self.name}, {parts * partly}section{several} {numbers}"


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
    scores: Scores = Field(default_factory=dict)
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
    """Those that exclude one another come first, then the affinities."""
    context: Context = 1
    """Neighbouring sections that the network sees as channels, in order of z."""
    affinities: Affinities = ()
    """Offsets of its last channels: the probability that a voxel and the one at the
    offset are of one cell. Along z that is the next section with a picture."""
    pixel_size_nm: tuple[Length, Length] | None = None
    normalisation: Normalisation = Normalisation()
    threshold: Share = 0.5
    """Of membrane probability, fixed on the validation set."""
    training_data: tuple[DataSet, ...] = ()
    validation_data: tuple[DataSet, ...] = ()
    held_out_data: tuple[DataSet, ...] = ()
    scores: Scores = Field(default_factory=dict)
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

    @model_validator(mode="after")
    def _affinities_come_last(self) -> Self:
        names = affinity_names(self.affinities)
        if names and self.classes[2:][-len(names) :] != names:
            msg = f"classes must end in {', '.join(names)}; got {self.classes}"
            raise ValueError(msg)
        return self

    @property
    def affinity_classes(self) -> tuple[str, ...]:
        """Names of the affinities among the classes, in the order of their offsets."""
        return affinity_names(self.affinities)

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """What a pixel may be, and a person may paint: all classes but affinities."""
        return self.classes[: len(self.classes) - len(self.affinities)]

    @property
    def links_sections(self) -> bool:
        """True if it sees sections beside each, and says how cells go on there."""
        return self.context > 1 and any(z for z, _, _ in self.affinities)

    @property
    def further_classes(self) -> tuple[str, ...]:
        """Classes beside membrane and inside, such as mitochondria."""
        return self.pixel_classes[2:]

    def without_affinities(self, config: dict[str, Any]) -> Self:
        """Return the card of the network that gives none, rebuilt by `config`."""
        scores = {
            name: value
            for name, value in self.scores.items()
            if not name.startswith(BY_AFFINITIES)
        }
        update = {"classes": self.pixel_classes, "affinities": (), "scores": scores}
        return self.model_copy(update={**update, "config": config})

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
