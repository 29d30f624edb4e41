"""Inputs that go away or change while a command reads them: never a result that looks
whole, exit code 1, and one line that says what happened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.io import save_stack
from napari_emseg.io.sections import SectionArray
from napari_emseg.training import finetune


@pytest.fixture
def after_reading(monkeypatch: pytest.MonkeyPatch):
    """Do something once two sections were read."""
    load, count = SectionArray._load, 0

    def arrange(act) -> None:
        def loading(self, first, last):
            nonlocal count
            values = load(self, first, last)
            count += 1
            if count == 2:
                act()
            return values

        monkeypatch.setattr(SectionArray, "_load", loading)

    return arrange


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def change(path: Path) -> None:
    """Flip a byte, so that the size stays; time passes, however coarse the clock is."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    touch(path)


@pytest.mark.parametrize("ending", ["tif", "zarr", "h5", "mrc"])
def test_predict(emseg, em_file, tiny_weights, tmp_path, after_reading, ending) -> None:
    output = tmp_path / f"out.{ending}"
    after_reading(lambda: em_file.rename(tmp_path / "gone.tif"))
    done = emseg("predict", em_file, output, "--weights", tiny_weights)
    assert done.code == 1
    assert "em.tif is no longer there: the result is incomplete" in done.err
    assert "Traceback" not in done.err
    assert not output.exists()


def test_sections_that_could_not_be_read_are_listed(
    emseg, drawn_stack, tiny_weights, tmp_path, after_reading
) -> None:
    em = save_stack(tmp_path / "em.zarr", drawn_stack[0])
    after_reading(lambda: em.rename(tmp_path / "gone.zarr"))
    options = ("--weights", tiny_weights, "--invert", "no")
    done = emseg("predict", em, "out.tif", *options)
    assert done.code == 1
    assert "incomplete, without section" in done.err
    assert not (tmp_path / "out.tif").exists()


def test_a_file_that_is_replaced_is_noticed(
    emseg, em_file, tiny_weights, tmp_path, after_reading
) -> None:
    after_reading(lambda: change(em_file))
    options = ("--weights", tiny_weights, "--input-is", "em")
    done = emseg("segment", em_file, "out.tif", *options)
    assert done.code == 1
    assert "em.tif was changed or replaced while it was read" in done.err
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("command", ["predict", "segment", "export", "train", "batch"])
def test_an_input_that_is_merely_touched_is_no_error(
    emseg, em_file, cells_file, tiny_weights, after_reading, command
) -> None:
    after_reading(lambda: touch(em_file))
    weights = ("--weights", tiny_weights)
    small = ("--network.base", "2", "--network.levels", "1", "--steps", "1")
    small += ("--labels-are", "cells")
    words = {
        "predict": (em_file, "out.tif", *weights),
        "segment": (em_file, "out.tif", *weights, "--input-is", "em"),
        "export": (em_file, "out.zarr"),
        "train": (em_file, cells_file, "w.safetensors", *small),
        "batch": (em_file, "--out", "results", *weights),
    }
    done = emseg(command, *words[command])
    assert done.code == 0, done.err


@pytest.mark.parametrize("roi", [(), ("--roi", "10:60,:50")])
def test_probabilities(emseg, tmp_path, after_reading, roi) -> None:
    values = np.random.default_rng(0).random((4, 80, 80), np.float32)
    given = save_stack(tmp_path / "p.tif", values)
    after_reading(lambda: change(given))
    done = emseg("segment", given, "out.tif", "--input-is", "probabilities", *roi)
    assert done.code == 1
    assert "p.tif was changed or replaced" in done.err
    assert not (tmp_path / "out.tif").exists()


def test_evaluate(emseg, cells_file, tmp_path, after_reading) -> None:
    after_reading(lambda: change(cells_file))
    what = ("--truth-is", "cells", "--prediction-is", "cells")
    done = emseg("evaluate", cells_file, cells_file, *what)
    assert done.code == 1
    assert "cells_truth.tif was changed or replaced" in done.err
    assert "V_Rand" not in done.out


def test_export(emseg, em_file, tmp_path, after_reading) -> None:
    after_reading(em_file.unlink)
    done = emseg("export", em_file, "out.zarr")
    assert done.code == 1
    assert "em.tif is no longer there" in done.err
    assert not (tmp_path / "out.zarr").exists()


def test_training_writes_no_weights(
    emseg, em_file, cells_file, tmp_path, after_reading
) -> None:
    after_reading(lambda: change(em_file))
    what = ("--labels-are", "cells", "--steps", "1", "--device", "cpu")
    small = ("--network.base", "2", "--network.levels", "1")
    done = emseg("train", em_file, cells_file, "w.safetensors", *what, *small)
    assert done.code == 1, done.err
    assert "em.tif was changed or replaced" in done.err
    assert not (tmp_path / "w.safetensors").exists()


def test_finetuning(
    emseg, em_file, cells_file, tiny_weights, tmp_path, after_reading
) -> None:
    after_reading(lambda: change(em_file))
    what = ("--labels-are", "cells", "--steps", "1", "--device", "cpu")
    files = (em_file, cells_file, "w.safetensors")
    done = emseg("finetune", *files, "--weights", tiny_weights, *what)
    assert done.code == 1, done.err
    assert "em.tif was changed or replaced" in done.err
    assert "the result may be wrong; run it again" in done.err
    assert not list(tmp_path.glob("w.safetensors*"))


@pytest.mark.parametrize("which", ["images", "labels"])
def test_finetuning_whose_inputs_change_at_its_end(
    emseg, em_file, cells_file, tiny_weights, tmp_path, monkeypatch, which
) -> None:
    """What was there before stays, although it was to be replaced."""
    kept = tmp_path / "w.safetensors"
    kept.write_bytes(b"older weights")
    compare = finetune.compare_predictors

    def compare_late(*words, **options):
        found = yield from compare(*words, **options)
        change(em_file if which == "images" else cells_file)
        return found

    monkeypatch.setattr(finetune, "compare_predictors", compare_late)
    what = ("--labels-are", "cells", "--steps", "1", "--device", "cpu", "--overwrite")
    files = (em_file, cells_file, kept)
    done = emseg("finetune", *files, "--weights", tiny_weights, *what)
    assert done.code == 1, done.err
    assert "was changed or replaced" in done.err
    assert kept.read_bytes() == b"older weights"
    assert not list(tmp_path.glob("*.part"))
