"""Many stacks, or one larger than memory, unattended: plan, run, resume, report."""

from napari_emseg.batch.engine import run_batch
from napari_emseg.batch.forecast import Forecast, forecast
from napari_emseg.batch.inputs import Input, find_inputs
from napari_emseg.batch.job import Job
from napari_emseg.batch.planning import Plan, plan_batch
from napari_emseg.batch.records import BatchWaiting, Row, RowChanged, Summary
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.where import Where

__all__ = [
    "BatchSettings",
    "BatchWaiting",
    "Forecast",
    "Input",
    "Job",
    "Plan",
    "Row",
    "RowChanged",
    "Summary",
    "Where",
    "find_inputs",
    "forecast",
    "plan_batch",
    "run_batch",
]
