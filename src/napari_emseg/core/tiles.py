"""Overlap-tile geometry: which pixels a network reads, and which of its results stay.

A picture in source pixels becomes a list of tiles. Of each tile the *core* is kept and
the *window* is what the network sees; what lies between them is the halo.

      window (network pixels, origin on a multiple of the stride)
    ┌──────────────────────┐
    │  halo ≥ context      │      Outside the picture the window is mirrored
    │   ┌──────────────┐   │      (Ronneberger 2015, fig. 2). Window and core are
    │   │     core     │   │      related by `zoom`, network pixels per source pixel;
    │   └──────────────┘   │      both directions are sampled at absolute positions,
    │                      │      so that the result doesn't depend on the tiles.
    └──────────────────────┘

Where the result of a network does depend on the window, neighbouring cores overlap and
are blended (`ImportanceMap`): what is kept of a tile is its core with that overlap.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.errors import WorkFailedError


@dataclass(frozen=True, slots=True)
class Taps:
    """Weights `(m, k)` of the input pixels `index` `(m, k)` for m output pixels."""

    index: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def span(self) -> tuple[int, int]:
        """First and one past the last input pixel used."""
        return int(self.index.min()), int(self.index.max()) + 1

    def apply(
        self, values: NDArray[np.float32], axis: int, origin: int
    ) -> NDArray[np.float32]:
        """Resample `values`, whose first pixel along `axis` is `origin`."""
        index = self.index - origin
        if index.shape[1] == 1:
            return values.take(index[:, 0], axis=axis)
        shape = [1] * values.ndim
        shape[axis] = -1
        out = values.take(index[:, 0], axis=axis) * self.weight[:, 0].reshape(shape)
        for k in range(1, index.shape[1]):
            out += values.take(index[:, k], axis=axis) * self.weight[:, k].reshape(
                shape
            )
        return out


@dataclass(frozen=True, slots=True)
class Axis:
    """One in-plane axis: `size` source pixels, `zoom` network pixels for each."""

    size: int
    zoom: float

    @property
    def network_size(self) -> int:
        """Length of the picture in network pixels."""
        # a product such as 100 × 1.1 = 110.00000000000001 must not need one more pixel
        return max(1, ceil(self.size * self.zoom - 1e-6))

    def to_network(self, start: int, stop: int) -> Taps:
        """Source pixels for network pixels `start`…`stop`, mirrored at the border."""
        # mirrored among network pixels: one beyond the border has exactly the value of
        # its mirror image, which source pixels on another grid couldn't give
        position = mirror(np.arange(start, stop), self.network_size)
        return _taps(position, self.zoom, self.size)

    def to_source(self, start: int, stop: int) -> Taps:
        """Network pixels for source pixels `start`…`stop`."""
        return _taps(np.arange(start, stop), 1 / self.zoom, self.network_size)


def _taps(position: NDArray[np.intp], zoom: float, n_in: int) -> Taps:
    """Linear interpolation; a triangle as wide as an output pixel when shrinking."""
    if zoom == 1:
        return Taps(position[:, None], np.ones((len(position), 1), np.float32))
    # pixels are squares with their middle at + 0.5, so that both grids share their
    # outer edge, not the middle of their first pixels (torch: align_corners=False)
    centre = (position + 0.5) / zoom - 0.5
    # half the base of the triangle in input pixels: linear interpolation when
    # enlarging, antialiased when shrinking, as Pillow's bilinear filter
    support = max(1.0, 1 / zoom)
    first = np.ceil(centre - support).astype(np.intp)
    index = first[:, None] + np.arange(floor(2 * support) + 1)
    weight = np.clip(1 - np.abs(index - centre[:, None]) / support, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    # beyond the ends the last pixel counts for all
    return Taps(np.clip(index, 0, n_in - 1), weight.astype(np.float32))


def mirror(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Fold indices into `0 … size - 1` by mirrors in the middle of the border pixels.

    Works however far outside they lie, like `numpy.pad(mode="reflect")`.
    """
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    # border pixels aren't repeated: 0 1 2 3 2 1 | 0 1 …, a period of 2 (size - 1)
    index = np.mod(index, period)
    return np.minimum(index, period - index)


