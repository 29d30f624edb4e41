from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.api import predict, segment
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.segmentation.edge_classifier import default_classifier, read_edges


@pytest.fixture
def probabilities(drawn_stack) -> np.ndarray:
    """Membrane where the drawing has no cell, and not quite certain."""
    return np.where(drawn_stack[1] == 0, np.float32(0.9), np.float32(0.2))


@pytest.fixture
def ours(probabilities, tmp_path) -> Path:
    """Write probabilities as `emseg predict` does."""
    made = Provenance(kind="membrane", weights="w", threshold=0.45)
    stack = Stack(probabilities, voxel_size_nm=(50, 4, 4))
    return save_stack(tmp_path / "p.tif", stack, provenance=made)


def test_probabilities_of_ours_need_no_word_and_bring_their_threshold(
    emseg, ours, probabilities
):
    done = emseg("segment", ours, "cells.tif")

    assert done.code == 0
    written = open_stack("cells.tif")
    expected = segment(probabilities, threshold=0.45)
    np.testing.assert_array_equal(written.data[:], expected)
    assert written.voxel_size_nm == (50, 4, 4)
    made = read_provenance("cells.tif")
    assert (made.kind, made.threshold, made.weights) == ("cells", 0.45, "w")
    n = len(np.unique(expected)) - 1
    assert n > 4
    assert f"{n} cells in 4 sections" in done.out


def test_the_threshold_that_is_given_wins(emseg, ours, probabilities):
    done = emseg("segment", ours, "c.tif", "--threshold", "0.1", "--json")
    assert json.loads(done.out)["threshold"] == 0.1
    assert json.loads(done.out)["cells"] == 0
    assert read_provenance("c.tif").settings["cells"]["threshold"] == 0.1


def test_from_em_equals_predicting_and_then_segmenting(emseg, em_file, tiny_weights):
    options = ("--sections", "1:4", "--roi", "8:90,4:100", "--minimum-size", "10")
    threshold = ("--threshold", "0.63")
    done = emseg(
        *("segment", em_file, "cells.tif", "--input-is", "em"),
        *("--weights", tiny_weights, *options, *threshold),
    )

    assert done.code == 0
    region = (slice(8, 90), slice(4, 100))
    membrane = predict(
        open_stack(em_file), tiny_weights, sections=range(1, 4), roi=region
    )
    settings = CellSettings(threshold=0.63, minimum_size=10)
    expected = segment(membrane, settings=settings)
    assert expected.max() > 0
    np.testing.assert_array_equal(open_stack("cells.tif").data[:], expected)
    assert read_provenance("cells.tif").settings["sections"] == "1:4"


def test_a_region_of_probabilities(emseg, ours, probabilities):
    emseg("segment", ours, "c.tif", "--sections", "1:3", "--roi", "10:70,20:100")
    expected = segment(probabilities[1:3, 10:70, 20:100], threshold=0.45)
    np.testing.assert_array_equal(open_stack("c.tif").data[:], expected)


def test_an_input_that_does_not_say_what_it_is_asks(emseg, em_file):
    done = emseg("segment", em_file, "cells.tif")
    assert done.code == 2
    assert "--input-is em or probabilities" in done.err
    assert not Path("cells.tif").exists()


def test_cells_are_not_segmented_again_unless_said(emseg, ours):
    emseg("segment", ours, "cells.tif")
    done = emseg("segment", "cells.tif", "again.tif")
    assert done.code == 2
    assert "holds cells" in done.err


def test_numbers_that_are_no_probabilities_are_refused(emseg):
    save_stack("grey.tif", np.full((2, 40, 40), 300.0, np.float32))
    done = emseg("segment", "grey.tif", "cells.tif", "--input-is", "probabilities")
    assert done.code == 2
    assert "is this a grey picture?" in done.err
    assert not list(Path().glob("cells*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "0"], "--threshold must be greater than 0, got 0"),
        (["--minimum-size", "-1"], "--minimum-size must be"),
        (["--input-is", "cells"], "cells"),
        (["--roi", "9:3,:"], "--roi must lie in"),
    ],
)
def test_wrong_options_are_refused(emseg, ours, options, said):
    done = emseg("segment", ours, "cells.tif", *options)
    assert done.code == 2
    assert said in done.err


