"""HDF5: one of its datasets, read section by section or slab by slab of its chunks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.claims import check_regular
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import (
    FileContents,
    Volume,
    array_volume,
    chunked,
    to_nm,
    unnamed_axes,
    voxel_size,
)

DEEPEST = 32
"""Groups in groups, and links that name links; more is a circle."""

MOST_LINKED = 2_000
"""Names behind links to groups that are listed; links multiply them without end."""

Node: TypeAlias = h5py.Group | h5py.Dataset


@dataclass
class Walk:
    """All datasets of a file, those behind soft and external links too.

    External links are followed into files of the same folder and of folders in it.

    Parameters
    ----------
    file
        The open file.
    refused
        Why a link isn't followed, by its path; filled by `datasets`.
    files
        Other files that links led to; likewise.
    """

    file: h5py.File
    refused: dict[str, str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)
    _seen: set[h5py.h5g.GroupID] = field(default_factory=set)
    _linked: int = 0

    def datasets(self) -> Iterator[tuple[str, h5py.Dataset]]:
        """Yield the path and the dataset, in the order of paths.

        Raises
        ------
        OSError, KeyError, RuntimeError
            From h5py, if the file is damaged.
        """
        yield from self._below(self.file, "", (), through_link=False)

    def _below(
        self,
        group: h5py.Group,
        path: str,
        above: tuple[h5py.h5g.GroupID, ...],
        *,
        through_link: bool,
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        if group.id in above:  # a link back to a group that it is in
            return
        if not through_link:  # as often as it has hard links, but once is enough
            if group.id in self._seen:
                return
            self._seen.add(group.id)
        for name in group:
            key = f"{path}/{name}".strip("/")
            self._linked += through_link
            if self._linked > MOST_LINKED or key.count("/") > DEEPEST:
                return
            try:
                node = self._child(group, name, 0)
            except UnreadableError as e:
                self.refused[key] = f"{key} {e}"
                continue
            if isinstance(node, h5py.Dataset):
                yield key, node
            elif isinstance(node, h5py.Group):
                link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
                inside = (*above, group.id)
                linked = through_link or link
                yield from self._below(node, key, inside, through_link=linked)

    def _child(self, group: h5py.Group, name: str, hops: int) -> Node:
        """Return what a name in a group stands for.

        Raises
        ------
        UnreadableError
            If it is a link that leads outside, nowhere or in a circle.
        """
        if hops > DEEPEST:
            msg = "is a link that leads in a circle"
            raise UnreadableError(msg)
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            file = self._file(group.file, link.filename)
            return self._at(file, link.path, hops + 1)
        if isinstance(link, h5py.SoftLink):
            start = group.file if link.path.startswith("/") else group
            return self._at(start, link.path, hops + 1)
        node: Node = group[name]
        return node

    def _at(self, node: Node, path: str, hops: int) -> Node:
        """Return what a path stands for, each part of which may be a link."""
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(node, h5py.Group) or name not in node.keys():  # noqa: SIM118
                msg = f"is a link to {path}, which isn't there"
                raise UnreadableError(msg)
            node = self._child(node, name, hops)
        return node

    def _file(self, beside: h5py.File, name: str) -> h5py.File:
        """Open the file that a link names, if it lies in the same folder or below."""
        place = (Path(beside.filename).resolve().parent / name).resolve()
        if not place.is_relative_to(Path(self.file.filename).resolve().parent):
            msg = (
                f"is a link to {name}, outside the folder of the file, and isn't "
                "followed; open that file, or copy it beside"
            )
            raise UnreadableError(msg)
        if not place.is_file():
            msg = f"is a link to {name}, which isn't there"
            raise UnreadableError(msg)
        if place == Path(beside.filename).resolve():
            return beside
        self.files.add(place)
        try:
            return h5py.File(place, "r")
        except OSError as e:
            msg = f"is a link to {name}, which can't be opened ({e})"
            raise UnreadableError(msg) from e


CREMI_RAW = "volumes/raw"
"""Where CREMI's files have the grey values."""

_LOCKED = ("unable to lock file", "already open for write")
"""What HDF5 says of a file that another program writes, or that can't be locked."""

