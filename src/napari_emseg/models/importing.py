"""Weights of others in, a weights file of ours out; nothing in them is run.

From a BioImage.IO package only the manifest and the weights are read, in memory: a
state dict, or else the named tensors of an ONNX file. Python and TorchScript in it are
left alone, and nothing is unpacked; `state_dict.py` reads these. Weights at an address
are fetched only if the user says so. For weights by themselves (`.pt`, `.pth`, `.onnx`,
`.safetensors` without card) the user names the architecture.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError

from napari_emseg.core.card import Card
from napari_emseg.core.errors import first_fault
from napari_emseg.core.memory import free_ram
from napari_emseg.core.paths import FolderInsteadError, read_bounded
from napari_emseg.core.records import Progress, Record, drain
from napari_emseg.core.settings import Normalisation
from napari_emseg.io.errors import AmbiguousNetworkError, RemoteWeightsError
from napari_emseg.models.state_dict import (
    MOST_STATE,
    open_zip,
    read_member,
    read_onnx,
    read_state_dict,
)
from napari_emseg.models.weights import (
    CARD,
    Weights,
    check_finite,
    check_fit,
    read_weights,
    save_weights,
    unusable,
)
from napari_emseg.models.zoo import build

if TYPE_CHECKING:
    from torch import Tensor


COMPILED = "_orig_mod."
"""What `torch.compile` puts into names, wherever it was used."""

COUNTER = "num_batches_tracked"
"""Ends the names of steps that batch normalisations have counted; training alone uses
them, and older files have none."""

DEEPEST = 20
"""So many names, with dots between them, are looked at of a parameter's."""

SHOWN = 4
"""So many names of a file that doesn't fit are shown."""


