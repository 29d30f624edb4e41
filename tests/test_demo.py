"""The main job end to end as a newcomer meets it, and every example that is printed."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from thin import thin_weights

from napari_emseg.cli import main
from napari_emseg.cli.app import COMMANDS, build_app
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.metrics import v_rand_v_info
from napari_emseg.sample import fib25, fib25_cells, vnc, vnc_membranes

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("networks_are_loaded_once")


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


def emseg(*words: str) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    return Run(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder to work in, for all tests of this file."""
    path = tmp_path_factory.mktemp("newcomer")
    with chdir(path):
        yield path


@pytest.fixture(scope="module")
def demo(folder: Path) -> Run:
    return emseg("demo")


def test_the_demo_does_the_main_job(demo, folder):
    assert demo.code == 0, demo.err
    names = {path.name for path in (folder / "demo-output").iterdir()}
    assert names == {
        *("em.tif", "truth.tif", "membranes.tif", "cells.tif"),
        *("neurites.tif", "picture.png", "scores.json", "LICENCE.md"),
    }
    assert "rescaled 4.6 → 4 nm/px" in demo.err
    assert "CC BY-NC-SA 3.0" in demo.out


def test_its_membranes_are_good(demo):
    membrane = open_stack("demo-output/membranes.tif").data[:]
    truth = vnc_membranes().data[:] == 0
    found = v_rand_v_info(1 - membrane, np.asarray(truth))

    assert found.v_rand > 0.98
    assert found.v_info > 0.98
    scores = json.loads(Path("demo-output/scores.json").read_text())["scores"]
    assert scores["v_rand"] == pytest.approx(found.v_rand, abs=1e-6)
    assert f"{found.v_rand:.4f}" in demo.out
    assert f"{found.v_info:.4f}" in demo.out


def test_its_cells_are_about_as_many_as_there_are(demo):
    cells = open_stack("demo-output/cells.tif").data[:]
    assert (cells.shape, cells.dtype) == ((6, 512, 512), np.uint32)
    n = len(np.unique(cells)) - 1
    assert f"{n} cells in 6 sections" in demo.out
    assert 250 < n < 450  # the hand-drawn membranes make 330 cells of 100 px and more


def test_its_neurites_go_through_the_sections(demo):
    neurites = open_stack("demo-output/neurites.tif").data[:]
    assert (neurites.shape, neurites.dtype) == ((6, 512, 512), np.uint32)
    ids = [set(np.unique(section)) - {0} for section in np.asarray(neurites)]
    assert all(len(a & b) > len(a) / 2 for a, b in pairwise(ids))


def test_its_files_know_what_they_are(demo):
    assert read_provenance("demo-output/membranes.tif").kind == "membrane"
    assert read_provenance("demo-output/cells.tif").kind == "cells"
    for name in ("em", "truth", "membranes", "cells"):
        stack = open_stack(f"demo-output/{name}.tif")
        assert stack.voxel_size_nm == pytest.approx((50, 4.6, 4.6))
    em = open_stack("demo-output/em.tif").data[:]
    np.testing.assert_array_equal(em, np.asarray(vnc().data[:]))


def test_its_picture_shows_three_panels(demo):
    picture = Image.open("demo-output/picture.png")
    assert picture.size == (3 * 512 + 12, 512 + 52)
    assert len(picture.getcolors(1 << 20)) > 1000


def test_a_second_demo_replaces_nothing_unless_told(demo):
    before = Path("demo-output/cells.tif").stat().st_mtime_ns
    refused = emseg("demo")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert Path("demo-output/cells.tif").stat().st_mtime_ns == before


def test_without_napari_emseg_data_it_takes_the_fib_sem_sample(tmp_path, without_data):
    weights, out = thin_weights(tmp_path), tmp_path / "out"
    done = emseg("demo", "--weights", str(weights.path), "--out", str(out))
    assert done.code == 0, done.err
    assert "Takemura" in done.out
    assert "6 sections of 250 × 250 px, 10 × 10 × 10 nm" in done.out
    assert "pip install napari-emseg-data" in done.out
    em, truth = (open_stack(out / f"{name}.tif").data[:] for name in ("em", "truth"))
    np.testing.assert_array_equal(em, np.asarray(fib25().data[:6]))
    cells = np.asarray(fib25_cells().data[:6]).astype(int)
    ends = (np.diff(cells) != 0) & (cells[..., 1:] > 0) & (cells[..., :-1] > 0)
    assert (truth[..., 1:][ends] == 255).all()
    assert 0.05 < (truth == 255).mean() < 0.3
    assert "Takemura" in (out / "LICENCE.md").read_text(encoding="utf-8")
    assert 0 < json.loads((out / "scores.json").read_text())["scores"]["v_rand"] < 1


@pytest.fixture
def cut_output(
    demo: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Work in an empty folder but for a `demo-output` of three sections of a side."""

    def cut_output(side: int) -> None:
        folder, part = tmp_path / "demo-output", slice(128, 128 + side)
        folder.mkdir()
        for name in ("em", "truth", "membranes", "cells", "neurites"):
            path = Path("demo-output") / f"{name}.tif"
            stack = open_stack(path)
            save_stack(
                folder / path.name,
                stack.data[:3, part, part],
                voxel_size_nm=stack.voxel_size_nm,
                provenance=read_provenance(path),
            )
        monkeypatch.chdir(tmp_path)

    return cut_output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_works(command, cut_output):
    cut_output(256 if command == "learn-edges" else 128)  # which needs many cells
    summary, example = COMMANDS[command]
    shown = emseg(command, "--help")
    assert shown.code == 0
    assert f"Example: {example}" in " ".join(shown.out.split())
    assert summary.rstrip(".").split()[0] in shown.out

    if command == "demo":  # done already
        return
    done = emseg(*shlex.split(example)[1:])
    assert done.code == 0, done.err
    assert done.out


def test_every_command_is_in_the_list_of_help():
    shown = emseg("--help").out
    for command in COMMANDS:
        assert command in shown
        assert build_app()[command].help


def code_blocks(page: str) -> list[str]:
    """Return the commands of a page's code blocks, in order."""
    text = (ROOT / page).read_text()
    return re.findall(r"^    (emseg .+)$", text, flags=re.MULTILINE)


def test_the_commands_of_the_pages_work(cut_output):
    cut_output(256)  # as large as a region that a page names
    lines = code_blocks("docs/command-line.md") + code_blocks("README.md")
    commands = list(dict.fromkeys(line for line in lines if line != "emseg demo"))
    assert len(commands) > 8
    for line in commands:
        words = shlex.split(line)[1:]
        if words[0] == "train":  # what a page leaves out, so that it takes seconds
            words += ["--overwrite", "--validate-every", "2"]
            words += [] if "--steps" in words else ["--steps", "2", "--patch", "32"]
        done = emseg(*words)
        assert done.code == 0, f"{line}: {done.err}"


def test_the_python_of_the_readme_works(cut_output, capsys):
    cut_output(256)
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    v_rand, v_info = map(float, capsys.readouterr().out.split())
    assert v_rand > 0.95
    assert v_info > 0.95


def test_pages_link_to_pages_that_exist():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert os.path.exists(page.parent / link), f"{page.name}: {link}"


def test_every_page_is_in_the_index_and_in_the_site():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    index = (ROOT / "docs" / "index.md").read_text()
    site = (ROOT / "mkdocs.yml").read_text()
    assert {page for page in pages if f"({page})" not in index} == set()
    assert {page for page in pages if f": {page}\n" not in site} == set()
