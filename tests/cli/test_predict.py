from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from napari_emseg import inference
from napari_emseg.api import predict
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.sinks import CountingSink
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, read_provenance, save_stack


def test_writes_what_the_python_call_returns(emseg, em_file, tiny_weights):
    done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)

    assert done.code == 0
    assert done.out.startswith("out.tif: 4 sections of 96 × 112 px, tiny on ")
    written = open_stack("out.tif")
    assert written.dtype == np.float32
    assert written.voxel_size_nm == (50, 4, 4)
    expected = predict(open_stack(em_file), tiny_weights)
    np.testing.assert_array_equal(written.data[:], expected)


def test_sections_and_region_go_into_output_and_provenance(
    emseg, em_file, tiny_weights
):
    options = ("--sections", "1:3", "--roi", "10:60,:50")
    done = emseg("predict", em_file, "out.zarr", "--weights", tiny_weights, *options)

    assert done.code == 0
    expected = predict(
        open_stack(em_file),
        tiny_weights,
        sections=[1, 2],
        roi=(slice(10, 60), slice(0, 50)),
    )
    np.testing.assert_array_equal(open_stack("out.zarr").data[:], expected)
    found = read_provenance("out.zarr")
    assert (found.kind, found.weights, found.threshold) == ("membrane", "tiny", 0.4)
    assert found.settings["sections"] == "1:3"
    assert found.settings["roi"] == "10:60,0:50"


@pytest.mark.parametrize(
    "command",
    [
        ("predict",),
        ("segment", "--input-is", "em", "--link"),
        ("segment", "--input-is", "em", "--through", "graph"),
    ],
)
def test_a_precision_that_changes_on_the_way_is_told(
    emseg, em_file, tiny_weights, monkeypatch, command
):
    run = inference.predict_stack

    def steps_down(*args, **options):
        done = yield from run(*args, **options)
        said = done.provenance.settings | {"precision": "int8, then float32"}
        made = done.provenance.model_copy(update={"settings": said})
        return replace(done, provenance=made)

    monkeypatch.setattr(inference, "predict_stack", steps_down)
    name, *options = command
    done = emseg(name, em_file, "out.tif", "--weights", tiny_weights, *options)
    assert done.code == 0
    said = read_provenance("out.tif").settings
    assert said.get("predict", said)["precision"] == "int8, then float32"
    assert said.get("predict", said)["tta"] is False


def test_one_number_is_one_section(emseg, em_file, tiny_weights):
    emseg("predict", em_file, "out.tif", "--weights", tiny_weights, "--sections", "2")
    assert open_stack("out.tif").shape == (1, 96, 112)


def test_json_is_one_object_on_stdout_and_progress_on_stderr(
    emseg, em_file, tiny_weights
):
    done = emseg("predict", em_file, "o.tif", "--weights", tiny_weights, "--json")

    record = json.loads(done.out)
    assert record["output"] == "o.tif"
    assert record["shape"] == [4, 96, 112]
    assert record["sections"] == [0, 1, 2, 3]
    assert record["weights"] == "tiny"
    assert "sections: 4 of 4" in done.err


def test_says_that_it_rescales_to_the_weights_voxel_size(emseg, em_file, tiny_weights):
    done = emseg(
        "predict",
        em_file,
        "out.tif",
        "--weights",
        tiny_weights,
        "--voxel-size",
        "50,4.6,4.6",
    )
    assert "rescaled 4.6 → 4 nm/px" in done.err
    assert open_stack("out.tif").voxel_size_nm == pytest.approx((50, 4.6, 4.6))