def renamed(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Return a state dict by the names of a network, which others put prefixes before.

    Such as `module.` of parallel training, `model.` of Lightning, `_orig_mod.` of
    compiled networks, and several of them. What isn't under the prefix, a loss's own
    parameters for instance, is left out. Counters of batch normalisation that the file
    lacks are taken from `wanted`.

    Parameters
    ----------
    wanted
        The network's own state dict.

    Raises
    ------
    ValueError
        If several networks of the kind are in the file.
    """
    plain = {key.replace(COMPILED, ""): value for key, value in state.items()}
    needed = [key for key in wanted if not key.endswith(COUNTER)]
    prefix = _prefix(plain, needed, name)
    found = {
        key.removeprefix(prefix): value
        for key, value in plain.items()
        if key.startswith(prefix)
    }
    for key, value in wanted.items():
        if key.endswith(COUNTER):
            found.setdefault(key, value)
    return found


def _prefix(state: Mapping[str, Tensor], needed: list[str], name: str) -> str:
    """Return what stands before all names that a network needs, or before most."""
    # how many of the network's names each prefix explains; only a prefix that explains
    # all of them is sure, otherwise the best is taken so that the misfit can be named
    starts, names = {"": 0}, set(needed)
    for key in state:
        parts = key.split(".", DEEPEST)
        for k in range(min(len(parts), DEEPEST)):
            if ".".join(parts[k:]) in names:
                start = "".join(f"{part}." for part in parts[:k])
                starts[start] = starts.get(start, 0) + 1
    whole = [start for start, n in starts.items() if n == len(needed)]
    if len(whole) > 1 and "" not in whole:
        msg = (
            f"{name} holds {len(whole)} such networks, under {', '.join(whole)}; save "
            "the one to import by itself"
        )
        raise ValueError(msg)
    if "" in whole:
        return ""
    return whole[0] if whole else max(starts, key=starts.__getitem__)


def format_names(state: Mapping[str, Tensor]) -> str:
    """Return the first names of a state dict, for a message."""
    names = [f"{key} {tuple(value.shape)}" for key, value in state.items()]
    more = ", …" * (len(names) > SHOWN)
    return f"{len(names)} names in the file: {', '.join(names[:SHOWN])}{more}"


MANIFESTS = ("rdf.yaml", "bioimageio.yaml", "rdf.yml", "bioimageio.yml")

MOST_MANIFEST = 2**18
"""Bytes; manifests have a few thousand."""

MOST_NODES = 50_000
"""Of a manifest whose references (YAML's aliases) are written out."""


@dataclass(frozen=True)
class ParsedWeights:
    """A state dict, and what its file says of it (None if nothing)."""

    state: Mapping[str, Tensor]
    card: Card | None
    name: str
    notes: tuple[str, ...] = ()


def import_weights(
    path: Path,
    output: Path,
    *,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    download: bool = False,
) -> Weights:
    """Read weights of others and write them: `iter_import_weights`, run to its end."""
    work = iter_import_weights(
        path, output, architecture=architecture, config=config, download=download
    )
    return drain(work)


def iter_import_weights(
    path: Path,
    output: Path,
    *,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    download: bool = False,
) -> Generator[Record, None, Weights]:
    """Read weights of others and write them as a file with a card.

    Yields Progress while weights are downloaded.

    Parameters
    ----------
    path
        A BioImage.IO package (`.zip`), or weights: `.pt`, `.pth`, `.onnx`,
        `.safetensors`.
    output
        The weights file to write.
    architecture, config
        Of the network; must be given for all that doesn't say it in our own words.
    download
        Fetch weights that a package has at an address.

    Raises
    ------
    FileNotFoundError, OSError
        If it can't be read or reached, or the output can't be written.
    RemoteWeightsError
        If the weights lie at an address, and may not be fetched.
    ValueError
        If it is damaged, of another kind or too large to be true, its architecture is
        unknown, it holds NaN, or it doesn't fit the network; the first key that doesn't
        is named, and names in the file are shown.
    """
    if path.is_dir():
        raise FolderInsteadError(path)
    if not path.is_file():
        msg = f"no file at {path}"
        raise FileNotFoundError(msg)
    known = architecture is not None
    found = yield from _reading_weights(path, known=known, download=download)
    card = _card_of(found, output.stem, architecture, config)
    network = build(card.architecture, card.config, holds=_held(found.state))
    own = network.state_dict()
    given = renamed(found.state, own, path.name)
    try:
        check_fit(given, network, path.name)
    except ValueError as e:
        msg = f"{e}; {format_names(found.state)}"
        raise ValueError(msg) from e
    check_finite(given, path.name)
    state = {
        key: given[key].float() if value.is_floating_point() else given[key].to(value)
        for key, value in own.items()
    }
    return save_weights(output, state, card, half=_fits_half(state))


def _reading_weights(
    path: Path, *, known: bool, download: bool
) -> Generator[Record, None, ParsedWeights]:
    """Find out by its contents what a file is, and read it."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[:2] == b"PK":
        with open_zip(path, path.name) as package:
            manifest = _manifest_in(package)
            if manifest is not None:
                return (
                    yield from _from_package(
                        package, manifest, path.name, known=known, download=download
                    )
                )
    # safetensors: eight bytes of length, then a header in JSON
    if start[8:9] == b"{" and start[:2] != b"PK":
        return _from_safetensors(path)
    if path.suffix.lower() == ".onnx":
        data = read_bounded(path, MOST_STATE)
        return ParsedWeights(read_onnx(data, path.name), None, path.name)
    return ParsedWeights(read_state_dict(path.read_bytes(), path.name), None, path.name)


def _card_of(
    found: ParsedWeights,
    name: str,
    architecture: str | None,
    config: dict[str, Any] | None,
) -> Card:
    """Return the card that the file brings, or a new one of what the user says."""
    if found.card is not None and architecture is None:
        return found.card
    if architecture is None:
        msg = f"{found.name} doesn't say what network it is for"
        raise AmbiguousNetworkError(msg)
    about = found.card or Card(name=name, architecture=architecture, notes=found.notes)
    shape = {"architecture": architecture, "config": config or {}, "variants": ()}
    return about.model_copy(update=shape)


def _manifest_in(package: zipfile.ZipFile) -> str | None:
    """Return the name of the manifest at the top of a package, if it is one."""
    names = set(package.namelist())
    return next((name for name in MANIFESTS if name in names), None)


def _from_package(
    package: zipfile.ZipFile, manifest: str, name: str, *, known: bool, download: bool
) -> Generator[Record, None, ParsedWeights]:
    said = _parsed(read_member(package, manifest, MOST_MANIFEST, name), name)
    kind, entry = _weights_entry(said, name)
    card = _our_card(said, name)
    if card is None and not known:  # asked before anything is fetched
        msg = f"{name} doesn't say what network it is for"
        raise AmbiguousNetworkError(msg)
    wanted = entry.get("sha256")
    source = entry.get("source")
    if isinstance(source, str) and "://" in source:
        url, digits = checked_address(source, wanted, name)
        if not download:
            raise RemoteWeightsError(name, url, digits)
        data = yield from downloading(url, digits, name)
        place = url
    else:
        place = _inside(source, name)
        data = read_member(package, place, MOST_STATE, name)
        if wanted is not None and sha256(data).hexdigest() != str(wanted).lower():
            msg = (
                f"{name} is damaged: {place} has another checksum than its manifest "
                "says"
            )
            raise ValueError(msg)
    read = read_onnx if kind == "onnx" else read_state_dict
    return ParsedWeights(read(data, f"{place} in {name}"), card, name, _notes(said))


def _weights_entry(said: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Return what is said of the weights that can be read, and of which kind."""
    weights = said.get("weights")
    kinds = weights if isinstance(weights, dict) else {}
    for kind in ("pytorch_state_dict", "onnx"):
        if isinstance(kinds.get(kind), dict):
            return kind, kinds[kind]
    there = ", ".join(map(str, kinds)) or "nothing"
    msg = (
        f"{name} has no pytorch_state_dict and no onnx, only {there}, which is never "
        "run"
    )
    raise ValueError(msg)


SCHEMES = ("https",)
"""Of addresses that weights are fetched from."""

TIMEOUT = 30.0
"""Seconds that a server may be silent."""


def checked_address(url: str, digits: object, name: str) -> tuple[str, str]:
    """Return an address, and the checksum of what is there, if both can be trusted.

    Raises
    ------
    ValueError
        If it isn't by https, names a user, or there is no checksum.
    """
    parts = urlsplit(url) if re.fullmatch(r"[\x21-\x7e]{1,2000}", url) else None
    if parts is None or parts.scheme not in SCHEMES or not parts.hostname:
        msg = f"{name}: its weights lie outside of the package, at {url[:200]!r}"
        raise ValueError(msg)
    if "@" in parts.netloc:  # https://known.org@other.org is at other.org
        msg = f"{name}: the address of its weights names a user: {url[:200]!r}"
        raise ValueError(msg)
    text = str(digits or "").lower()
    if not re.fullmatch("[0-9a-f]{64}", text):
        msg = (
            f"{name} has its weights at {url[:200]} without a checksum (sha256), so "
            "that nobody could tell if they are the right ones; they aren't fetched"
        )
        raise ValueError(msg)
    return url, text


class _SafeRedirects(HTTPRedirectHandler):
    """Follows a server to other places that are as safe as the first."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in SCHEMES:
            words = f"it leads on to {newurl[:200]}, which isn't {SCHEMES[0]}"
            raise URLError(words)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def downloading(url: str, digits: str, name: str) -> Generator[Record, None, bytes]:
    """Fetch weights into memory; yields Progress in bytes.

    Raises
    ------
    OSError
        If the server can't be reached or ends too early.
    ValueError
        If there is more than weights have, or something of another checksum.
    """
    yield Progress("downloading", 0, 0)
    parts, done, found = [], 0, sha256()
    try:
        with build_opener(_SafeRedirects).open(url, timeout=TIMEOUT) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            _refuse_size(total, name)
            while part := answer.read(2**20):
                done += len(part)
                _refuse_size(done, name)
                found.update(part)
                parts.append(part)
                yield Progress("downloading", done, max(total, done))
    except (OSError, HTTPException) as e:
        why = str(getattr(e, "reason", "") or e) or type(e).__name__
        msg = f"the weights of {name} can't be had from {url}: {why}"
        raise OSError(msg) from e
    if found.hexdigest() != digits:
        msg = (
            f"what is at {url} ({done:,} bytes) has another checksum than {name} says: "
            "it isn't taken"
        )
        raise ValueError(msg)
    return b"".join(parts)


def _refuse_size(size: int, name: str) -> None:
    if size > min(MOST_STATE, free_ram() // 3):
        msg = f"the weights of {name} have {size / 2**20:,.0f} MiB, which is too much"
        raise ValueError(msg)


def _inside(source: object, name: str) -> str:
    """Return the name of a file in the package; refuse whatever leads out of it."""
    text = str(source or "").replace("\\", "/")
    path = PurePosixPath(text)
    if not text or "://" in text or path.is_absolute() or ".." in path.parts:
        msg = f"{name}: its weights lie outside of the package, at {source!r}"
        raise ValueError(msg)
    return str(path)


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        said = _loaded(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        first = str(e).splitlines()[0]
        msg = f"{name}: its manifest can't be read: {first}"
        raise ValueError(msg) from e
    if not isinstance(said, dict):
        msg = f"{name}: its manifest is no list of names and values"
        raise ValueError(msg)
    return said


def _loaded(data: bytes) -> Any:
    """Load YAML; refuse what grows without end when its references are followed."""
    loader = yaml.SafeLoader(data)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _size_of(root, {}) > MOST_NODES:
            msg = f"it stands for more than {MOST_NODES:,} values"
            raise ValueError(msg)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _size_of(node: yaml.Node, known: dict[int, int]) -> int:
    """Count a node and all below it as if references were written out."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES  # of what refers to itself: without end
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        # each node once, references added up: "billion laughs"
        # is counted without being built
        known[id(node)] = 1 + sum(_size_of(part, known) for part in below)
    return known[id(node)]


def _our_card(said: dict[str, Any], name: str) -> Card | None:
    """Return the card that an export of ours brings."""
    config = said.get("config")
    ours = config.get("emseg") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or "card" not in ours:
        return None
    try:
        return Card.model_validate(ours["card"])
    except ValidationError as e:
        msg = f"{name}: its card is damaged: {first_fault(e)}"
        raise ValueError(msg) from e


def _notes(said: dict[str, Any]) -> tuple[str, ...]:
    """Say what a package of others says of itself, as far as it concerns us."""
    rule = Normalisation()
    words = f"imported from the BioImage.IO package {said.get('name', 'without name')}"
    return (
        words,
        "its own preprocessing isn't used: grey values are scaled by percentiles "
        f"{rule.low_percentile:g} and {rule.high_percentile:g}",
    )


def _from_safetensors(path: Path) -> ParsedWeights:
    """Read a safetensors file, whether it has a card or not."""
    from safetensors import safe_open
    from safetensors.torch import load

    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
        state = load(path.read_bytes())
    except (SafetensorError, LookupError, TypeError) as e:
        raise ValueError(unusable(path)) from e
    card = read_weights(path).card if CARD in header else None
    return ParsedWeights(state, card, path.name)


def _held(state: Mapping[str, Tensor]) -> int:
    """Return how many numbers there are at most, each in memory once."""
    shared = (value.untyped_storage() for value in state.values())
    # of two bytes at least, but for counters
    return sum({part.data_ptr(): part.nbytes() for part in shared}.values()) // 2


def _fits_half(state: Mapping[str, Tensor]) -> bool:
    """Tell if nothing is lost when numbers are stored as float16."""
    import torch

    fractional = (value for value in state.values() if value.is_floating_point())
    return all(torch.equal(value.half().float(), value) for value in fractional)
