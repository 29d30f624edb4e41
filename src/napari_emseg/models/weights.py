"""Weights files: a network's numbers with their card. Never a pickle.

One `.safetensors` file, float16 or float32; its header carries the card as JSON. Cards
are read from the header alone; torch is imported when a network is built, not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_documents_path
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from napari_emseg._installed import data_folder, only_in_data
from napari_emseg.core.atomic import clear_leftovers, write_whole
from napari_emseg.core.card import Card, Variant
from napari_emseg.core.errors import first_fault
from napari_emseg.core.paths import FolderInsteadError
from napari_emseg.core.settings import Heads
from napari_emseg.models.variants import card_at, is_mean, with_facts
from napari_emseg.models.zoo import (
    Network,
    Prunable,
    affinities_of,
    build,
    context_of,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

CARD = "emseg.card"
SUFFIX = ".safetensors"

CHECKED = ("F16", "F32", "F64")
"""Types of numbers that may be NaN, and that numpy has."""

DEFAULT_WEIGHTS = "isbi2012-unet"
"""Bundled weights that are used where none are named, in panels and commands alike."""

IN_DATA = ("em-membranes",)
"""Names of weights that come with napari-emseg-data."""


@dataclass(frozen=True)
class Weights:
    """A weights file that was found to be whole, and its card.

    Parameters
    ----------
    card
        Of what is run: all of the file, or the part that `at` took of it.
    depth, heads
        Which part; None and `last` for the file as it is.
    whole
        The file as it is, if this is a part.
    """

    path: Path
    card: Card
    depth: int | None = None
    heads: Heads = "last"
    whole: Weights | None = None

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file, by which results and descendants name it."""
        if self.whole is not None:  # a part is of the same file, read once
            return self.whole.sha256
        return sha256(self.path.read_bytes()).hexdigest()

    def at(self, depth: int | None = None, heads: Heads = "last") -> Weights:
        """Return these weights cut to a depth, with the card of what is left.

        Parameters
        ----------
        depth
            Levels below the first that are kept; all by default.
        heads
            `last`: only what the head at that depth needs. `mean`: heads 1…depth, whose
            probabilities are averaged.

        Raises
        ------
        ValueError
            If the network has no such depth or heads; what it has is said.
        """
        if depth is None and heads == "last":
            return self
        whole = self.whole or self
        card = whole.card
        if not card.depths:  # a network without, or a file older than this
            network = whole._built()
            card = with_facts(card, cast("Network", network))
        if depth is None:
            depth = self.depth or max(card.depths, default=1)
        heads = "mean" if is_mean(heads, depth) else "last"
        return Weights(self.path, card_at(card, depth, heads), depth, heads, whole)

    @cached_property
    def n_values(self) -> int:
        """How many numbers the file holds, by its header."""
        with _reading(self.path), safe_open(self.path, framework="numpy") as file:
            # shapes are in the header: no number is read
            return sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118

    def _built(self) -> nn.Module:
        """Build the network that the card names, if the file can fill it."""
        card = self.card
        try:
            network = build(card.architecture, card.config, holds=self.n_values)
        except ValueError as e:
            msg = f"{self.path.name}: {e}"
            raise ValueError(msg) from e
        own, said = (context_of(network), affinities_of(network)), card.context
        if own != (said, card.affinities):
            msg = (
                f"{self.path.name}: its card says {said} sections and "
                f"{len(card.affinities)} affinities, but its network has {own[0]} and "
                f"{len(own[1])}, or others"
            )
            raise ValueError(msg)
        return network

    def network(self) -> nn.Module:
        """Build the network with these weights, float32, on the CPU, for inference.

        Raises
        ------
        ValueError
            If the file doesn't fit its own architecture, or holds NaN; the first
            parameter that is wrong is named.
        """
        import torch

        if self.whole is not None and self.depth is not None:
            whole = cast("Prunable", self.whole.network())
            network = cast("nn.Module", whole.pruned(self.depth, self.heads))
            return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        network = self._built()
        with _reading(self.path), safe_open(self.path, framework="pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        # before `load_state_dict`, whose message lists all keys instead of the first
        check_fit(state, network, self.path.name)
        check_finite(state, self.path.name)
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                state[key] = state[key].to(value.dtype)
        network.load_state_dict(state)
        return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_fit(state: Mapping[str, Tensor], network: nn.Module, name: str) -> None:
    """Raise a ValueError that names the first key that doesn't fit the network."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    for key, shape in wanted.items():
        if given.get(key) != shape:
            has = f"has {given[key]}" if key in given else "has none"
            msg = f"{name} doesn't fit the network: {key} must be {shape}, file {has}"
            raise ValueError(msg)
    extra = next((key for key in given if key not in wanted), None)
    if extra is not None:
        msg = f"{name} doesn't fit the network: it has no parameter {extra}"
        raise ValueError(msg)


def check_finite(state: Mapping[str, Tensor], name: str) -> None:
    """Raise a ValueError that names the first parameter with NaN or infinity."""
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise ValueError(_not_finite(name, key))


def _not_finite(name: str, key: str) -> str:
    return (
        f"{name} can't be used: {key} holds NaN or infinity, from a training that "
        "diverged or a damaged file"
    )


def check_numbers(path: Path) -> None:
    """Check that no parameter in a weights file is NaN or infinite.

    Files that were found to be good are not read again until they change.

    Raises
    ------
    ValueError
        With the first parameter that is, or if the file is damaged.
    OSError
        If it can't be read.
    """
    status = path.stat()
    _check_numbers(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _check_numbers(path: Path, _changed: int, _size: int) -> None:
    with _reading(path), safe_open(path, framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118
            if file.get_slice(key).get_dtype() not in CHECKED:
                continue  # such as BF16, which numpy lacks; `Weights.network` looks
            values = file.get_tensor(key)
            if values.dtype == np.float16:  # by its bits, which is ten times as quick
                wrong = (values.view(np.uint16) & 0x7C00) == 0x7C00
            else:
                wrong = ~np.isfinite(values)
            if wrong.any():
                raise ValueError(_not_finite(path.name, key))


def bundled_folders() -> tuple[Path, ...]:
    """Folders of the weights that come with this package, and with its data."""
    ours, data = Path(str(files("napari_emseg") / "models" / "bundled")), data_folder()
    return (ours,) if data is None else (ours, data / "weights")


MEASURED = "measured.json"
"""What was measured of bundled weights after their files were made, by their names."""


class LaterScores(BaseModel):
    """Scores of weights that aren't in their file, in all and of each way to run them.

    A file of bundled weights stays as it is, byte for byte, whatever is measured of it
    later: projects and batches know it by its checksum.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    scores: dict[str, float] = Field(default_factory=dict)
    variants: tuple[Variant, ...] = ()

    def on(self, card: Card) -> Card:
        """Return a card with these scores among its own."""
        ways = []
        for way in card.variants:
            same = (v for v in self.variants if v.words == way.words)
            more = next((v.scores for v in same), {})
            ways.append(way.model_copy(update={"scores": way.scores | more}))
        update = {"scores": card.scores | self.scores, "variants": tuple(ways)}
        return card.model_copy(update=update)


def with_measured(card: Card, path: Path) -> Card:
    """Return the card of bundled weights with what was measured later; others as is."""
    if path.parent not in bundled_folders():
        return card
    found = _measured(path.with_name(MEASURED)).get(path.stem)
    return card if found is None else found.on(card)


@lru_cache
def _measured(path: Path) -> dict[str, LaterScores]:
    if not path.is_file():
        return {}
    content = TypeAdapter(dict[str, LaterScores]).validate_json(path.read_bytes())
    return content


def missing_weights() -> dict[str, str]:
    """Return by name how to get bundled weights that aren't installed here."""
    if data_folder() is not None:
        return {}
    return {name: only_in_data(name) for name in IN_DATA}


def own_folder() -> Path:
    """Folder of the user's own weights, for all programs to find them by name.

    `EMSEG_WEIGHTS` in the environment names another one.
    """
    chosen = os.environ.get("EMSEG_WEIGHTS")
    return Path(chosen) if chosen else user_documents_path() / "EM weights"


def list_weights(*folders: Path) -> dict[str, Weights]:
    """Return bundled weights, and those of further folders, by name.

    Files that can't be read are left out; `read_weights` says why. Only their cards are
    read; `load_weights` and `Weights.network` look at the numbers.
    """
    found = {}
    for folder in (*bundled_folders(), *folders):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                found[path.stem] = _read_card(path)
            except (OSError, ValueError):
                continue
    return found


def choose_fitting_weights(
    known: Mapping[str, Weights],
    pixel_size_nm: tuple[float, float] | None = None,
    wanted: str = "",
) -> Weights:
    """Return the weights that are wanted; else those that fit pixels of a size best.

    Of the bundled weights whose own pixels are at most `SAME_SCALE` times larger or
    smaller, those learnt from the most kinds of data, as the tissue isn't known. Where
    there are none, the nearest. What sees neighbouring sections is for stacks of some
    thickness of section, which isn't known either: it is taken where it is wanted.

    Parameters
    ----------
    known
        As `list_weights` returns them, at least one.
    pixel_size_nm
        `(y, x)` of the stack; None where it isn't known.
    """
    if wanted in known:
        return known[wanted]
    folders = bundled_folders()
    bundled = [
        w for w in known.values() if w.path.parent in folders and w.card.context == 1
    ]
    offered = sorted(
        bundled or known.values(), key=lambda w: w.path.stem != DEFAULT_WEIGHTS
    )
    scales = {id(w): _scale(w.card, pixel_size_nm) for w in offered}
    near = [w for w in offered if scales[id(w)] <= SAME_SCALE]
    if near:
        return max(near, key=lambda w: len(w.card.training_data))
    return min(offered, key=lambda w: scales[id(w)])


SAME_SCALE = 2.0
"""As `LARGE_UPSAMPLING` and its inverse."""


def _scale(card: Card, pixel_size_nm: tuple[float, float] | None) -> float:
    """Return how many times larger or smaller pixels are than those learnt from."""
    if card.pixel_size_nm is None or pixel_size_nm is None:
        return 1.0
    pairs = zip(pixel_size_nm, card.pixel_size_nm, strict=True)
    return max(max(given / own, own / given) for given, own in pairs)


def load_weights(
    weights: str | Path | Weights, depth: int | None = None, heads: Heads = "last"
) -> Weights:
    """Return weights by name or by file, cut to a depth if one is given.

    Names are those of bundled weights, and of the user's own in `own_folder`.

    Parameters
    ----------
    depth, heads
        See `Weights.at`; for networks with depth, such as U-Net++.

    Raises
    ------
    ValueError
        If there are none of that name, the file is no weights file of ours, or the
        network has no such depth or heads.
    OSError
        If the file can't be read.
    """
    return _load(weights).at(depth, heads)


def _load(weights: str | Path | Weights) -> Weights:
    if isinstance(weights, Weights):
        return weights
    path = Path(weights)
    if path.suffix == SUFFIX or path.is_file():
        return read_weights(path)
    known = list_weights(own_folder())
    if str(weights) not in known:
        if str(weights) in missing_weights():
            raise ValueError(missing_weights()[str(weights)])
        bundled = list_weights()
        names = ", ".join(bundled) or "none"
        own = ", ".join(name for name in known if name not in bundled)
        msg = f"no weights named {str(weights)!r}; bundled are: {names}"
        msg += f"; your own are: {own}" * bool(own)
        raise ValueError(msg)
    check_numbers(known[str(weights)].path)
    return known[str(weights)]


def read_weights(path: Path) -> Weights:
    """Read a file's card from its header, and look at its numbers.

    Raises
    ------
    FileNotFoundError, OSError
        If it can't be read.
    ValueError
        If it is damaged, holds NaN, or has no card (a foreign file has to be imported).
    """
    weights = _read_card(path)
    check_numbers(path)
    return weights


def _read_card(path: Path) -> Weights:
    if path.is_dir():
        raise FolderInsteadError(path)
    if not path.is_file():
        msg = f"no weights file at {path}"
        raise FileNotFoundError(msg)
    with _reading(path), safe_open(path, framework="numpy") as file:
        header: dict[str, str] = file.metadata() or {}
    if CARD not in header:
        msg = f"{path.name} has no card; it was not made by emseg"
        raise ValueError(msg)
    try:
        card = Card.model_validate_json(header[CARD])
        return Weights(path, with_measured(card, path))
    except ValidationError as e:
        msg = f"{path.name}: its card is damaged: {first_fault(e)}"
        raise ValueError(msg) from e


def save_weights(
    path: Path, state: Mapping[str, Tensor], card: Card, *, half: bool = True
) -> Weights:
    """Write weights beside their final name and rename them when whole.

    What follows from its architecture is filled into the card: the number of
    parameters, `geometry`, `bytes_per_pixel`, and the same of its parts.

    Parameters
    ----------
    half
        Floating-point numbers as float16 (half the size) where none is too large for
        it, else float32.
    """
    arrays = {key: _stored(value, half=half) for key, value in state.items()}
    holds = sum(array.size for array in arrays.values())
    network = build(card.architecture, card.config, holds=holds)
    card = with_facts(card, cast("Network", network))
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, arrays, card)


