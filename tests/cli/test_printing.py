"""Errors in the words of the command line: facts in, options out."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tifffile import imwrite

import napari_emseg
from napari_emseg.batch.cluster import SchedulerGoneError
from napari_emseg.batch.engine import OutputFullError
from napari_emseg.batch.job import DifferentBatchError, UnfinishedBatchError
from napari_emseg.batch.planning import LockedCellsError
from napari_emseg.batch.recipe import RecipeEdgesError
from napari_emseg.cli.app import COMMANDS
from napari_emseg.cli.printing import REMEDIES, usage_message
from napari_emseg.core.errors import (
    OtherPrecisionError,
    SettingError,
    UnknownVoxelSizeError,
    UnusableInputsError,
)
from napari_emseg.io.errors import AmbiguousFileError, OutputExistsError

ASKS = AmbiguousFileError("a.tif", "has 2 channels", "channel", [(0, "a"), (1, "b")])

SAID = [
    (UnfinishedBatchError("x"), "x; go on with --resume, or begin anew with --overw"),
    (DifferentBatchError("x"), "x; choose another folder with --out, or begin anew"),
    (SchedulerGoneError("x"), "x; go on with --resume"),
    (OutputFullError(28, "x"), "x; go on with --resume"),
    (OutputExistsError(Path("a.tif")), "a.tif exists already; overwrite it with --ov"),
    (LockedCellsError("x", 301), "x; set --whole 301"),
    (OtherPrecisionError("x"), "x; set --precision float32"),
    (UnknownVoxelSizeError("x"), "x; give it with --voxel-size Z,Y,X in nm"),
    (ASKS, "a.tif: has 2 channels; choose with --channel: 0 (a), 1 (b)"),
    (UnusableInputsError([ASKS]), "none of the inputs can be used: a.tif: has 2 ch"),
    (UnusableInputsError([ASKS]), "choose with --channel: 0 (a), 1 (b)"),
]


@pytest.mark.parametrize(("error", "said"), SAID, ids=lambda x: type(x).__name__)
def test_an_error_is_told_with_the_option_that_ends_it(error, said) -> None:
    assert said in usage_message(error)


def test_every_command_is_there(emseg) -> None:
    """Each is looked for only when it is called, or when a word is no command."""
    done = emseg("nothing")
    assert done.code == 2
    assert "nothing" in done.err
    assert "Traceback" not in done.err
    for name in COMMANDS:
        assert emseg(name, "--help").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("learn-edges p.npy c.npy e.json --start FOLDER", "a folder, not a file"),
        ("segment p.npy c.tif --through graph --edges FOLDER", "a folder, not a file"),
        ("batch p.npy --out b --recipe FOLDER", "a folder, not a file"),
        ("batch p.npy --out b --save-recipe FOLDER", "a folder, not a file"),
        ("weights import FOLDER w.safetensors", "a folder, not a file"),
        ("learn-edges p.npy c.npy FOLDER", "won't be replaced"),
        ("project show FOLDER", "is no project"),
        ("check FOLDER", "has no sections in it"),
    ],
)
def test_a_folder_that_is_not_what_is_asked_for_is_a_wrong_call(
    emseg, words, said
) -> None:
    for name in ("p.npy", "c.npy"):
        np.save(name, np.zeros((2, 32, 32), np.float32))
    Path("a.json").mkdir()
    of_files = words.startswith(("learn-edges", "segment"))
    more = ("--input-is=probabilities",) if of_files else ()
    done = emseg(*words.replace("FOLDER", "a.json").split(), *more)
    assert done.code == 2
    assert "a.json" in done.err
    assert said in done.err
    assert {p.name for p in Path().iterdir()} == {"p.npy", "c.npy", "a.json"}


@pytest.mark.parametrize("command", ["segment", "train", "finetune", "batch"])
def test_options_that_name_sections_say_from_where_they_count(emseg, command) -> None:
    lines = emseg(command, "--help").out.replace("│", " ").splitlines()
    begins = [i for i, line in enumerate(lines) if line.lstrip(" *").startswith("--")]
    options = [
        " ".join(" ".join(lines[i:j]).split())
        for i, j in pairwise([*begins, len(lines)])
    ]
    named = [o for o in options if re.search(r" (A:B|Z,Z) ", o)]
    assert named
    for option in named:
        assert "counted from 0" in option


def _below(kind: type[SettingError]) -> list[type[SettingError]]:
    return [kind, *(k for each in kind.__subclasses__() for k in _below(each))]


def test_every_remedy_says_what_to_type() -> None:
    kinds = [kind for kind in _below(SettingError) if isinstance(kind.remedies, dict)]
    assert RecipeEdgesError in kinds
    for kind in kinds:
        for name, value in kind.remedies.items():
            assert value is not None or name in REMEDIES, (kind, name)


def test_a_lack_of_memory_is_told_with_what_to_do() -> None:
    with pytest.raises(MemoryError) as info:
        np.empty(2**58)
    for error, cause in (
        (info.value, "Unable to allocate 2.00 EiB"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (MemoryError(), "MemoryError"),
    ):
        said = usage_message(error)
        assert said.startswith(f"not enough memory ({cause}")
        assert said.endswith(
            "; close other programs, or choose a smaller region or tile"
        )
    assert usage_message(RuntimeError("another")) == "another"
    assert usage_message(MemoryError("set a smaller tile")) == "set a smaller tile"


def test_a_batch_names_the_option_that_an_input_needs(emseg, tiny_weights) -> None:
    """Also where only one of several inputs can't be used."""
    imwrite("c.tif", np.ones((2, 30, 40), np.uint16), metadata={"axes": "CYX"})
    imwrite("em.tif", np.ones((2, 30, 40), np.uint8))
    words = ("--out", "o", "--weights", tiny_weights, "--dry-run")
    alone = emseg("batch", "c.tif", *words)
    assert alone.code == 1
    assert "c.tif: has 2 channels; choose with --channel: 'z'" in alone.out
    both = emseg("batch", "c.tif", "em.tif", *words, "--json")
    assert "choose with --channel: 'z'" in both.out
    assert emseg("batch", "c.tif", *words, "--channel", "1").code == 0


