"""What is kept between runs in the user's cache: networks and what was measured.

An entry begins with a checksum, and is data only. One that is damaged, was moved there
from elsewhere or is too large counts for nothing: it is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from napari_emseg._installed import __version__
from napari_emseg.core.atomic import write_whole
from napari_emseg.core.paths import read_bounded
from napari_emseg.inference.openvino_runtime import (
    ConvertedModel,
    OpenVinoRuntime,
    package_version,
)
from napari_emseg.models import zoo
from napari_emseg.models.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_BYTES = 2**28
"""Of all that is kept; a U-Net takes some MB."""

MOST_OF_ONE = MOST_BYTES // 4
"""Of one entry, so that a huge network doesn't drive out all others."""

_FORM = 1
"""Of entries; those of another form are never found."""


def cache_folder() -> Path | None:
    """Return where entries are kept; None to keep none."""
    return user_cache_path("napari-emseg", appauthor=False) / "precision"


def _place(key: Sequence[object]) -> Path | None:
    folder, words = cache_folder(), json.dumps([_FORM, *key])
    return None if folder is None else folder / sha256(words.encode()).hexdigest()


def read_entry(key: Sequence[object]) -> bytes:
    """Return an entry; nothing if there is none, or it isn't what was written.

    An entry begins with the checksum of its name and the rest.
    """
    path = _place(key)
    if path is None:
        return b""
    try:
        entry = read_bounded(path, MOST_OF_ONE)
    except OSError:
        return b""
    digest = sha256(path.name.encode() + entry[32:]).digest()
    if digest != entry[:32]:
        return b""
    with suppress(OSError):
        os.utime(path)  # those that nobody asks for are the first to go
    return entry[32:]


def write_entry(key: Sequence[object], content: bytes) -> None:
    """Keep an entry, and let the oldest go; a cache that can't be written is none."""
    path = _place(key)
    if path is None or len(content) + 32 > MOST_OF_ONE:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, sha256(path.name.encode() + content).digest() + content)
        _prune(path.parent.iterdir(), path)


def _prune(entries: Iterable[Path], newest: Path) -> None:
    total = 0
    for each in sorted(entries, key=lambda path: -path.stat().st_mtime):
        total += each.stat().st_size
        if total > MOST_BYTES and each != newest:
            each.unlink()


def read_model(weights: Weights) -> ConvertedModel | None:
    """Return the network of weights as it was converted before, without PyTorch."""
    key = _key(weights)
    try:
        return None if key is None else ConvertedModel.unpack(read_entry(key))
    except ValueError:
        return None


def write_model(weights: Weights, runtime: OpenVinoRuntime) -> None:
    """Keep a network that was converted, and found to give PyTorch's numbers."""
    key = _key(weights)
    if key is not None and cache_folder() is not None:
        with suppress(OSError, RuntimeError):
            write_entry(key, runtime.converted().pack())


def _key(weights: Weights) -> list[object] | None:
    """By what a network is known again; None of one whose code isn't ours."""
    if not zoo.is_bundled(weights.card.architecture):
        return None
    part = [weights.sha256, weights.depth, weights.heads]
    packages = [package_version(name) for name in ("openvino", "torch")]
    return ["float32", *part, __version__, code_checksum(), *packages]


@cache
def code_checksum() -> str:
    """Return a checksum of the code that builds, converts and quantises networks."""
    digest = sha256()
    here = Path(__file__).parent
    for path in sorted([*Path(zoo.__file__).parent.glob("*.py"), *here.glob("op*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
