"""A lazy stack of EM sections: an array that is only sliced, and its voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

VoxelSize: TypeAlias = tuple[float | None, float, float]
"""(z, y, x) in nm; z may be unknown, y and x are known together or not at all."""

Origin: TypeAlias = tuple[float, float, float]
"""(z, y, x) of the first voxel in nm, where other data lies in the same space."""

NOWHERE: Origin = (0.0, 0.0, 0.0)
"""Of most stacks, which lie in no space but their own."""


SMALLEST_NM, LARGEST_NM = 1e-3, 1e8
"""Bounds of a voxel's edge: below the wavelength of an electron, above a specimen."""


ISOTROPIC = 2.0
"""Voxels are about isotropic if no edge is longer than another by more than this."""


def is_isotropic(voxel_size_nm: VoxelSize | None) -> bool | None:
    """Tell if distances along z mean about what they mean in a section.

    None where that isn't known.
    """
    if voxel_size_nm is None or voxel_size_nm[0] is None:
        return None
    edges = [float(edge) for edge in voxel_size_nm if edge is not None]
    return max(edges) <= ISOTROPIC * min(edges)


class LazyArray(Protocol):
    """What a stack needs of its array: numpy, dask, zarr and our readers have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    def __getitem__(self, key: Any, /) -> Any: ...


def plain_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a type as libraries know it, in the machine's byte order.

    C has two names for 64-bit integers, both of which come from files, and zarr knows
    only one of them.
    """
    plain: np.dtype[Any] = np.dtype(np.dtype(dtype).newbyteorder("=").str)
    return plain


def check_voxel_size(voxel_size_nm: Any) -> VoxelSize:
    """Return the voxel size as floats.

    Raises
    ------
    ValueError
        If it is not three numbers above 0 (z may be None), or of an impossible size.
    """
    msg = (
        f"voxel_size_nm must be three numbers above 0 (z, y, x) in nm, z may be None; "
        f"got {voxel_size_nm!r}"
    )
    try:
        z, y, x = tuple(voxel_size_nm)
        size = (None if z is None else float(z), float(y), float(x))
    except (TypeError, ValueError) as e:
        raise ValueError(msg) from e
    if not all(v is None or (np.isfinite(v) and v > 0) for v in size):
        raise ValueError(msg)
    if not all(v is None or SMALLEST_NM <= v <= LARGEST_NM for v in size):
        msg = (
            f"voxel_size_nm must lie between {SMALLEST_NM:g} and {LARGEST_NM:g} nm, "
            f"got {voxel_size_nm!r}"
        )
        raise ValueError(msg)
    return size


@dataclass(frozen=True, slots=True)
class Stack:
    """Sections `(z, y, x)` of one specimen; nothing is read until it is sliced.

    Parameters
    ----------
    data
        Lazy array `(z, y, x)`, any real dtype.
    name
        What the user calls it; usually the file's stem.
    voxel_size_nm
        `(z, y, x)` in nm, z may be None; None when unknown.
    source
        Where it came from (a path), for provenance and messages.
    metadata
        Free notes of the reader (format, dataset, level …), JSON-able.
    origin_nm
        `(z, y, x)` of the first voxel, as the file has it.

    Raises
    ------
    ValueError
        If the array is not a non-empty `(z, y, x)` one of numbers.
    """

    data: LazyArray
    name: str = "stack"
    voxel_size_nm: VoxelSize | None = None
    source: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    origin_nm: Origin = NOWHERE

    def __post_init__(self) -> None:
        if len(self.data.shape) != 3 or 0 in self.data.shape:
            msg = (
                f"{self.name}: a stack needs a non-empty (z, y, x) array, "
                f"got shape {tuple(self.data.shape)}"
            )
            raise ValueError(msg)
        if np.dtype(self.data.dtype).kind not in "biuf":
            msg = (
                f"{self.name}: grey values must be real numbers, not {self.data.dtype}"
            )
            raise ValueError(msg)
        if self.voxel_size_nm is not None:
            object.__setattr__(
                self, "voxel_size_nm", check_voxel_size(self.voxel_size_nm)
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` in voxels."""
        z, y, x = self.data.shape
        return int(z), int(y), int(x)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the grey values as stored, in the machine's byte order."""
        return plain_dtype(self.data.dtype)

    def section(self, z: int) -> NDArray[Any]:
        """Read section `z` as a `(y, x)` array.

        Raises
        ------
        IndexError
            If there is no such section.
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        n = self.shape[0]
        if not 0 <= z < n:
            msg = f"{self.name}: no section {z}; sections are 0..{n - 1}"
            raise IndexError(msg)
        return np.asarray(self.data[z])

    def with_voxel_size(self, voxel_size_nm: VoxelSize | None) -> Stack:
        """Return this stack with the user's voxel size (None keeps the file's).

        Its origin stays the same number of voxels away.
        """
        if voxel_size_nm is None:
            return self
        size = check_voxel_size(voxel_size_nm)
        z, y, x = (
            # in nm the origin moves with the size; unknown sizes leave it as it is
            at * (new / old) if old is not None and new is not None else at
            for at, old, new in zip(
                self.origin_nm, self.voxel_size_nm or (None,) * 3, size, strict=True
            )
        )
        return replace(self, voxel_size_nm=size, origin_nm=(z, y, x))

    def corner_nm(self, z: int, y: int, x: int) -> Origin:
        """Return where a voxel lies, such as the first one of a part."""
        size = self.voxel_size_nm or (None, 0.0, 0.0)
        steps = (size[0] or 0.0, size[1], size[2])
        at = zip(self.origin_nm, steps, (z, y, x), strict=True)
        first, row, column = (o + step * n for o, step, n in at)
        return first, row, column


def as_stack(data: Stack | LazyArray, *, name: str = "array") -> Stack:
    """Return `data` as a stack; a 2-D picture becomes a stack of one section."""
    if isinstance(data, Stack):
        return data
    return Stack(data[None] if len(data.shape) == 2 else data, name=name)


ALIKE = 0.01
"""Voxel sizes that differ by less, as a share, are the same but for rounding."""


def doubt_size(stack: Stack, other: Stack) -> str | None:
    """Say that two stacks of one shape have unlike voxels; None if nothing says so.

    Sizes that a file doesn't know are no reason for doubt.
    """
    sizes = zip(stack.voxel_size_nm or (), other.voxel_size_nm or (), strict=False)
    known = [(a, b) for a, b in sizes if a is not None and b is not None]
    if all(abs(a - b) <= ALIKE * max(a, b) for a, b in known):
        return None
    ours, theirs = (
        " × ".join("?" if nm is None else f"{nm:g}" for nm in each.voxel_size_nm or ())
        for each in (stack, other)
    )
    return (
        f"voxels of {other.name} are {theirs} nm (z × y × x), those of {stack.name} "
        f"{ours}, which count: do both show the same?"
    )


def sections_asked(sections: Sequence[int] | None, stack: Stack) -> tuple[int, ...]:
    """Return the sections that are asked for, each once; None asks for all.

    Raises
    ------
    ValueError
        If one doesn't exist, or none is asked for.
    """
    n = stack.shape[0]
    if sections is None:
        return tuple(range(n))
    wanted = tuple(dict.fromkeys(int(z) for z in sections))
    outside = [z for z in wanted if not 0 <= z < n]
    if not wanted or outside:
        what = f"no section {outside[0]}" if outside else "no section is asked for"
        msg = f"{stack.name}: {what}; sections are 0..{n - 1}"
        raise ValueError(msg)
    return wanted
