from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_emseg.cli import doctor


def test_json_is_one_object_and_existing_files_are_replaced_when_asked(
    emseg, tiny_weights
):
    Path("out").mkdir()
    Path("out/cells.tif").write_bytes(b"precious")
    words = ("demo", "--out", "out", "--weights", tiny_weights, "--json")
    refused = emseg(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "out/cells.tif exists already; overwrite it with --overwrite" in refused.err
    assert [path.name for path in Path("out").iterdir()] == ["cells.tif"]

    record = json.loads(emseg(*words, "--overwrite").out)
    assert record["run"]["weights"] == "tiny"
    assert set(record["scores"]) > {"v_rand", "v_info", "v_rand_threshold"}
    assert json.loads(Path("out/scores.json").read_text()) == record
    assert Path("out/cells.tif").stat().st_size > 6 * 512 * 512 * 4


def test_a_file_in_place_of_the_folder_is_refused(emseg, tiny_weights):
    Path("out").write_text("here")
    done = emseg("demo", "--out", "out", "--weights", tiny_weights)
    assert done.code == 2
    assert "out is a file; --out needs a folder" in done.err


@pytest.mark.parametrize(
    ("qt", "said"),
    [(None, 'pip install "napari-emseg[all]"'), (True, "no screen here")],
)
def test_a_window_that_cannot_open_is_refused_before_the_work(
    emseg, monkeypatch, qt, said
):
    monkeypatch.setattr(doctor, "find_spec", lambda _: qt)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = emseg("demo", "--gui")
    assert done.code == 2
    assert said in done.err
    assert not list(Path().iterdir())
