"""A recipe: what a batch does with its inputs, in one small file that runs elsewhere.

It holds settings, and says by name, place and checksum which weights and which project
they go with. Nothing in it is run, and nothing is written where it says.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from napari_emseg._installed import __version__
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.core.atomic import write_whole
from napari_emseg.core.errors import SettingError, first_fault
from napari_emseg.core.paths import (
    FolderInsteadError,
    read_bounded,
    size_of_regular,
)
from napari_emseg.core.settings import PredictSettings, Settings
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    bundled_folders,
    list_weights,
    load_weights,
    missing_weights,
    own_folder,
)
from napari_emseg.project.folder import is_project

VERSION = 1
"""Of the form that recipes are written in."""

MOST_BYTES = 2**18
"""Of a recipe; one has two thousand."""

MOST_WEIGHTS = 2**33
"""Bytes of weights that are looked at to compare their checksum."""

HERE = ("device", "runtime", "tile", "batch", "threads")
"""Settings of runs that belong to a machine, and not to what is done."""

Name = Field(max_length=200)
Place = Field("", max_length=4096)


def _checked_place(value: str) -> str:
    r"""Refuse addresses: a share (`//host/…`, `\\host\…`) would be asked for."""
    if re.search(r"[\x00-\x1f\\]|://", value) or value.startswith("//"):
        msg = f"a path on this machine with slashes, got {value!r}"
        raise ValueError(msg)
    return value


class RecipeExistsError(FileExistsError):
    """Where a recipe is to be written lies another one, or another file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is another recipe already; choose another name")


class RecipeWeightsError(SettingError, ValueError):
    """The weights of a recipe aren't among those that are here."""

    remedies: Mapping[str, object] = {"weights": None}


class RecipeEdgesError(SettingError, ValueError):
    """The classifier of edges of a recipe isn't here."""

    remedies: Mapping[str, object] = {"edges": None}


class RecipeFile(Settings):
    """Which file a recipe goes with: a checksum, and where it was."""

    suffix: ClassVar[str]

    name: str = Name
    """Of the file, without its ending."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    path: str = Place
    """Absolute, or relative to the recipe; empty for bundled ones."""

    @field_validator("path")
    @classmethod
    def _of_its_kind(cls, value: str) -> str:
        if value and not value.endswith(cls.suffix):
            msg = f"the path of a {cls.suffix} file, got {value!r}"
            raise ValueError(msg)
        return _checked_place(value)

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not value or re.search(r"[\x00-\x1f/\\]", value):
            msg = f"a name without slashes, got {value!r}"
            raise ValueError(msg)
        return value


class RecipeWeights(RecipeFile):
    """Which weights."""

    suffix = SUFFIX


class RecipeEdges(RecipeFile):
    """Which classifier of edges."""

    suffix = ".json"


class Recipe(Settings):
    """What a batch does, for a file.

    Settings that belong to a machine (device, runtime, tile, threads) are left out: the
    machine that runs it has its own.
    """

    kind: Literal["emseg batch recipe"] = "emseg batch recipe"
    version: int = VERSION
    program: str = Field(__version__, max_length=100)
    """Version of the program that wrote it."""
    weights: RecipeWeights | None = None
    edges: RecipeEdges | None = None
    """Left out of the file without one, so that earlier versions read it."""
    project: str = Place
    """Folder of the corrections, absolute or relative to the recipe; may be empty."""
    settings: BatchSettings = BatchSettings()

    @field_validator("project")
    @classmethod
    def _of_project(cls, value: str) -> str:
        return _checked_place(value)


@dataclass(frozen=True, slots=True)
class OpenedRecipe:
    """A recipe that was read, and where it lies.

    Parameters
    ----------
    sha256
        Of the file, by which results name it.
    """

    path: Path
    recipe: Recipe
    sha256: str

    @property
    def settings(self) -> BatchSettings:
        """What is done."""
        return self.recipe.settings

    @property
    def label(self) -> str:
        """By which results name it."""
        return f"{self.path.name}, sha256 {self.sha256}"

    @property
    def project(self) -> Path | None:
        """The project's folder, if there is one, and it is here."""
        said = self.recipe.project
        place = self._places(said)[0] if said else None
        return place if place is not None and is_project(str(place)) else None

    def weights(self) -> Weights | None:
        """Find the weights by their checksum: bundled, where they were, or beside.

        Raises
        ------
        RecipeWeightsError
            If none of the files there is the one; where was looked is said.
        """
        said = self.recipe.weights
        if said is None:
            return None
        bundled = [folder / f"{said.name}{SUFFIX}" for folder in bundled_folders()]
        own = [w.path for w in list_weights(own_folder()).values()]
        beside = self.path.parent / f"{said.name}{SUFFIX}"
        named = [*(self._places(said.path) if said.path else []), beside]
        for path in dict.fromkeys((*bundled, *named, *own)):
            if _is_file_of(path, said.sha256):
                predict = self.settings.predict
                return load_weights(path, predict.depth, predict.heads)
        raise RecipeWeightsError(self._lacking(said, named))

    def edges(self) -> Path | None:
        """Find the classifier of edges by its checksum: where it was, or beside.

        Raises
        ------
        RecipeEdgesError
            If neither file is the one.
        """
        said = self.recipe.edges
        if said is None:
            return None
        beside = self.path.parent / f"{said.name}{said.suffix}"
        for path in (*self._places(said.path), beside):
            if _is_file_of(path, said.sha256):
                return path
        msg = (
            f"{self.path.name} asks for the classifier of edges {said.name} (sha256 "
            f"{said.sha256[:12]}…), which isn't there; put the file beside the recipe"
        )
        raise RecipeEdgesError(msg)

    def _lacking(self, said: RecipeWeights, named: list[Path]) -> str:
        """Return in words that none of the files that were looked at is the one."""
        lost = "" if said.path else missing_weights().get(said.name, "")
        others = [str(path) for path in named if path.is_file()]
        why = f"{others[0]} is another file" if others else "it isn't there"
        return (
            f"{self.path.name} asks for the weights {said.name} (sha256 "
            f"{said.sha256[:12]}…), and "
            + (lost or f"{why}; put the file beside the recipe")
        )

    def _places(self, said: str) -> list[Path]:
        return [self.path.parent / said, self.path.parent / PurePosixPath(said).name]


