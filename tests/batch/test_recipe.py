"""What a batch does as a small file: written, moved, damaged, and run elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batching import lines, run, values

from napari_emseg._installed import __version__
from napari_emseg.batch import (
    BatchSettings,
    OpenedRecipe,
    RowChanged,
    context,
    preset,
    read_recipe,
    recipe,
    recipe_of,
    run_batch,
    write_recipe,
)
from napari_emseg.batch.recipe import RecipeExistsError
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.io import read_provenance
from napari_emseg.models.weights import Weights, load_weights

SETTINGS = BatchSettings(
    steps=("membranes", "cells", "link"),
    predict=PredictSettings(invert="no", device="cpu", runtime="torch", threads=1),
    cells=CellSettings(threshold=0.45, minimum_size=5),
    table=True,
    retries=1,
)


@pytest.fixture(autouse=True)
def _no_own_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMSEG_WEIGHTS", str(tmp_path / "own weights"))


@pytest.fixture
def made(weights: Weights, tmp_path: Path) -> Path:
    """A folder with a recipe and its weights, to be moved about."""
    folder = tmp_path / "shared"
    (folder / "weights").mkdir(parents=True)
    shutil.copy(weights.path, folder / "weights" / "tiny.safetensors")
    own = load_weights(folder / "weights" / "tiny.safetensors")
    said = recipe_of(SETTINGS, own, folder=folder)
    return write_recipe(folder / "mine.json", said)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    return path


class TestFile:
    def test_keeps_what_is_done_and_not_the_machine(self, made: Path) -> None:
        found = read_recipe(made).settings
        elsewhere = PredictSettings(invert="no")
        assert found == SETTINGS.model_copy(update={"predict": elsewhere})
        said = json.loads(made.read_text())
        assert not {"device", "threads", "tile"} & set(said["settings"]["predict"])
        assert made.stat().st_size < 5000

    def test_is_moved_with_its_weights(self, made: Path, tmp_path: Path) -> None:
        digits = read_recipe(made).recipe.weights.sha256
        moved = shutil.move(made.parent, tmp_path / "elsewhere")
        found = read_recipe(Path(moved) / "mine.json").weights()
        assert found is not None
        assert found.sha256 == digits
        assert found.path.is_relative_to(moved)

    def test_weights_beside_it_do_as_well(self, made: Path, tmp_path: Path) -> None:
        there = tmp_path / "flat"
        there.mkdir()
        shutil.copy(made, there)
        shutil.copy(made.parent / "weights" / "tiny.safetensors", there)
        shutil.rmtree(made.parent)
        assert read_recipe(there / "mine.json").weights().path.parent == there

    def test_names_others_by_their_full_path(
        self, weights: Weights, tmp_path: Path
    ) -> None:
        said = recipe_of(SETTINGS, weights, folder=tmp_path)
        assert said.weights.path == weights.path.as_posix()

    def test_bundled_weights_are_named(self, tmp_path: Path) -> None:
        bundled = load_weights("isbi2012-unet")
        path = write_recipe(
            tmp_path / "r.json", recipe_of(SETTINGS, bundled, folder=tmp_path)
        )
        opened = read_recipe(path)
        assert opened.recipe.weights.path == ""
        assert opened.weights().path == bundled.path

    def test_other_weights_of_the_name_are_refused(self, made: Path) -> None:
        file = made.parent / "weights" / "tiny.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(
            ValueError, match=r"weights tiny \(sha256.* is another file"
        ):
            read_recipe(made).weights()
        file.unlink()
        with pytest.raises(ValueError, match=r"it isn't there; put the file beside"):
            read_recipe(made).weights()

    def test_none_is_needed_of_probabilities(self, tmp_path: Path) -> None:
        settings = BatchSettings(steps=("cells",))
        said = recipe_of(settings, load_weights("isbi2012-unet"), folder=tmp_path)
        assert said.weights is None

    def test_an_existing_one_is_not_replaced(self, made: Path) -> None:
        said = recipe_of(BatchSettings(), folder=made.parent)
        with pytest.raises(RecipeExistsError, match="choose another name"):
            write_recipe(made, said)
        write_recipe(made, said, overwrite=True)
        assert read_recipe(made).recipe == said
        with pytest.raises(ValueError, match=r"ends in \.json"):
            write_recipe(made.with_suffix(".txt"), said)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "later version": (
        lambda r: r.update(version=9),
        r"mine\.json is of version 9.*reads 1; run it with a newer one",
    ),
    "no version": (lambda r: r.pop("version"), "has no version"),
    "true for a version": (lambda r: r.update(version=True), "has no version"),
    "another file": (lambda r: r.update(kind="project"), "is no recipe of emseg"),
    "unknown name": (lambda r: r.update(run="rm -rf /"), "run: Extra inputs"),
    "unknown setting": (lambda r: r["settings"].update(out="/"), r"settings\.out: Ext"),
    "out of bounds": (
        lambda r: r["settings"]["cells"].update(threshold=7),
        r"settings\.cells\.threshold: .* less than 1, got 7",
    ),
    "unknown step": (lambda r: r["settings"].update(steps=["x"]), "steps are membr"),
    "a format twice": (
        lambda r: r["settings"].update(export=["mrc", "hdf5", "mrc"]),
        r"settings\.export: .*each format once, got mrc twice",
    ),
    "no settings": (lambda r: r.update(settings=[]), "settings: "),
    "short checksum": (lambda r: r["weights"].update(sha256="00"), r"weights\.sha256"),
    "a share": (
        lambda r: r["weights"].update(path="//host/x/y.safetensors"),
        r"weights\.path: .*a path on this machine",
    ),
    "a share of Windows": (
        lambda r: r["weights"].update(path="\\\\host\\y.safetensors"),
        r"weights\.path: .*a path on this machine",
    ),
    "an address": (
        lambda r: r["weights"].update(path="https://x.org/y.safetensors"),
        r"weights\.path: .*a path on this machine",
    ),
    "another kind of file": (
        lambda r: r["weights"].update(path="/etc/passwd"),
        r"weights\.path: .*of a \.safetensors file",
    ),
    "a name that is a path": (
        lambda r: r["weights"].update(name="../../x"),
        r"weights\.name: .*a name without slashes",
    ),
    "a project elsewhere": (
        lambda r: r.update(project="ssh://host/x.emseg"),
        "project: .*a path on this machine",
    ),
}


class TestHostile:
    """Files of strangers: refused in one line, and nothing is looked for."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_values(self, made: Path, name: str) -> None:
        change, words = HOSTILE[name]
        with pytest.raises(ValueError, match=words) as caught:
            read_recipe(changed(made, change))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "is no recipe, or a damaged one"),
            ("[1]", "is no recipe of emseg"),
            ("null", "is no recipe of emseg"),
            ("[" * 100_000, "is no recipe, or a damaged one"),
            ('{"version": NaN}', "NaN is no number"),
            ('{"a": 1, "a": 2}', "'a' stands there twice"),
            ("\xff\xfe", "is no recipe, or a damaged one"),
        ],
    )
    def test_text(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "r.json"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=words):
            read_recipe(path)

    def test_size(self, tmp_path: Path) -> None:
        path = tmp_path / "r.json"
        path.write_bytes(b" " * (recipe.MOST_BYTES + 1))
        with pytest.raises(OSError, match="at most"):
            read_recipe(path)

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
    def test_pipes_are_not_waited_for(self, made: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "p.json")
        with pytest.raises(OSError, match="no regular file"):
            read_recipe(tmp_path / "p.json")
        file = made.parent / "weights" / "tiny.safetensors"
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ValueError, match="asks for the weights tiny"):
            read_recipe(made).weights()

    @pytest.mark.parametrize("share", np.linspace(0, 0.99, 8))
    def test_cut_anywhere(self, made: Path, share: float) -> None:
        whole = made.read_bytes()
        made.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="recipe"):
            read_recipe(made)


