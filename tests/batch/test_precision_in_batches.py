"""A batch computes in one precision: chosen where it is planned, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batching import CPU, run, values

from napari_emseg.batch import BatchConfig, run_batch
from napari_emseg.batch.job import DifferentBatchError, Memory
from napari_emseg.batch.records import RowChanged
from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import precision, predictor, user_cache
from napari_emseg.inference import runtime as runtimes
from napari_emseg.inference.openvino_runtime import QuantisedModel
from napari_emseg.inference.precision import Trial
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.project import Project

AUTO = CPU.model_copy(update={"runtime": "auto"})


class Labelled:
    """A float32 runtime that says it is another."""

    def __init__(self, runtime: Any, name: str) -> None:
        self._runtime = runtime
        self.precision = name
        self.name = "openvino"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, batch: Any) -> Any:
        return self._runtime(batch)


class Farm:
    """Machines with int8, which `refuses` tells from those without."""

    def __init__(self) -> None:
        self.refuses: Callable[[], bool] = lambda: False
        self.calibrated = 0
        self.loaded: list[str] = []

    def load(
        self, weights: Any, settings: PredictSettings, _: Any = None, model: Any = None
    ) -> Labelled:
        name = settings.precision.replace("auto", "float32")
        if name == "int8":
            assert model == QuantisedModel(b"xml", b"values")
            if self.refuses():
                msg = "no int8 here"
                raise OtherPrecisionError(msg)
        self.loaded.append(name)
        update = {"precision": "float32", "runtime": "torch"}
        found = runtimes.load_runtime(weights, settings.model_copy(update=update))
        return Labelled(found, name)

    def quantise(self, *_: Any, **__: Any) -> Generator[Record, None, QuantisedModel]:
        self.calibrated += 1
        yield Progress("calibrating int8", 0, 0)
        return QuantisedModel(b"xml", b"values")


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Farm:
    made = Farm()
    monkeypatch.setattr(user_cache, "cache_folder", lambda: tmp_path / "cache")
    precision._SETTLED.clear()
    monkeypatch.setattr(precision, "load_runtime", made.load)
    monkeypatch.setattr(predictor, "load_runtime", made.load)
    monkeypatch.setattr(precision, "iter_quantise", made.quantise)
    monkeypatch.setattr(precision, "find_spec", lambda name: object())
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    monkeypatch.setattr(precision, "_candidates", lambda: ("int8",))
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 0.1)
    monkeypatch.setattr(
        precision._Sample,
        "_tried",
        lambda self, name, runtime, expected: Trial(name, 3.0, 0.0, 0.0),
    )
    return made


def break_off(job: BatchConfig) -> None:
    """Run a batch until its membranes are there."""
    work = run_batch(job)
    for record in work:
        if isinstance(record, RowChanged) and record.row.step == "cells":
            break
    work.close()


def said(path: Path) -> dict[str, Any]:
    """How membranes, or the membranes of cells, were made."""
    made = read_provenance(path)
    assert made is not None
    found: dict[str, Any] = made.settings
    return found.get("predict", found)


def test_auto_is_settled_once_and_results_say_so(make_job, farm: Farm) -> None:
    records: list[Record] = []
    done = run(make_job(predict=AUTO), records)
    assert done.ok
    assert farm.calibrated == 1  # trying it was enough
    for output in done.rows[0].outputs:
        made = said(output)
        assert made["precision"] == "int8"
        assert "3.0 times as fast" in made["precision_reason"]
    notes = [record.message for record in records if isinstance(record, Note)]
    assert any("precision int8" in note for note in notes)
    assert "int8" in farm.loaded


def test_what_a_person_excluded_is_left_out_of_it(
    make_job, em: Path, farm: Farm, tmp_path: Path, monkeypatch
) -> None:
    with Project.create(tmp_path / "p.emseg", open_stack(em)) as project:
        project.mark([2, 3], "excluded")
    told: list[frozenset[int]] = []

    def settle(*_: Any, excluded: Any, **__: Any) -> Generator[Record, None, Any]:
        told.append(excluded)
        msg = "seen"
        raise OtherPrecisionError(msg)
        yield

    monkeypatch.setattr(predictor.Predictor, "settle", settle)
    job = make_job(str(tmp_path / "p.emseg"), predict=AUTO)
    with pytest.raises(OtherPrecisionError):
        run(job)
    assert told == [{2, 3}]


def test_a_short_batch_is_float32(make_job, farm: Farm, monkeypatch) -> None:
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 1)
    done = run(make_job(predict=AUTO))
    assert said(done.rows[0].outputs[0])["precision"] == "float32"
    assert set(farm.loaded) == {"float32"}


def test_the_length_of_all_inputs_counts(
    make_job, farm: Farm, em: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 0.4)  # em has 0.2
    other = tmp_path / "other.tif"
    other.write_bytes(em.read_bytes())
    done = run(make_job(str(em), str(other), predict=AUTO))
    assert {said(row.outputs[0])["precision"] for row in done.rows} == {"int8"}


def test_an_input_that_other_arithmetic_changes_is_float32(
    make_job, farm: Farm, em: Path, tmp_path: Path, monkeypatch
) -> None:
    other = tmp_path / "other.tif"
    save_stack(other, values(em)[:, ::-1], voxel_size_nm=(50, 4, 4))

    def tried(sample: Any, name: Any, *_: Any) -> Trial:
        differs = Path(sample._checking[0].stack.source) == other
        # how fast it is was measured by the first input
        return Trial(name, 1.0 if differs else 3.0, 0.1 if differs else 0.0, 0.0)

    monkeypatch.setattr(precision._Sample, "_tried", tried)
    exact = run(make_job(str(other), predict=CPU, out="exact"))
    first, second = run(make_job(str(em), str(other), predict=AUTO)).rows
    assert said(first.outputs[0])["precision"] == "int8"
    assert not any("instead of" in words for words in first.warnings)
    for output in second.outputs:
        made = said(output)
        assert made["precision"] == "float32"
        assert made["precision_reason"] == (
            "precision float32: int8 changes probabilities by 0.1"
        )
    words = "computed in float32 instead of int8: int8 changes probabilities by 0.1"
    assert words in second.warnings
    assert (values(second.outputs[0]) == values(exact.rows[0].outputs[0])).all()


def test_a_batch_that_goes_on_keeps_its_precision(
    make_job, farm: Farm, monkeypatch
) -> None:
    job: BatchConfig = make_job(predict=AUTO)
    break_off(job)
    memory = Memory.model_validate_json((job.folder / "batch.json").read_text())
    assert memory.precision == "int8"
    # by now it would be float32
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 10)
    exact = make_job(
        predict=AUTO.model_copy(update={"precision": "float32"}), resume=True
    )
    with pytest.raises(DifferentBatchError, match="precision was int8, is float32"):
        run(exact)
    done = run(replace(job, resume=True))
    made = said(done.rows[0].outputs[0])
    assert made["precision"] == "int8"
    assert "3.0 times as fast" in made["precision_reason"]
    assert farm.calibrated == 1


def test_an_input_that_is_added_has_the_precision_of_those_that_are_finished(
    make_job, farm: Farm, em: Path, tmp_path: Path, monkeypatch
) -> None:
    assert run(make_job(predict=AUTO)).ok
    other = tmp_path / "other.tif"
    save_stack(other, values(em)[:2, ::-1], voxel_size_nm=(50, 4, 4))
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 10)  # by now: float32
    done = run(replace(make_job(str(em), str(other), predict=AUTO), resume=True))
    assert done.ok
    assert {said(row.outputs[0])["precision"] for row in done.rows} == {"int8"}


def test_a_batch_from_before_there_was_a_choice_stays_float32(
    make_job, farm: Farm, monkeypatch
) -> None:
    job: BatchConfig = make_job(predict=AUTO)
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 10)
    break_off(job)
    memory = job.folder / "batch.json"
    then = json.loads(memory.read_text())
    del then["settings"]["predict"]["precision"]
    then["settings"]["predict"]["half_precision"] = True
    memory.write_text(json.dumps(then))
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 0.1)
    done = run(replace(job, resume=True))
    assert said(done.rows[0].outputs[0])["precision"] == "float32"
    assert set(farm.loaded) == {"float32"}


def test_a_worker_that_cannot_goes_on_in_float32_and_the_result_says_so(
    make_job, farm: Farm
) -> None:
    farm.refuses = lambda: True
    exact = run(make_job(predict=CPU, out="exact"))
    done = run(make_job(predict=AUTO.model_copy(update={"precision": "int8"})))
    assert done.ok
    made = said(done.rows[0].outputs[0])
    assert made["precision"] == "float32 in all parts"
    words = "float32 in all parts: computed there instead of in int8"
    assert words in done.rows[0].warnings
    found, expected = (values(job.rows[0].outputs[0]) for job in (done, exact))
    assert (found == expected).all()


def test_what_cannot_be_done_here_is_refused_at_the_start(make_job, farm: Farm) -> None:
    torch = CPU.model_copy(update={"precision": "int8"})
    with pytest.raises(OtherPrecisionError, match="by OpenVINO"):
        run(make_job(predict=torch))