def _is_file_of(path: Path, digits: str) -> bool:
    """Tell if there is a file of this checksum."""
    try:
        if size_of_regular(path) > MOST_WEIGHTS:
            return False
        with path.open("rb") as file:
            found = sha256()
            while part := file.read(2**20):
                found.update(part)
    except (OSError, ValueError):
        return False
    return found.hexdigest() == digits


def recipe_of(
    settings: BatchSettings,
    weights: Weights | None = None,
    project: Path | None = None,
    *,
    folder: Path,
    edges: Path | None = None,
) -> Recipe:
    """Return the recipe of a batch, to be written into a folder.

    Weights and a project that lie in that folder are named by their way from there, so
    that it can be moved as a whole; others by their full path.
    """
    named = None
    if weights is not None and settings.need_weights:
        bundled = weights.path.parent in bundled_folders()
        place = "" if bundled else _place(weights.path, folder)
        named = RecipeWeights(name=weights.path.stem, sha256=weights.sha256, path=place)
    return Recipe(
        weights=named,
        edges=None if edges is None else _of_edges(edges, folder),
        project="" if project is None else _place(project, folder),
        settings=without_machine(settings),
    )


def _of_edges(path: Path, folder: Path) -> RecipeEdges:
    with path.open("rb") as file:
        digits = file_digest(file, "sha256").hexdigest()
    return RecipeEdges(name=path.stem, sha256=digits, path=_place(path, folder))


def _place(path: Path, folder: Path) -> str:
    full, base = path.expanduser().resolve(), folder.expanduser().resolve()
    inside = full.is_relative_to(base)
    return (full.relative_to(base) if inside else full).as_posix()


def without_machine(settings: BatchSettings) -> BatchSettings:
    """Return settings as a recipe has them: those of a machine are its own."""
    plain = {name: getattr(PredictSettings(), name) for name in HERE}
    predict = settings.predict.model_copy(update=plain)
    return settings.model_copy(update={"predict": predict})


def check_recipe_path(path: Path, recipe: Recipe, *, out: Path | None = None) -> bool:
    """Check that a recipe may be written; tell if the same one is there already.

    Parameters
    ----------
    out
        A folder that will be there by then.

    Raises
    ------
    ValueError
        If the name doesn't end in `.json`.
    FileNotFoundError
        If its folder doesn't exist.
    RecipeExistsError
        If another file is there.
    FolderInsteadError
        If a folder is there.
    """
    path = path.expanduser()
    if path.suffix.lower() != ".json":
        msg = f"a recipe ends in .json, got {path}"
        raise ValueError(msg)
    if path.is_dir():
        raise FolderInsteadError(path)
    if os.path.lexists(path):
        if not _is_alike(path, recipe):
            raise RecipeExistsError(path)
        return True
    folder = path.absolute().parent
    if not folder.is_dir() and (out is None or folder != out.absolute()):
        msg = f"the folder {path.parent} of the recipe does not exist"
        raise FileNotFoundError(msg)
    return False