def test_links_give_a_cell_one_id_in_all_sections(emseg, ours, probabilities):
    done = emseg("segment", ours, "c.tif", "--link", "--method", "multicut", "--json")
    record = json.loads(done.out)
    settings = CellSettings(threshold=0.45, method="multicut", link=True)
    expected = segment(probabilities, settings=settings)
    np.testing.assert_array_equal(open_stack("c.tif").data[:], expected)
    np.testing.assert_array_equal(
        segment(probabilities, threshold=0.45, link=True),
        segment(
            probabilities,
            settings=settings.model_copy(update={"method": "agglomeration"}),
        ),
    )
    assert (record["method"], record["linked"]) == ("multicut", True)
    assert record["cells"] == expected.max()
    in_two = set(np.unique(expected[0])) & set(np.unique(expected[3]))
    assert len(in_two - {0}) > 2
    made = read_provenance("c.tif").settings["cells"]
    assert (made["method"], made["link"]) == ("multicut", True)


def test_no_link_wins_and_is_the_default(emseg, ours, probabilities):
    emseg("segment", ours, "a.tif", "--no-link")
    emseg("segment", ours, "b.tif")
    apart = open_stack("a.tif").data[:]
    np.testing.assert_array_equal(apart, open_stack("b.tif").data[:])
    assert len(set(np.unique(apart[0])) & set(np.unique(apart[1]))) == 1


def test_links_straight_from_em(emseg, em_file, tiny_weights):
    options = ("--threshold", "0.63", "--minimum-size", "10", "--join", "0.55")
    done = emseg(
        *("segment", em_file, "cells.tif", "--input-is", "em", "--link"),
        *("--weights", tiny_weights, "--exclude", "1", *options),
    )
    assert done.code == 0
    membrane = predict(open_stack(em_file), tiny_weights)
    settings = CellSettings(threshold=0.63, minimum_size=10, join=0.55, link=True)
    expected = segment(membrane, settings=settings, excluded=[1])
    assert expected[0].max() > 0
    assert not expected[1].any()
    np.testing.assert_array_equal(open_stack("cells.tif").data[:], expected)
    assert read_provenance("cells.tif").settings["excluded"] == [1]


def test_an_excluded_section_that_is_not_there(emseg, ours):
    done = emseg("segment", ours, "c.tif", "--exclude", "9")
    assert done.code == 2
    assert "--exclude 9" in done.err
    assert emseg("segment", ours, "c.tif", "--exclude", "x").code == 2


@pytest.mark.parametrize("table", ["p.csv", "./c.csv", "tiny.csv", "link.csv"])
def test_a_table_replaces_neither_input_nor_weights_nor_cells(
    emseg, ours, tiny_weights, tmp_path, table
):
    """Under a name that a table may have, so that only the rule stands against it."""
    given = {"p.csv": ours, "tiny.csv": tiny_weights}
    for name, path in given.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "link.csv").symlink_to("p.csv")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    words = ("segment", "p.csv", "c.csv", "--format", "tiff", "--weights", "tiny.csv")
    done = emseg(*words, "--table", table, "--overwrite")
    assert done.code == 2
    assert str(Path(table)) in done.err
    assert {path: path.read_bytes() for path in tmp_path.glob("*.csv")} == before


@pytest.mark.parametrize("table", ["p.tif", "c.zarr", "t.xlsx", "table"])
def test_a_table_is_a_csv(emseg, ours, table):
    before = ours.read_bytes()
    done = emseg("segment", ours, "c.zarr", "--table", table, "--overwrite")
    assert done.code == 2
    assert f"the table must end in .csv, got {table}" in done.err
    assert ours.read_bytes() == before
    assert not Path("c.zarr").exists()


def test_a_table_that_exists_is_refused_before_the_run(emseg, ours):
    Path("t.csv").write_text("mine")
    done = emseg("segment", ours, "c.tif", "--table", "t.csv")
    assert done.code == 2
    assert "t.csv exists already; overwrite it with --overwrite" in done.err
    assert Path("t.csv").read_text() == "mine"
    assert not Path("c.tif").exists()
    done = emseg("segment", ours, "c.tif", "--table", "t.csv", "--overwrite")
    assert done.code == 0
    assert Path("t.csv").read_text().startswith("cell,")


