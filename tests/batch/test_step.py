"""A step of one's own: one object in the table, and all of a batch knows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from batching import run, values
from pydantic import ValidationError

from napari_emseg.batch import (
    BatchSettings,
    RowChanged,
    context,
    estimate_batch,
    plan_batch,
    run_batch,
)
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import MEMBRANES, Context, Part
from napari_emseg.batch.settings import settings_of_steps, step_names
from napari_emseg.batch.step import STEPS, Step, StepResult
from napari_emseg.batch.stores import make_result
from napari_emseg.batch.tasks import Stages, TaskBuilder
from napari_emseg.cli import main
from napari_emseg.io.zarr_sink import fill
from napari_emseg.models.weights import Weights

LUMEN = StepResult("lumen.zarr", "lumen")


@dataclass(frozen=True, slots=True)
class Invert:
    """Stores 255 minus the membranes of a part."""

    context: Context
    part: Part

    def run(self) -> Facts:
        c = self.context
        levels = c.levels(LUMEN.name)
        for place in self.part.places:
            membrane = np.asarray(c.array(MEMBRANES)[place])
            fill(levels, place, 255 - membrane, ids=False)
        return {}

    def files(self) -> list[Path]:
        return self.context.chunks(LUMEN.name, self.part.places)


class LumenStep(Step):
    name = "lumen"
    needs = ("membranes",)
    results = (LUMEN,)

    def cost(self, context: Context) -> Mapping[str, float]:
        return {"invert": 10.0}

    def disk(self, context: Context) -> float:
        return 100.0

    def tasks(self, course: TaskBuilder) -> Stages:
        make_result(course, LUMEN, "uint8", course.provenance)
        yield [
            course.part_task("invert", part, Invert(course.context, part))
            for part in course.parts()
        ]


STEPS_WANTED = ("membranes", "lumen")


@pytest.fixture(autouse=True)
def _lumen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, LumenStep.name, LumenStep())
    monkeypatch.setattr(context, "DEEPEST", 2)


def test_a_batch_does_it_and_publishes_what_it_makes(make_job) -> None:
    records: list = []
    summary = run(make_job(steps=STEPS_WANTED), records)
    (row,) = summary.rows
    assert (row.state, row.warnings) == ("done", ())
    assert [path.name for path in row.outputs] == ["em-membranes.zarr", "em-lumen.zarr"]
    membrane, lumen = map(values, row.outputs)
    np.testing.assert_array_equal(lumen, 255 - membrane)
    begun = next(r.row for r in records if getattr(r, "row", row).step == "invert")
    assert begun.share == pytest.approx(0.5)


def test_a_batch_that_is_broken_off_in_it_goes_on(make_job) -> None:
    work = run_batch(make_job(steps=STEPS_WANTED))
    for record in work:
        if isinstance(record, RowChanged) and record.row.share > 0.5:
            break
    work.close()
    summary = run(make_job(steps=STEPS_WANTED, resume=True))
    assert summary.ok
    assert (summary.reused, summary.tasks) == (5, 2)
    membrane, lumen = map(values, summary.rows[0].outputs)
    np.testing.assert_array_equal(lumen, 255 - membrane)


def test_the_estimate_counts_what_it_takes(make_job) -> None:
    plain, more = (
        estimate_batch(plan_batch(make_job(steps=steps))).disk_bytes
        for steps in (("membranes",), STEPS_WANTED)
    )
    assert more - plain == pytest.approx(100 * 6 * 200 * 180, abs=1)


def test_the_dock_offers_the_settings_of_steps() -> None:
    assert set(settings_of_steps()) <= set(BatchSettings.model_fields)
    assert "table" in settings_of_steps()
    for step in STEPS.values():
        assert not step.flag or step.flag in step.settings


def test_the_command_line_takes_it(
    em: Path, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", str(em), "--out", str(tmp_path / "out"), "--dry-run", "--json"]
    words += ["--weights", str(weights.path), "--device", "cpu", "--steps"]
    taken = []
    for steps in ("membranes", "membranes,lumen"):
        assert main([*words, steps]) == 0
        taken.append(json.loads(capsys.readouterr().out)["disk_bytes"])
    assert taken[1] - taken[0] == pytest.approx(100 * 6 * 200 * 180, abs=1)
    assert main([*words, "membranes,lumens"]) == 2
    assert "steps are membranes, cells, link and lumen" in capsys.readouterr().err


def test_help_of_steps_names_those_of_the_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["batch", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    own = [name for name in step_names() if name != LumenStep.name]
    assert f"and without gaps: {', '.join(own)}." in told
    assert "Formats in which each result is written" in told


def test_settings_know_where_it_may_stand() -> None:
    everything = ("membranes", "cells", "link", "lumen")
    assert BatchSettings(steps=everything).steps == everything
    with pytest.raises(ValidationError, match="cells, link and lumen, in this order"):
        BatchSettings(steps=("lumen", "membranes"))
    with pytest.raises(ValidationError, match="beginning with membranes or cells; got"):
        BatchSettings(steps=("cells", "lumen"))