def test_tile_auto_and_other_choices_are_accepted(emseg, em_file, tiny_weights):
    words = ("predict", em_file, "a.tif", "--weights", tiny_weights)
    assert emseg(*words, "--tile", "auto", "--batch", "auto").code == 0
    tiled = (*words[:2], "b.tif", *words[3:], "--tile", "64", "--device", "cpu")
    assert emseg(*tiled).code == 0
    np.testing.assert_allclose(
        open_stack("a.tif").data[:], open_stack("b.tif").data[:], atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "isbi2099"], "no weights named 'isbi2099'; bundled are:"),
        (["--weights", "gone.safetensors"], "no weights file at gone.safetensors"),
        (["--tile", "5"], "--tile must be greater than or equal to 32, got 5"),
        (["--device", "tpu"], "--device must be 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--tilt", "5"], "Unknown option: --tilt"),
        (["--sections", "2:9"], "em has sections 0:4; 2:9 is not among them"),
        (["--sections", "x"], "sections must be whole numbers A:B, got 'x'"),
        (["--roi", "5:9"], "--roi must be y0:y1,x0:x1 in px, got '5:9'"),
        (["--roi", "0:200,:"], "--roi must lie in 0:96,0:112 px; 0:200 doesn't"),
        (["--voxel-size", "4,4"], "must be three numbers above 0"),
        (["--voxel-size", "a,4,4"], "--voxel-size must be Z,Y,X in nm"),
        (["--dataset", "raw"], "has no dataset"),
        (["--channel", "red"], "must be a number from 0, or z"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    emseg, em_file, tiny_weights, options, said
):
    chosen = [] if "--weights" in options else ["--weights", tiny_weights]
    done = emseg("predict", em_file, "out.tif", *chosen, *options)

    assert done.code == 2
    assert said in done.err
    assert "see: emseg predict --help" in done.err
    assert done.out == ""
    assert not list(Path().glob("out*"))


def test_missing_input_is_refused(emseg, tiny_weights):
    done = emseg("predict", "gone.tif", "out.tif", "--weights", tiny_weights)
    assert (done.code, done.out) == (2, "")
    assert "no such file or folder: gone.tif" in done.err


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("nowhere/out.tif", "does not exist"),
        ("out.xyz", "can't tell the format of out.xyz by its name"),
        ("em.tif", "is the input"),
    ],
)
def test_outputs_that_cannot_be_are_refused(emseg, em_file, tiny_weights, output, said):
    words = ("predict", em_file, output, "--weights", tiny_weights, "--overwrite")
    before = em_file.read_bytes()
    done = emseg(*words)
    assert done.code == 2
    assert said in done.err
    assert em_file.read_bytes() == before


def test_an_existing_output_is_only_replaced_when_asked(emseg, em_file, tiny_weights):
    words = ("predict", em_file, "out.tif", "--weights", tiny_weights)
    Path("out.tif").write_bytes(b"precious")

    refused = emseg(*words)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert Path("out.tif").read_bytes() == b"precious"

    assert emseg(*words, "--overwrite").code == 0
    assert open_stack("out.tif").shape == (4, 96, 112)


def test_a_folder_that_is_not_writable_is_refused(
    emseg, em_file, tiny_weights, monkeypatch
):
    # permissions don't bind root, so the system's answer is given here
    monkeypatch.setattr("napari_emseg.io.output.os.access", lambda *_: False)
    done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)
    assert done.code == 2
    assert "can't be written to" in done.err


def test_too_little_space_is_seen_at_once(emseg, em_file, tiny_weights, monkeypatch):
    class Full:
        free = 1000

    monkeypatch.setattr("napari_emseg.io.output.shutil.disk_usage", lambda _: Full)
    done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)
    assert done.code == 1
    assert "not enough space" in done.err
    assert not list(Path().glob("out*"))


def failing_after(n: int, error: BaseException):
    """Return a `write` that stores n sections and then raises."""
    write = CountingSink.write

    def wrapped(self, z, section):
        if self.written == n:
            raise error
        write(self, z, section)

    return wrapped


def test_a_disk_that_fills_up_keeps_what_is_finished(
    emseg, em_file, tiny_weights, monkeypatch
):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(CountingSink, "write", failing_after(2, full))
    done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)

    assert done.code == 1
    assert "2 of 4 sections were finished; they are kept in out.tif." in done.err
    assert "error: No space left on device" in done.err
    assert not Path("out.tif").exists()
    kept = open_stack(next(Path().glob("out.tif.*.part")))
    expected = predict(open_stack(em_file), tiny_weights)
    np.testing.assert_array_equal(kept.data[:2], expected[:2])