def test_through_the_stack_from_em_and_from_probabilities(emseg, em_file, tiny_weights):
    cells = ("--through", "3-d", "--minimum-size", "10", "--threshold", "0.63")
    scope = ("--sections", "1:4", "--roi", "8:90,4:100", "--exclude", "2")
    done = emseg(
        *("segment", em_file, "cells.tif", "--input-is", "em", "--json"),
        *("--weights", tiny_weights, *scope, *cells),
    )
    assert json.loads(done.out)["linked"] is True
    emseg("predict", em_file, "p.tif", "--weights", tiny_weights, *scope[:4])
    again = emseg("segment", "p.tif", "again.tif", "--exclude", "1", *cells)
    assert again.code == 0
    found = open_stack("cells.tif").data[:]
    np.testing.assert_array_equal(found, open_stack("again.tif").data[:])
    assert found[0].any()
    assert not found[1].any()
    made = read_provenance("cells.tif").settings
    assert (made["cells"]["through"], made["cells"]["link"]) == ("3-d", True)
    assert made["excluded"] == [2]
    assert read_provenance("again.tif").settings["excluded"] == [1]


def test_auto_goes_by_the_voxel_size_that_is_given(emseg, probabilities, tmp_path):
    made = Provenance(kind="membrane", threshold=0.45)
    save_stack(tmp_path / "p.tif", Stack(probabilities), provenance=made)
    for size, through in (("40,4,4", "graph"), ("5,4,4", "3-d")):
        options = ("--through", "auto", "--voxel-size", size, "--json", "--overwrite")
        done = emseg("segment", "p.tif", "c.tif", *options)
        assert json.loads(done.out)["linked"] is True
        made = read_provenance("c.tif").settings["cells"]
        assert made["through"] == through
        expected = segment(
            probabilities,
            threshold=0.45,
            through="auto",
            voxel_size_nm=tuple(map(float, size.split(","))),
        )
        np.testing.assert_array_equal(open_stack("c.tif").data[:], expected)


def test_affinities_of_the_weights_are_used_through_the_stack(
    emseg, em_file, tmp_path
) -> None:
    names = ("affinity z1", "affinity y1", "affinity x1")
    weights = thin_weights(tmp_path, "sure", further=names)
    options = ("--input-is", "em", "--weights", weights.path, "--through", "auto")
    size = ("--voxel-size", "5,4,4")
    done = emseg(
        "segment", em_file, "c.tif", *options, *size, "--json", "--exclude", "1"
    )
    told = json.loads(done.out)
    assert told["through"] == "3-d"
    stack = open_stack(em_file).with_voxel_size((5.0, 4.0, 4.0))
    p, *said = predict(stack, weights, classes=("membrane", *names))
    expected = segment(
        p,
        threshold=weights.card.threshold,
        through="3-d",
        excluded=[1],
        affinities=dict(zip(names, said, strict=True)),
    )
    np.testing.assert_array_equal(open_stack("c.tif").data[:], expected)
    assert read_provenance("c.tif").settings["affinities"] == list(names)
    # section by section they aren't asked for
    emseg("segment", em_file, "d.tif", *options[:4])
    assert "affinities" not in read_provenance("d.tif").settings
    # they say how sections go on, so one graph needs no voxel size
    save_stack(tmp_path / "bare.tif", Stack(open_stack(em_file).data[:]))
    done = emseg("segment", "bare.tif", "e.tif", *options)
    assert "found by one graph of all sections" in done.err


def test_a_table_of_a_part_has_places_in_the_whole_stack(
    emseg, em_file, tmp_path
) -> None:
    weights = thin_weights(tmp_path, "sure").path
    words = ("segment", em_file, "c.tif", "--weights", weights)
    for more in ((), ("--through", "3-d")):
        part = ("--sections", "2:4", "--roi", "30:80,40:90")
        options = (*part, "--table", "t.csv", "--overwrite", *more)
        assert emseg(*words, "--input-is", "em", *options).code == 0
        rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
        for name in ("first_section", "last_section", "z"):
            assert {row[name] for row in rows} <= {"2", "3"}
        assert min(int(row["first_section"]) for row in rows) == 2
        cells = open_stack("c.tif").data[:]
        for row in rows:
            z, y, x = (
                int(row[name]) - o for name, o in zip("zyx", (2, 30, 40), strict=True)
            )
            assert cells[z, y, x] == int(row["cell"])