class TestRun:
    def job(self, make_job: Any, opened: OpenedRecipe, **rest: Any) -> Any:
        settings = opened.settings.model_copy(update={"predict": SETTINGS.predict})
        job = make_job(use=opened.weights(), **rest)
        return replace(job, settings=settings, recipe=opened.label)

    def test_gives_what_the_settings_give(self, made: Path, make_job: Any) -> None:
        opened = read_recipe(made)
        first = run(replace(make_job(out="plain"), settings=SETTINGS))
        second = run(self.job(make_job, opened))
        assert second.ok
        for one, other in zip(
            first.rows[0].outputs[:2], second.rows[0].outputs[:2], strict=True
        ):
            np.testing.assert_array_equal(values(one), values(other))
        for path in second.rows[0].outputs[:2]:
            told = read_provenance(path)
            assert told is not None
            assert told.recipe == f"mine.json, sha256 {opened.sha256}"
        said = {line["recipe"] for line in lines(second.pages[0])}
        assert said == {opened.label}
        assert opened.label in second.pages[1].read_text()
        assert [line["recipe"] for line in lines(first.pages[0])] == [""]
        plain = read_provenance(first.rows[0].outputs[0])
        assert plain is not None
        assert plain.recipe is None

    def test_goes_on_after_it_was_broken_off(
        self, made: Path, make_job: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(context, "DEEPEST", 2)
        opened = read_recipe(made)
        work = run_batch(self.job(make_job, opened))
        for record in work:
            if isinstance(record, RowChanged) and record.row.step == "cells":
                break
        work.close()
        # another sitting reads the file anew; what it says is the same
        again = run(self.job(make_job, read_recipe(made), resume=True))
        assert again.ok
        assert again.reused >= 3


def test_a_threshold_that_nobody_chose_is_left_to_the_weights(tmp_path: Path) -> None:
    for cells in (CellSettings(minimum_size=5), CellSettings(threshold=0.5)):
        said = recipe_of(BatchSettings(cells=cells), folder=tmp_path)
        path = write_recipe(tmp_path / "r.json", said, overwrite=True)
        read = read_recipe(path).settings.cells
        assert read == cells
        chosen = "threshold" in cells.model_fields_set
        assert ("threshold" in read.model_fields_set) is chosen


def test_the_same_recipe_again_is_no_other_one(tmp_path: Path) -> None:
    """A command that is given again after a kill finds its own recipe."""
    path = tmp_path / "r.json"
    said = recipe_of(SETTINGS, folder=tmp_path)
    written = write_recipe(path, said).read_bytes()
    assert write_recipe(path, said).read_bytes() == written
    with pytest.raises(RecipeExistsError):
        write_recipe(path, recipe_of(BatchSettings(), folder=tmp_path))
    path.write_bytes(written.replace(__version__.encode(), b"0.0.9"))  # or a later one
    older = path.read_bytes()
    assert older != written
    assert write_recipe(path, said).read_bytes() == older


def test_presets_keep_the_settings_of_membranes_and_cells() -> None:
    mine = BatchSettings(cells=CellSettings(threshold=0.3), retries=5, output="tiff")
    found = preset("volume", mine)
    assert found.steps == ("membranes", "cells", "link")
    assert (found.cells.threshold, found.retries) == (0.3, 5)
    assert (found.output, found.table) == ("zarr", True)
    with pytest.raises(ValueError, match="preset must be one of membranes, profiles"):
        preset("everything")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", recipe.PRESETS)
def test_each_preset_is_one(name: Any) -> None:
    assert preset(name).steps[0] == "membranes"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal of POSIX")
def test_killed_and_resumed_by_the_command(
    made: Path, em: Path, tmp_path: Path
) -> None:
    program = Path(__file__).with_name("program.py")
    words = [sys.executable, str(program), str(em), "--recipe", str(made)]
    words += ["--device", "cpu", "--runtime", "torch", "--threads", "1"]
    ledger = tmp_path / "out" / ".emseg-batch" / "ledger.jsonl"
    with subprocess.Popen([*words, "--out", str(tmp_path / "out")]) as killed:
        while killed.poll() is None and not (
            ledger.exists() and ledger.stat().st_size > 200
        ):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    again = [*words, "--out", str(tmp_path / "out"), "--resume"]
    assert subprocess.run(again, check=False).returncode == 0
    whole = [*words, "--out", str(tmp_path / "whole")]
    assert subprocess.run(whole, check=False).returncode == 0
    for name in ("em-membranes.zarr", "em-cells.zarr"):
        one, other = (values(tmp_path / place / name) for place in ("out", "whole"))
        np.testing.assert_array_equal(one, other)