MOST_NOTES = 2**20
"""Bytes of notes on a picture of Velox; they are some 50,000."""

_VELOX = re.compile(r"Data/Image/[^/]+/Data")
"""Pictures in EMD files of Thermo Fisher's Velox: `(y, x, n)`."""

_BIG_DATA_VIEWER = re.compile(r"t\d+/s\d+/\d+/cells")
"""Pictures in files of BigDataViewer, by time, view and scale level."""


def contents(path: Path) -> FileContents:
    """List the datasets of two or more axes, by the names that links give them too."""
    # The file stays open as long as a dataset of it is held.
    file = _open(path)
    try:
        return _contents(file)
    except BaseException:
        file.close()  # the error would hold it open
        raise


def _contents(file: h5py.File) -> FileContents:
    walk = Walk(file)
    found = [(key, node) for key, node in walk.datasets() if _is_picture(node)]
    found = _pictures_of_velox(found) or found
    for _, dataset in found:
        _refuse_elsewhere(dataset)
    if not found:
        why = next(iter(walk.refused.values()), "has no dataset of two or more axes")
        raise UnreadableError(why)
    volumes = tuple(_volume(key, dataset) for key, dataset in found)
    default = _default(volumes, [dataset for _, dataset in found], walk.refused)
    mapped = [f for _, d in found if d.is_virtual for f in _Mapped(d).files]
    left_out = "".join(f"; {why}" for why in list(walk.refused.values())[:3])
    return FileContents(
        volumes,
        "dataset",
        default,
        question=f"holds several datasets{left_out}",
        provenance=None if default is None else _provenance(found[default][1]),
        refused=walk.refused,
        files=(*sorted(walk.files), *mapped),
        remarks=_remarks(found),
    )


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as e:
        if not any(word in str(e) for word in _LOCKED):
            raise
        msg = (
            "is open for writing in another program, or lies where files can't be "
            "locked; close it there, or set the environment variable "
            "HDF5_USE_FILE_LOCKING=FALSE to read it all the same"
        )
        raise UnreadableError(msg) from e


def _provenance(dataset: h5py.Dataset) -> Provenance | None:
    try:
        return Provenance.model_validate_json(dataset.attrs["emseg"])
    except (KeyError, ValidationError):
        return None