@pytest.mark.parametrize("runtime", ["torch", "openvino", "auto"])
def test_a_network_that_gives_nan_has_failed(emseg, em_file, tiny_weights, runtime):
    """The call was right: exit code 1, and whatever runs it says so alike."""
    if runtime == "openvino" and find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    parts = load_file(tiny_weights)
    for name in (name for name in parts if name.endswith("running_var")):
        parts[name][:] = -1.0
    with safe_open(tiny_weights, "np") as file:
        save_file(parts, "nan.safetensors", file.metadata())
    words = ("--weights", "nan.safetensors", "--runtime", runtime, "--device", "cpu")
    done = emseg("predict", em_file, "out.tif", *words)
    assert done.code == 1
    assert "error: the network's result is NaN" in done.err
    assert "--help" not in done.err
    assert not Path("out.tif").exists()


def test_a_damaged_input_fails(emseg, em_file, tiny_weights):
    Path("cut.tif").write_bytes(em_file.read_bytes()[:500])
    done = emseg("predict", "cut.tif", "out.tif", "--weights", tiny_weights)
    assert done.code == 1
    assert "cut.tif" in done.err
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("command", ["predict", "segment"])
def test_a_section_that_cannot_be_read_makes_the_result_incomplete(
    emseg, em_file, tiny_weights, command
):
    folder = Path("sections")
    folder.mkdir()
    for z, section in enumerate(open_stack(em_file).data[:]):
        tifffile.imwrite(folder / f"{z}.tif", section, photometric="minisblack")
    whole = (folder / "2.tif").read_bytes()
    (folder / "2.tif").write_bytes(whole[:-500])
    options = ["--weights", tiny_weights]
    options += ["--input-is", "em"] if command == "segment" else []
    done = emseg(command, folder, "out.tif", *options)
    assert done.code == 1
    assert "; incomplete: section 2 can't be read" in done.out
    assert not open_stack("out.tif").section(2).any()

    done = emseg(command, folder, "out.tif", *options, "--overwrite", "--json")
    assert done.code == 1
    record = json.loads(done.out)
    assert record["state"] == "incomplete"
    assert list(record["damaged"]) == ["2"]

    if command == "segment":  # one that nobody asked for is no loss
        done = emseg(command, folder, "b.tif", *options, "--exclude", "2")
        assert done.code == 0
        assert "incomplete" not in done.out


@pytest.mark.parametrize("command", ["predict", "segment", "batch"])
def test_many_sections_that_cannot_be_read_are_told_of_in_one_line(
    emseg, tiny_weights, command
):
    folder = Path("sections")
    folder.mkdir()
    section = np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8)
    for z in range(12):
        tifffile.imwrite(folder / f"{z:02}.tif", section, photometric="minisblack")
        if z > 1:
            whole = (folder / f"{z:02}.tif").read_bytes()
            (folder / f"{z:02}.tif").write_bytes(whole[:-500])
    options = ["--weights", tiny_weights]
    options += ["--input-is", "em"] if command == "segment" else []
    out = ["--out", "o"] if command == "batch" else ["out.tif"]
    done = emseg(command, folder, *out, *options)
    assert done.code == 1
    told = [line for line in done.err.splitlines() if "left out" in line]
    (line,) = [
        line for line in told if "sections 2…11 are left out (10 in all)" in line
    ]
    assert "such as 2: " in line
    assert len(told) <= 4  # and the first three as they came
    if command == "batch":
        summary = json.loads(Path("o/summary.json").read_text())
        (row,) = summary["inputs"]
        lost = [w for w in row["warnings"] if "left out" in w]
        assert lost == [line.removeprefix("sections: ")]


def test_probabilities_that_cannot_be_read_make_cells_incomplete(
    emseg, em_file, tiny_weights
):
    emseg("predict", em_file, "p.tif", "--weights", tiny_weights)
    folder = Path("sections")
    folder.mkdir()
    for z, section in enumerate(open_stack("p.tif").data[:]):
        tifffile.imwrite(folder / f"{z}.tif", section, photometric="minisblack")
    (folder / "1.tif").write_bytes((folder / "1.tif").read_bytes()[:-500])
    done = emseg("segment", folder, "c.tif", "--input-is", "probabilities")
    assert done.code == 1
    assert "; incomplete: section 1 can't be read" in done.out
    assert open_stack("c.tif").section(2).any()


def test_a_damaged_weights_file_fails(emseg, em_file):
    Path("w.safetensors").write_bytes(b"nonsense" * 20)
    done = emseg("predict", em_file, "out.tif", "--weights", "w.safetensors")
    assert done.code == 1
    assert "w.safetensors" in done.err