def replace_card(weights: Weights, card: Card) -> Weights:
    """Write another card into a file, in place; its numbers stay as they are.

    The file's checksum changes, since it covers the card.

    Raises
    ------
    OSError, ValueError
        If the file can't be read or written.
    """
    with _reading(weights.path):
        arrays = load_file(weights.path)
    holds = sum(array.size for array in arrays.values())
    network = build(card.architecture, card.config, holds=holds)
    return _write(weights.path, arrays, with_facts(card, cast("Network", network)))


def _write(path: Path, arrays: dict[str, NDArray[Any]], card: Card) -> Weights:
    header = {CARD: card.model_dump_json(), "format": "pt"}
    # given a name, safetensors lets nobody else read the file, and has an error of its
    # own for a full disk
    content = save(arrays, metadata=header)
    clear_leftovers(path)
    write_whole(path, content)
    return Weights(path, card)


def save_part(path: Path, weights: Weights) -> Weights:
    """Write weights that were cut to a depth as a file of their own.

    It holds nothing but the parameters of that part, in the file's own precision; its
    card names the file that it was cut from.
    """
    network = weights.network()
    words = f"{weights.card.name}, cut to depth {weights.depth}"
    words += ", mean of heads" * (weights.heads == "mean")
    card = weights.card.model_copy(
        update={
            "name": path.stem,
            "notes": (*weights.card.notes, words),
            "parent_sha256": weights.sha256,
        }
    )
    return save_weights(path, network.state_dict(), card, half=_is_half(weights.path))


def _is_half(path: Path) -> bool:
    """Tell if a file's floating-point numbers are all stored as float16."""
    with _reading(path), safe_open(path, framework="numpy") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    return "F32" not in kinds


def _stored(value: Tensor, *, half: bool) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().contiguous().numpy()
    if not value.is_floating_point():
        return array
    array = array.astype(np.float32)
    fits = bool((np.abs(array) <= np.finfo(np.float16).max).all())
    return array.astype(np.float16) if half and fits else array


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what safetensors raises into a ValueError that names the file."""
    try:
        yield
    except SafetensorError as e:
        raise ValueError(unusable(path)) from e


def unusable(path: Path) -> str:
    """Say that a file can't be read as weights.

    The library's own words are of headers and offsets, which nobody can act on.
    """
    what = f"{path.name} is no weights file, or a damaged one"
    if path.suffix == SUFFIX:
        return f"{what}: it can't be read; copy or make it again"
    return f"{what}: weights are {SUFFIX} files, others have to be imported first"