@dataclass(frozen=True, slots=True)
class ImportanceMap:
    """Weight of one tile along one axis, in source pixels.

    Parameters
    ----------
    first, last
        Borders that the tile shares with its neighbours; None where there is none.
    reach
        Pixels on each side of a border over which tiles are blended.
    """

    first: int | None = None
    last: int | None = None
    reach: int = 0

    def weights(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return weights in (0, 1] of pixels `start`…`stop`, all inside the tile."""
        pixel = np.arange(start, stop)
        weights = np.ones(len(pixel))
        if self.reach and self.first is not None:
            weights *= self._rising(pixel - self.first)
        if self.reach and self.last is not None:
            weights *= 1 - self._rising(pixel - self.last)
        return weights.astype(np.float32)

    def _rising(self, distance: NDArray[np.intp]) -> NDArray[np.float64]:
        """From 0 to 1 around distance 0, of the middles of the pixels."""
        # Two neighbours compute the same phase from their common border
        # and take `rising` and 1 - `rising`, so their weights sum to 1.
        # Middles of pixels keep both above 0.
        phase = np.clip((distance + 0.5) / (2 * self.reach) + 0.5, 0, 1)
        rising: NDArray[np.float64] = (1 - np.cos(np.pi * phase)) / 2
        return rising


UNSHARED = ImportanceMap()
"""Of a tile without neighbours along that axis."""


Window = Callable[[slice, slice], NDArray[np.float32]]
"""Reads a rectangle of normalised grey values of one section, in source pixels."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a network asks of its input.

    Parameters
    ----------
    stride
        Product of the pooling steps; window origins are multiples of it (for `valid`
        networks, multiples less the context).
    context
        Pixels beyond its own cell of `stride` pixels, on each side, that an output
        pixel depends on. Cells, and not a fixed distance, because of the pooling grid.
    padding
        `same`: output as large as the input, wrong near the border. `valid`: output
        smaller by `context` on each side and right everywhere.
    remainder
        For `valid`: output sizes are `remainder` plus a multiple of the stride.
    blend
        Pixels of the halo, next to the core, over which neighbouring tiles are blended,
        for `same` networks whose result depends on the window. 0 for those whose
        context is exact: their tiles fit without it.
    smallest
        Shortest side of a window that the network can take.
    """

    stride: int
    context: int
    padding: Literal["same", "valid"] = "same"
    remainder: int = 0
    blend: int = 0
    smallest: int = 0

    def origin(self, first: int) -> int:
        """Where a window begins whose core begins at network pixel `first`."""
        halo = self.context if self.padding == "valid" else self.halo
        # Pooling squares lie on a grid from the window's origin: only windows that
        # begin on multiples of the stride pool the same pixels together. A `valid`
        # network is aligned by the first pixel that it returns.
        return _down(first, self.stride) - halo

    def stop(self, origin: int, last: int) -> int:
        """Where a window from `origin` ends whose core ends before pixel `last`."""
        if self.padding == "same":
            stop = _up(last, self.stride) + self.halo
            return max(stop, origin + _up(self.smallest, self.stride))
        # only these sizes can a network without padding return
        kept = last - (origin + self.context)
        kept = _up(max(kept - self.remainder, 0), self.stride) + self.remainder
        return origin + kept + 2 * self.context

    @property
    def halo(self) -> int:
        """The context, rounded up to the stride."""
        return _up(self.context, self.stride)

    @property
    def margin(self) -> int:
        """Pixels that are thrown away on each side of a window, whatever the padding.

        All of them are there for the sake of the rest, so that no network needs to
        compute what it says of them.
        """
        return self.context if self.padding == "valid" else self.halo - self.blend

    @property
    def exact(self) -> bool:
        """Whether results don't depend on the window, so that tiles are cropped."""
        return self.blend == 0

    @property
    def trim(self) -> int:
        """Pixels that the output is shorter than the window, on each side."""
        return self.context if self.padding == "valid" else 0


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the plan.

    `core` is kept, in source pixels; `window` is read, in network pixels, and may lie
    outside the picture. With `fade` the core overlaps its neighbours'.
    """

    core: tuple[slice, slice]
    window: tuple[slice, slice]
    fade: tuple[ImportanceMap, ImportanceMap] | None = None

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weight `(y, x)` of each pixel of the core; None if it has no overlap."""
        if self.fade is None:
            return None
        y, x = (
            fade.weights(part.start, part.stop)
            for fade, part in zip(self.fade, self.core, strict=True)
        )
        return y[:, None] * x


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover `roi` of a picture, each source pixel in exactly one core.

    If the geometry is not exact, tiles lie on a grid of the whole picture, whatever
    the roi, and overlap: the weights of each source pixel add up to one.

    Parameters
    ----------
    shape
        `(y, x)` of the whole picture in source pixels; borders are mirrored here.
    geometry
        What the network asks for.
    zoom
        Network pixels per source pixel `(y, x)`.
    tile
        Largest window side in network pixels; None for one tile.
    roi
        Rows and columns that are wanted; all by default. Halos reach beyond it.
    band
        Rows of which a single row of tiles is made, if `tile` lets it. The roi may
        reach beyond them by `reach`: who combines several bands blends them there.

    Raises
    ------
    ValueError
        If the roi is empty or outside, or `tile` leaves no core beside the halo.
    """

    shape: tuple[int, int]
    geometry: Geometry
    zoom: tuple[float, float] = (1.0, 1.0)
    tile: int | None = None
    roi: tuple[slice, slice] | None = None
    band: slice | None = None

    def __post_init__(self) -> None:
        for part, size in zip(self.wanted, self.shape, strict=True):
            if not 0 <= part.start < part.stop <= size:
                msg = (
                    f"region {part.start}:{part.stop} is empty or outside "
                    f"the section, which has 0:{size}"
                )
                raise ValueError(msg)
        smallest = self.smallest_tile(self.geometry)
        if self.tile is not None and self.tile < smallest:
            msg = (
                f"tile must be at least {smallest} px for this network "
                f"(halo {self.geometry.halo} px), got {self.tile}"
            )
            raise ValueError(msg)

    @staticmethod
    def smallest_tile(geometry: Geometry) -> int:
        """Smallest window side that leaves a core of at least one stride."""
        least = 2 * (geometry.halo + geometry.stride)
        return max(least, _up(geometry.smallest, geometry.stride))

    @property
    def wanted(self) -> tuple[slice, slice]:
        """The roi with its bounds filled in."""
        if self.roi is None:
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        return self.roi

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The picture's two axes."""
        return Axis(self.shape[0], self.zoom[0]), Axis(self.shape[1], self.zoom[1])

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row; all windows have one shape, so they can be batched."""
        cut = _split if self.geometry.exact else _overlapping
        rows, columns = (
            cut(axis, part, self.geometry, self.tile)
            for axis, part in zip(self.axes, self.wanted, strict=True)
        )
        if self.band is not None:
            (row,) = _split(self.axes[0], self.band, self.geometry, None)
            if self.tile is None or _length(row.window) <= self.tile:
                rows = [_Part(self.wanted[0], row.window)]
        # a single tile has no neighbour to share pixels with
        blended = not self.geometry.exact and len(rows) * len(columns) > 1
        return tuple(
            Tile(
                (row.core, column.core),
                (row.window, column.window),
                (row.fade, column.fade) if blended else None,
            )
            for row in rows
            for column in columns
        )

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def window_shape(self) -> tuple[int, int]:
        """`(y, x)` of every window in network pixels."""
        y, x = self.tiles[0].window
        return y.stop - y.start, x.stop - x.start


@dataclass(frozen=True, slots=True)
class _Part:
    """A tile along one axis."""

    core: slice
    window: slice
    fade: ImportanceMap = UNSHARED


def _split(
    axis: Axis, wanted: slice, geometry: Geometry, tile: int | None
) -> list[_Part]:
    """Cut one axis into even cores with windows of one length."""
    extent = wanted.stop - wanted.start
    n = 1
    # The number of tiles is not extent / core: cores round to whole source pixels,
    # windows to the stride, and resampling reads a pixel or two more. So it is raised
    # until they fit.
    while True:
        edges = [wanted.start + round(i * extent / n) for i in range(n + 1)]
        cores = [slice(a, b) for a, b in pairwise(edges)]
        spans = [axis.to_source(core.start, core.stop).span for core in cores]
        origins = [geometry.origin(first) for first, _ in spans]
        # one length for all, so that windows can be stacked to a batch
        length = max(
            geometry.stop(origin, last) - origin
            for origin, (_, last) in zip(origins, spans, strict=True)
        )
        if tile is None or length <= tile or n >= extent:
            windows = [slice(o, o + length) for o in origins]
            return list(map(_Part, cores, windows))
        n = min(extent, max(n + 1, ceil(n * (length - 2 * geometry.halo) / tile)))


def _overlapping(
    axis: Axis, wanted: slice, geometry: Geometry, tile: int | None
) -> list[_Part]:
    """Cut a whole axis, let cores overlap, and return what is seen in `wanted`."""
    # the grid is that of the whole picture, so that a region is exactly a crop of it
    parts = _split(axis, slice(0, axis.size), geometry, tile)
    shortest = min(part.core.stop - part.core.start for part in parts)
    reach = reach_of(geometry, axis.zoom, shortest)
    found = []
    for part in parts:
        first, last = part.core.start, part.core.stop
        # at the picture's own borders there is nobody to share with
        shared = (first if first > 0 else None, last if last < axis.size else None)
        core = slice(
            max(first - (reach if first > 0 else 0), wanted.start),
            min(last + (reach if last < axis.size else 0), wanted.stop),
        )
        if core.start < core.stop:
            found.append(_Part(core, part.window, ImportanceMap(*shared, reach)))
    return found


def read_tile(window: Window, plan: TilePlan, tile: Tile) -> NDArray[np.float32]:
    """Return the tile's window `(…, y, x)` in network pixels, mirrored at the border.

    `window` may read several pictures of one shape, such as neighbouring sections.
    """
    rows, columns = (
        axis.to_network(part.start, part.stop)
        for axis, part in zip(plan.axes, tile.window, strict=True)
    )
    values = window(slice(*rows.span), slice(*columns.span))
    values = rows.apply(values, -2, rows.span[0])
    return columns.apply(values, -1, columns.span[0])


def check_probabilities(values: NDArray[np.float32], where: str = "") -> None:
    """Check that a network said something: neither NaN nor infinity.

    Raises
    ------
    WorkFailedError
        If it didn't, with `where`.
    """
    if not np.isfinite(values).all():
        msg = (
            f"the network's result is NaN{where and ' '}{where}: its weights, or the "
            "grey values, are not what it can compute with"
        )
        raise WorkFailedError(msg)


def core_of(
    output: NDArray[np.float32], plan: TilePlan, tile: Tile
) -> NDArray[np.float32]:
    """Return what stays of the window less its margin, on the source's grid.

    `output` `(c, y, x)` are the network's results for all of the window but its margin.
    """
    for axis, (line, core, window) in enumerate(
        zip(plan.axes, tile.core, tile.window, strict=True), start=1
    ):
        # `output` lacks the margin, whether a crop or a
        # network without padding left it out
        origin = window.start + plan.geometry.margin
        output = line.to_source(core.start, core.stop).apply(output, axis, origin)
    return output


def reach_of(geometry: Geometry, zoom: float, shortest: int) -> int:
    """Return over how many source pixels beside a border tiles are blended.

    Parameters
    ----------
    shortest
        Core of those that share a border, in source pixels.
    """
    # where pixels are resampled they depend on one more of the network's
    reach = int((geometry.blend - (zoom != 1)) / zoom)
    # at most half a core: no pixel lies in more than two tiles along an axis
    return max(0, min(reach, shortest // 2))


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _down(value: int, step: int) -> int:
    return value // step * step