def _is_alike(path: Path, recipe: Recipe) -> bool:
    """Tell if a file is a recipe that does the same, whichever version wrote it."""
    try:
        there = read_recipe(path).recipe
    except (OSError, ValueError):
        return False
    return _text(there.model_copy(update={"program": recipe.program})) == _text(recipe)


def write_recipe(path: Path, recipe: Recipe, *, overwrite: bool = False) -> Path:
    """Write a recipe, whole or not at all; one that does the same is left as it is.

    Raises
    ------
    ValueError
        If the name doesn't end in `.json`.
    FileExistsError, OSError
        If another file is there, or it can't be written.
    """
    path = path.expanduser()
    try:
        # the same command again, as after a kill, finds its own recipe
        if check_recipe_path(path, recipe):
            return path
    except RecipeExistsError:
        if not overwrite:
            raise
    write_whole(path, _text(recipe))
    return path


def _text(recipe: Recipe) -> str:
    """Return a recipe as its file has it."""
    left_out: dict[str, set[str]] = {"predict": {*HERE}}
    if "threshold" not in recipe.settings.cells.model_fields_set:
        left_out["cells"] = {"threshold"}  # the weights say it
    exclude: dict[str, Any] = {"settings": left_out}
    if recipe.edges is None:
        exclude["edges"] = True
    said = recipe.model_dump(mode="json", exclude=exclude)
    return f"{json.dumps(said, indent=1, ensure_ascii=False)}\n"


def read_recipe(path: str | os.PathLike[str]) -> OpenedRecipe:
    """Read a recipe.

    Raises
    ------
    OSError
        If it can't be read, is too large, or no regular file.
    ValueError
        If it is damaged, of a later version, or a value is out of its bounds; the
        first that is wrong is named.
    """
    place = Path(path).expanduser()
    data = read_bounded(place, MOST_BYTES)
    try:
        said = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        why = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        msg = f"{place.name} is no recipe, or a damaged one: {why}"
        raise ValueError(msg) from e
    if not isinstance(said, dict) or said.get("kind") != "emseg batch recipe":
        msg = f"{place.name} is no recipe of emseg"
        raise ValueError(msg)
    _check_version(said.get("version"), place.name)
    try:
        recipe = Recipe.model_validate(said)
    except ValidationError as e:
        msg = f"{place.name}: {_fault(e)}"
        raise ValueError(msg) from e
    return OpenedRecipe(place, recipe, sha256(data).hexdigest())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"{twice[:100]!r} stands there twice"
        raise ValueError(msg)
    return found


def _no_number(word: str) -> None:
    msg = f"{word} is no number"
    raise ValueError(msg)


def _check_version(version: object, name: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = f"{name} has no version, so it is no recipe of emseg"
        raise ValueError(msg)
    if version > VERSION:
        msg = (
            f"{name} is of version {version}, and this emseg ({__version__}) reads "
            f"{VERSION}; run it with a newer one"
        )
        raise ValueError(msg)


def _fault(error: ValidationError) -> str:
    """Return in one short line what is wrong, and its value."""
    given = error.errors()[0]["input"]
    value = "" if isinstance(given, Mapping) else f", got {given!r}"
    text = " ".join(first_fault(error).removeprefix("Value error, ").split())
    return f"{text}{value}"[:400]


Preset = Literal["membranes", "profiles", "volume", "fiji", "neuroglancer"]

PRESETS: Mapping[Preset, tuple[str, dict[str, Any]]] = {
    "membranes": ("Membranes", {"steps": ("membranes",)}),
    "profiles": ("Membranes and profiles", {"steps": ("membranes", "cells")}),
    "volume": (
        "Cells in 3-D, with a table",
        {"steps": ("membranes", "cells", "link"), "table": True},
    ),
    "fiji": (
        "Membranes and profiles for Fiji",
        {"steps": ("membranes", "cells"), "output": "tiff"},
    ),
    "neuroglancer": (
        "Cells in 3-D for Neuroglancer",
        {"steps": ("membranes", "cells", "link"), "export": ("neuroglancer",)},
    ),
}
"""Titles of common batches, and their settings beside those of membranes and cells."""


def preset(name: Preset, settings: BatchSettings | None = None) -> BatchSettings:
    """Return the settings of a preset, with the membranes and cells of other ones.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in PRESETS:
        msg = f"preset must be one of {', '.join(PRESETS)}, got {name!r}"
        raise ValueError(msg)
    plain = BatchSettings()
    kept = {} if settings is None else {"predict", "cells", "retries", "block", "whole"}
    base = {key: getattr(settings or plain, key) for key in kept}
    return BatchSettings(**{**base, **PRESETS[name][1]})
