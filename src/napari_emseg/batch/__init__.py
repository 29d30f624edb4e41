"""Many stacks, or one larger than memory, unattended: plan, run, resume, report."""

from napari_emseg.batch.engine import run_batch
from napari_emseg.batch.estimate import BatchEstimate, estimate_batch
from napari_emseg.batch.inputs import Input, find_inputs
from napari_emseg.batch.job import BatchConfig
from napari_emseg.batch.planning import Plan, plan_batch
from napari_emseg.batch.recipe import (
    OpenedRecipe,
    Recipe,
    preset,
    read_recipe,
    recipe_of,
    write_recipe,
)
from napari_emseg.batch.records import BatchWaiting, Row, RowChanged, Summary
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.where import ClusterSettings

__all__ = [
    "BatchConfig",
    "BatchEstimate",
    "BatchSettings",
    "BatchWaiting",
    "ClusterSettings",
    "Input",
    "OpenedRecipe",
    "Plan",
    "Recipe",
    "Row",
    "RowChanged",
    "Summary",
    "estimate_batch",
    "find_inputs",
    "plan_batch",
    "preset",
    "read_recipe",
    "recipe_of",
    "run_batch",
    "write_recipe",
]
