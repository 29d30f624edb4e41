from __future__ import annotations

import json
from pathlib import Path

from napari_emseg.batch import read_recipe
from napari_emseg.io import read_provenance

RUN = ("--device", "cpu", "--runtime", "torch", "--invert", "no")


def test_a_recipe_is_saved_and_run_elsewhere(emseg, tiny_weights, em_file) -> None:
    done = emseg(
        *("batch", em_file, "--out", "a", "--weights", tiny_weights, *RUN),
        *("--threshold", "0.31", "--steps", "membranes", "--save-recipe", "r.json"),
    )
    assert done.code == 0
    assert "r.json: the recipe" in done.err
    said = json.loads(Path("r.json").read_text())
    assert said["weights"]["name"] == tiny_weights.stem
    assert said["settings"]["cells"]["threshold"] == 0.31

    done = emseg("batch", em_file, "--out", "b", "--recipe", "r.json", *RUN, "--json")
    assert done.code == 0
    (row,) = json.loads(done.out)["inputs"]
    (output,) = map(Path, row["outputs"])
    told = read_provenance(output)
    assert told is not None
    assert told.recipe is not None
    assert told.recipe.startswith("r.json, sha256 ")

    # an option that is given wins over the recipe, also over a preset
    done = emseg(
        *("batch", em_file, "--out", "c", "--recipe", "r.json", "--save-recipe"),
        *("r2.json", "--preset", "fiji", "--threshold", "0.4", "--dry-run"),
    )
    assert done.code == 0
    settings = json.loads(Path("r2.json").read_text())["settings"]
    assert settings["cells"]["threshold"] == 0.4
    assert settings["steps"] == ["membranes", "cells"]
    assert settings["output"] == "tiff"
    assert settings["predict"]["invert"] == "no"


MEMBRANES = ("--steps", "membranes", "--save-recipe")


def test_a_refused_batch_leaves_no_recipe(emseg, tiny_weights, em_file) -> None:
    words = ("batch", em_file, "--out", "o", "--weights", tiny_weights, *RUN)
    # the folder of results, which the batch makes, is the natural place
    assert emseg(*words, *MEMBRANES, "o/r.json").code == 0
    assert read_recipe("o/r.json").settings.steps == ("membranes",)

    done = emseg(*words, *MEMBRANES, "new.json")
    assert "exists already; overwrite it with --overwrite" in done.err
    assert not Path("new.json").exists()

    done = emseg(*words, *MEMBRANES, "o/r.json", "--resume")
    assert done.code == 0
    assert "nothing left to do" in done.err

    done = emseg(*words, "--threshold", "0.3", *MEMBRANES, "o/r.json", "--dry-run")
    assert done.code == 2
    assert "o/r.json is another recipe already; choose another name" in done.err

    done = emseg(*words, "--resume", "--overwrite")
    assert done.code == 2
    assert "take one" in done.err


def test_weights_of_a_recipe_that_are_not_here(emseg, tiny_weights, em_file) -> None:
    words = ("batch", em_file, "--out", "o", *RUN)
    made = emseg(*words, "--weights", tiny_weights, *MEMBRANES, "r.json", "--dry-run")
    assert made.code == 0
    said = json.loads(Path("r.json").read_text())
    said["weights"]["sha256"] = "0" * 64
    Path("r.json").write_text(json.dumps(said))
    done = emseg(*words, "--recipe", "r.json")
    assert done.code == 2
    words_of_both = "put the file beside the recipe; or name another with --weights"
    assert words_of_both in done.err
    assert emseg(*words, "--export", "mrc,mrc").err.startswith(
        "error: --export must be each format once, got mrc twice"
    )


def test_what_is_wrong_with_a_recipe_is_one_line(emseg, em_file) -> None:
    Path("r.json").write_text('{"kind": "emseg batch recipe", "version": 1, "x": 2}')
    done = emseg("batch", em_file, "--out", "o", "--recipe", "r.json")
    assert done.code == 2
    assert done.err.startswith("error: r.json: x: Extra inputs are not permitted")
    assert emseg("batch", em_file, "--out", "o", "--recipe", "none.json").code != 0
    assert not Path("o").exists()


def test_a_project_of_a_recipe_that_is_not_there_is_named(emseg) -> None:
    said = '{"kind": "emseg batch recipe", "version": 1, "project": "mine.emseg"}'
    Path("r.json").write_text(said)
    done = emseg("batch", "--out", "o", "--recipe", "r.json")
    assert done.code == 2
    assert "r.json names the project mine.emseg, which isn't there" in done.err


def test_a_recipe_for_a_folder_that_is_not_there_is_refused(emseg, em_file) -> None:
    done = emseg("batch", em_file, "--out", "o", "--save-recipe", "none/r.json")
    assert done.code != 0
    assert "the folder none of the recipe does not exist" in done.err
    assert ".part" not in done.err
    assert not Path("o").exists()


def test_without_inputs_and_project_an_input_is_asked_for(emseg) -> None:
    Path("r.json").write_text('{"kind": "emseg batch recipe", "version": 1}')
    done = emseg("batch", "--out", "o", "--recipe", "r.json")
    assert done.code == 2
    assert "a batch needs one input at least" in done.err