OWN_OPTIONS = re.compile(
    r"""["'\s]--(resume|overwrite|whole|voxel-size|channel|time)"""
)
WORDING = re.compile(
    r"""\bin str\(|\.replace\(["']--|str\(\w+\)\.(startswith|endswith|replace)"""
)
FOREIGN = {
    "io/hdf5.py": "HDF5 tells of a locked file by its words only",
    "io/dm.py": "RosettaSciIO tells of colour pictures by its words only",
    "inference/torch_runtime.py": "PyTorch tells what oneDNN lacks by its words only",
}
"""Where another library raises errors that only their words tell apart."""


def _sources() -> dict[str, str]:
    root = Path(napari_emseg.__file__).parent
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*.py")}


def test_only_the_command_line_names_its_options() -> None:
    named = {name for name, text in _sources().items() if OWN_OPTIONS.search(text)}
    assert {name for name in named if not name.startswith("cli/")} == set()


def test_no_remedy_is_told_twice() -> None:
    """Messages of errors that carry what ends them leave saying it to others."""
    carry = "|".join(kind.__name__ for kind in _below(SettingError))
    raised = re.compile(rf"raise ({carry})\(")
    advice = re.compile(r"; (choose|set|give|go on|begin|overwrite) ")
    seen = 0
    for name, text in _sources().items():
        if not raised.search(text):
            continue
        for each in ast.walk(ast.parse(text)):
            if not isinstance(each, ast.FunctionDef):
                continue
            code = "".join(ast.unparse(line) for line in each.body)
            if raised.search(code):
                seen += 1
                assert not advice.search(code), (name, each.name)
    assert seen > 10


def test_nothing_branches_on_the_words_of_a_message() -> None:
    branching = {name for name, text in _sources().items() if WORDING.search(text)}
    assert branching == set(FOREIGN)
