"""Two runs with one output: the second is refused by name, the first one stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_emseg.core.lock import Claim
from napari_emseg.io import output
from napari_emseg.models.weights import load_weights

SMALL = ("--steps", "1", "--patch", "32", "--batch", "1", "--device", "cpu")
SHAPE = ("--network.base", "2", "--network.levels", "2")


@pytest.fixture
def commands(em_file, cells_file, tiny_weights, tmp_path) -> dict[str, tuple]:
    """Return words by command; the output is called `o` and what its kind ends in."""
    labels, cells = ("--labels-are", "cells"), tmp_path / "o.safetensors"
    weights = ("--weights", tiny_weights)
    return {
        "train": ("train", em_file, cells_file, cells, *labels, *SMALL, *SHAPE),
        "finetune": ("finetune", em_file, cells_file, cells, *labels, *SMALL, *weights),
        "export": ("weights", "export", tiny_weights, tmp_path / "o.zip"),
        "import": ("weights", "import", tiny_weights, cells),
        "predict": ("predict", em_file, tmp_path / "o.tif", *weights),
        "export results": ("export", cells_file, tmp_path / "o.mrc"),
    }


NAMES = ("train", "finetune", "export", "import", "predict", "export results")


def output_of(words: tuple) -> Path:
    return next(w for w in words if isinstance(w, Path) and w.stem == "o")


@pytest.mark.parametrize("name", NAMES)
def test_the_second_is_refused_by_name(emseg, commands, name) -> None:
    path = output_of(commands[name])
    with Claim(path):
        for overwrite in ((), ("--overwrite",)):
            done = emseg(*commands[name], *overwrite)
            assert done.code == 2
            assert f"{path} is being written by process " in done.err
            assert "Traceback" not in done.err
    assert not path.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_ended_while_the_second_began_keeps_its_output(
    emseg, commands, name, monkeypatch
) -> None:
    """The first ends after the second looked whether its output exists."""
    path = output_of(commands[name])

    class LateClaim(Claim):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            path.write_bytes(b"the first one's")

    monkeypatch.setattr(output, "Claim", LateClaim)
    done = emseg(*commands[name])
    assert done.code == 2
    assert "exists" in done.err
    assert path.read_bytes() == b"the first one's"


def test_nothing_is_claimed_after(emseg, commands, tmp_path) -> None:
    for name in ("train", "finetune", "export"):
        assert emseg(*commands[name], "--overwrite").code == 0
        assert output_of(commands[name]).is_file()
    assert load_weights(tmp_path / "o.safetensors").card.parent_sha256
    assert not list(tmp_path.glob(".*lock"))


def test_two_demos_in_one_folder(emseg, tmp_path) -> None:
    (tmp_path / "demo").mkdir()
    with Claim(tmp_path / "demo" / "scores.json"):
        done = emseg("demo", "--out", "demo")
    assert done.code == 2
    assert "scores.json is being written by process " in done.err
    assert not list((tmp_path / "demo").glob("*"))