def test_auto_says_that_the_voxel_size_is_missed(emseg, probabilities, tmp_path):
    save_stack(tmp_path / "p.tif", Stack(probabilities))
    options = ("--input-is", "probabilities", "--threshold", "0.45")
    done = emseg("segment", "p.tif", "c.tif", *options, "--through", "auto")
    assert done.code == 0
    assert "the voxel size is unknown, so cells are found section by" in done.err
    assert "voxel size" not in emseg("segment", "p.tif", "d.tif", *options).err


def test_a_classifier_of_edges_is_gone_by(emseg, probabilities, tmp_path):
    made = Provenance(kind="membrane", weights="w", threshold=0.45)
    save_stack(tmp_path / "p.tif", Stack(probabilities), provenance=made)
    kind = {"scale": [1.0] * 22, "networks": [[[[[0.0]] * 22, [-9.0]]]]}
    apart = {
        "within": kind | {"mean": [0.0] * 22},
        "between": {
            "mean": [0.0] * 39,
            "scale": [1.0] * 39,
            "networks": [[[[[0.0]] * 39, [-9.0]]]],
        },
    }
    Path("edges.json").write_text(json.dumps(apart))
    words = ("segment", "p.tif", "c.tif", "--through", "graph", "--minimum-size", "0")
    done = emseg(*words, "--edges", "edges.json", "--json")
    classifier = read_edges(Path("edges.json"))
    assert read_provenance("c.tif").settings["edges"] == classifier.name
    told = json.loads(done.out)
    assert (told["edges"], told["edges_sha256"]) == (classifier.name, classifier.sha256)
    assert (told["weights"], told["through"]) == ("w", "graph")
    usual = json.loads(emseg(*words[:2], "u.tif", *words[3:], "--json").out)
    default = default_classifier()
    assert usual["edges_sha256"] == (default and default.sha256)
    usual_name = default and default.name
    said = read_provenance("u.tif").settings
    assert (said.get("edges"), said.get("edges_sha256")) == (
        usual_name,
        usual["edges_sha256"],
    )
    # by it nothing goes on in the next section
    first, second = open_stack("c.tif").data[:2]
    assert not np.intersect1d(first[first > 0], second[second > 0]).size
    done = emseg(*words, "--edges", "p.tif", "--overwrite")
    assert done.code == 2
    assert "p.tif holds no classifier of edges" in done.err
    # a batch goes by it, too, and its recipe knows it
    words = ("batch", "p.tif", "--steps", "cells", "--threshold", "0.45", *words[3:])
    (row,) = json.loads(emseg(*words, "--out", "usual", "--json").out)["inputs"]
    assert (row["edges"], row["edges_sha256"]) == (usual_name, usual["edges_sha256"])
    recipe = ("--save-recipe", "mine.json")
    assert emseg(*words, "--out", "o", "--edges", "edges.json", *recipe).code == 0
    expected = open_stack("c.tif").data[:]
    np.testing.assert_array_equal(open_stack("o/p-cells.zarr").data[:], expected)
    again = ("batch", "p.tif", "--recipe", "mine.json", "--out", "again")
    (row,) = json.loads(emseg(*again, "--json").out)["inputs"]
    assert (row["edges"], row["through"]) == (classifier.name, "graph")
    assert row["edges_sha256"] == classifier.sha256
    assert (row["weights"], row["threshold"]) == ("w", 0.45)
    np.testing.assert_array_equal(open_stack("again/p-cells.zarr").data[:], expected)
    said = read_provenance("again/p-cells.zarr").settings
    assert (said["edges"], said["edges_sha256"]) == (classifier.name, classifier.sha256)
    Path("edges.json").write_text("{}")
    done = emseg(*again, "--overwrite")
    assert done.code == 2
    assert "mine.json asks for the classifier of edges edges" in done.err