def _refuse_elsewhere(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose values lie outside of the file's folder.

    A file could name any other one there, such as a person's own, and what is in it
    would be read as grey values.
    """
    folder = Path(dataset.file.filename).resolve().parent
    names = [name for name, _, _ in dataset.external or ()]
    if dataset.is_virtual:
        names += [source.file_name for source in dataset.virtual_sources()]
    for name in names:
        place = (folder / name).resolve()
        if name != "." and not place.is_relative_to(folder):
            msg = f"its dataset {dataset.name} would read {name}, outside its folder"
            raise UnreadableError(msg)
        if place.exists():
            check_regular(place)


def _is_picture(node: h5py.Dataset) -> bool:
    return len(node.shape or ()) >= 2 and node.dtype.kind in "biuf" and node.size > 0


def _pictures_of_velox(
    found: list[tuple[str, h5py.Dataset]],
) -> list[tuple[str, h5py.Dataset]]:
    """Return the pictures of a file of Velox, without their notes and spectra."""
    return [(key, dataset) for key, dataset in found if _VELOX.fullmatch(key)]


def _default(
    volumes: tuple[Volume, ...], datasets: list[h5py.Dataset], refused: dict[str, str]
) -> int | None:
    """Return the only stack, or CREMI's raw data; otherwise it would be a guess."""
    keys = [volume.key for volume in volumes]
    if CREMI_RAW in keys:
        return keys.index(CREMI_RAW)
    if refused:
        return None  # what is meant may be behind a link that isn't followed
    stacks = [i for i, v in enumerate(volumes) if len(v.shape) > 2]
    views = [i for i in stacks if _BIG_DATA_VIEWER.fullmatch(str(keys[i]))]
    if views == stacks:  # smaller copies of a picture are no question
        # level 0, the full resolution
        stacks = [i for i in stacks if str(keys[i]).endswith("/0/cells")]
    only = stacks or list(range(len(volumes)))
    # a dataset may have several names, of which the first is as good as any
    return only[0] if len({datasets[i].id for i in only}) == 1 else None


class _Unsigned:
    """A dataset of int16 that stands for uint16, as BigDataViewer writes it."""

    def __init__(self, dataset: h5py.Dataset | _Mapped) -> None:
        self.shape = dataset.shape
        self.dtype = np.dtype(np.uint16)
        self._dataset = dataset

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        return np.asarray(self._dataset[key]).astype(self.dtype)


def _volume(key: str, dataset: h5py.Dataset) -> Volume:
    axes = _axes(key, dataset)
    signed = dataset.dtype == np.int16 and "dataType" not in dataset.attrs
    wraps = signed and _BIG_DATA_VIEWER.fullmatch(key)
    array = _Mapped(dataset) if dataset.is_virtual else dataset
    volume = replace(
        array_volume(_Unsigned(array) if wraps else array, axes),
        voxel_size_nm=_voxel_size(key, dataset),
        origin_nm=_origin(dataset),
        key=key,
        words=key,
    )
    return chunked(volume, axes, dataset.shape, dataset.chunks)


class _Mapped:
    """A virtual dataset; where a part of it is gone, HDF5 itself gives zeros."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self._dataset = dataset
        own = Path(dataset.file.filename)
        self._parts = [
            (_find_source(own, source.file_name), source)
            for source in dataset.virtual_sources()
            if "%" not in source.file_name + source.dset_name
        ]
        self._whole: set[tuple[Path, str]] = set()

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that its parts lie in."""
        own = Path(self._dataset.file.filename)
        return tuple(dict.fromkeys(path for path, _ in self._parts if path != own))

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        values: NDArray[Any] = self._dataset[key]
        for path, source in self._parts:
            # `vspace`: where a part lies in the virtual dataset; only
            # those that are read must be there
            first, last = source.vspace.get_select_bounds()
            wanted = zip(key, first, last, self.shape, strict=False)
            # `zip` isn't strict: a key may leave out last axes, which are read whole
            if all(_meet(*each) for each in wanted):
                self._check(path, source.dset_name)
        return values

    def _check(self, path: Path, name: str) -> None:
        """Refuse a part that isn't there; looked for once in a file that is."""
        if not path.is_file():
            msg = f"a part of it lies in {path}, which is not there"
            raise UnreadableError(msg)
        if (path, name) in self._whole:
            return
        _check_source(path, name)
        self._whole.add((path, name))


def _check_source(path: Path, name: str, hops: int = 0) -> None:
    """Refuse a dataset that a virtual one maps, or one that this maps, if it's gone.

    Raises
    ------
    UnreadableError
        If its file can't be opened, or has no such dataset.
    """
    within: list[Any] | None = None
    try:
        with h5py.File(path, "r") as file:
            node = file.get(name)
            if isinstance(node, h5py.Dataset):
                within = node.virtual_sources() if node.is_virtual else []
    except OSError as e:
        msg = f"a part of it lies in {path}, which can't be opened ({e})"
        raise UnreadableError(msg) from e
    if within is None:
        msg = f"a part of it is the dataset {name} of {path}, which has none such"
        raise UnreadableError(msg)
    for source in within:
        if hops < DEEPEST and "%" not in source.file_name + source.dset_name:
            place = _find_source(path, source.file_name)
            _check_source(place, source.dset_name, hops + 1)


def _find_source(own: Path, name: str) -> Path:
    """Return where HDF5 finds a file that a virtual dataset names; `.` is its own."""
    if name == ".":
        return own
    beside = own.parent / name
    return beside if beside.is_file() or not Path(name).is_file() else Path(name)


def _meet(key: int | slice, first: int, last: int, n: int) -> bool:
    """Tell if an index or a slice along an axis reaches into `first` … `last`."""
    asked = range(n)[key] if isinstance(key, slice) else range(key, key + 1)
    return len(asked) > 0 and asked[0] <= last and asked[-1] >= first


def _axes(key: str, dataset: h5py.Dataset) -> str:
    """Return a letter for each axis, from ilastik's tags or the axis labels."""
    shape = dataset.shape
    try:
        tags = json.loads(dataset.attrs["axistags"])["axes"]
        letters = [str(tag["key"]) for tag in tags]
    except (KeyError, TypeError, ValueError):
        letters = [dim.label for dim in dataset.dims]
    axes = "".join(letters).upper()
    if len(axes) == len(shape) and set("YX") <= set(axes) <= set("TCZYX"):
        return axes
    if _VELOX.fullmatch(key):
        return "YXZ"[: len(shape)]
    long = [i for i, n in enumerate(shape) if n > 1]
    # four axes without names: a short one at an end is channels
    if len(long) == 4 == len(shape) and min(shape[0], shape[3]) <= 4:
        return "CZYX" if shape[0] <= shape[3] else "ZYXC"
    return unnamed_axes(shape)


def _voxel_size(key: str, dataset: h5py.Dataset) -> VoxelSize | None:
    """Return `(z, y, x)`: CREMI's `resolution` is in nm, Fiji has `element_size_um`.

    A unit beside one of them counts; where it is no length, the size is unknown.
    """
    if _VELOX.fullmatch(key):
        return _voxel_size_of_velox(dataset)
    for name, unit in (
        ("resolution", "nm"),
        ("voxel_size", "nm"),
        ("element_size_um", "um"),
    ):
        values = np.atleast_1d(dataset.attrs.get(name, ()))
        if values.shape == (3,) and values.dtype.kind in "iuf":
            units = _units(dataset, name) or (unit,) * 3
            if len(units) != 3:
                continue
            z, y, x = (
                to_nm(float(value), each)
                for value, each in zip(values, units, strict=True)
            )
            if (size := voxel_size(z, y, x)) is not None:
                return size
    pixel = np.atleast_1d(dataset.attrs.get("pixel_size_nm", ()))
    if pixel.shape == (2,):  # ours, where the distance of sections is unknown
        y, x = (to_nm(float(value), "nm") for value in pixel)
        return voxel_size(None, y, x)
    return None


def _units(dataset: h5py.Dataset, name: str) -> tuple[str, ...]:
    """Return the units that stand beside a voxel size, for z, y, x; none if none do."""
    if name == "element_size_um":
        return ()
    for key in (f"{name}_unit", f"{name}_units", "unit", "units"):
        said = np.atleast_1d(dataset.attrs.get(key, ()))
        words = [
            u.decode(errors="replace") if isinstance(u, bytes) else u for u in said
        ]
        if words and all(isinstance(word, str) for word in words):
            return tuple(map(str, words * 3 if len(words) == 1 else words))
    return ()


def _remarks(found: list[tuple[str, h5py.Dataset]]) -> tuple[str, ...]:
    """Say which voxel sizes have a unit that isn't known."""
    remarks = []
    for key, dataset in found:
        for name in ("resolution", "voxel_size"):
            units = _units(dataset, name) if name in dataset.attrs else ()
            odd = [unit for unit in units if to_nm(1.0, unit) is None]
            if odd or len(units) not in (0, 3):
                unit = ", ".join(dict.fromkeys(odd or units))
                words = (
                    f"the voxel size of {key} is in {unit!r}, which is no known unit"
                )
                remarks.append(f"{words} of length; it isn't used")
    return tuple(remarks[:3])


def _voxel_size_of_velox(dataset: h5py.Dataset) -> VoxelSize | None:
    """Return the pixel size in the notes beside a picture, a column for each frame."""
    try:
        raw = bytes(dataset.parent["Metadata"][:MOST_NOTES, 0]).rstrip(b"\0")
        notes = json.loads(raw)["BinaryResult"]
        size, units = notes["PixelSize"], (notes["PixelUnitY"], notes["PixelUnitX"])
        y, x = float(size["height"]), float(size["width"])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return voxel_size(None, to_nm(y, units[0]), to_nm(x, units[1]))


def _origin(dataset: h5py.Dataset) -> Origin:
    """Return `(z, y, x)` of the first voxel: CREMI's `offset`, in nm."""
    values = np.atleast_1d(dataset.attrs.get("offset", ()))
    if values.shape != (3,) or values.dtype.kind not in "iuf":
        return NOWHERE
    z, y, x = (float(value) for value in values)
    return (z, y, x) if np.isfinite([z, y, x]).all() else NOWHERE