def test_a_file_with_several_arrays_asks_for_the_option(emseg, tiny_weights, tmp_path):
    import h5py

    with h5py.File("two.h5", "w") as file:
        file["raw"] = np.zeros((2, 40, 40), np.uint8)
        file["other"] = np.ones((2, 40, 40), np.uint8)
    words = ("predict", "two.h5", "out.tif", "--weights", tiny_weights)
    done = emseg(*words)
    assert done.code == 2
    assert "--dataset" in done.err
    assert "raw" in done.err
    assert emseg(*words, "--dataset", "raw").code == 0


@pytest.mark.parametrize("name", ["in/out.tif", "in.zarr/out.tif", "in.zarr/sub.zarr"])
def test_an_output_within_the_input_is_refused_before_the_run(
    emseg, drawn_stack, tiny_weights, tmp_path, name
):
    given = tmp_path / Path(name).parts[0]
    if given.suffix == ".zarr":
        save_stack(given, drawn_stack[0])
    else:
        given.mkdir()
        for z in range(4):
            section = drawn_stack[0].section(z)[np.newaxis]
            save_stack(given / f"s{z}.tif", section)
    before = sorted(tmp_path.rglob("*"))
    done = emseg("predict", given, name, "--weights", tiny_weights)
    assert done.code == 2
    assert f"{name} lies in the input" in done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["membrane", "inside", "cells", "class vesicle"])
def test_the_network_is_not_run_on_results(
    emseg, drawn_stack, em_file, tiny_weights, kind
):
    made = Provenance(kind=kind)
    ids = drawn_stack[1].astype(np.uint32 if kind == "cells" else np.float32)
    values = ids if kind == "cells" else ids / max(1, ids.max())
    save_stack("result.tif", values, provenance=made)
    done = emseg("predict", "result.tif", "again.tif", "--weights", tiny_weights)
    assert done.code == 2
    assert "result holds" in done.err
    assert kind in done.err
    assert not Path("again.tif").exists()
    options = ("--out", "out", "--weights", tiny_weights, "--json")
    done = emseg("batch", "result.tif", em_file, *options)
    states = {row["name"]: row["state"] for row in json.loads(done.out)["inputs"]}
    assert states == {"result": "failed", "em": "done"}


class TestThreeViews:
    SEEN = ("--views", "3", "--voxel-size", "5,4,4")

    def test_are_those_of_the_python_call(self, emseg, em_file, tiny_weights):
        words = ("predict", em_file, "out.tif", "--weights", tiny_weights, *self.SEEN)
        done = emseg(*words, "--json")
        assert done.code == 0
        assert json.loads(done.out)["views"] == 3
        expected = predict(
            open_stack(em_file).with_voxel_size((5, 4, 4)),
            tiny_weights,
            settings=PredictSettings(views=3),
        )
        np.testing.assert_array_equal(open_stack("out.tif").data[:], expected)
        assert read_provenance("out.tif").settings["views"] == 3
        assert "(three views)" in emseg(*words, "--overwrite").out

    def test_of_voxels_that_are_no_cubes_leave_nothing(
        self, emseg, em_file, tiny_weights
    ):
        words = ("--weights", tiny_weights, "--views", "3")
        done = emseg("predict", em_file, "out.tif", *words)
        assert done.code != 0
        assert "these are 50 × 4 × 4 nm (z, y, x); take one view" in done.err
        assert [path.name for path in Path().iterdir()] == ["em.tif"]

    @pytest.mark.parametrize("through", ["sections", "3-d"])
    def test_of_excluded_sections_stay_unseen(
        self, emseg, em_file, tiny_weights, through
    ):
        """Whatever such a section shows, cells of the others are the same."""
        grey = np.array(open_stack(em_file).data)
        found = []
        for name, shown in (("a", grey[1]), ("b", 255 - grey[1])):
            grey[2] = shown
            save_stack(f"{name}.tif", Stack(grey), voxel_size_nm=(5, 4, 4))
            options = ("--views", "3", "--exclude", "2", "--through", through)
            options += ("--weights", tiny_weights, "--input-is", "em")
            to = f"{name}-cells.tif"
            done = emseg("segment", f"{name}.tif", to, *options)
            assert done.code == 0, done.err
            found.append(open_stack(to).data[:])
        np.testing.assert_array_equal(*found)
        assert not found[0][2].any()
