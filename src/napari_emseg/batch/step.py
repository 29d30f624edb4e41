"""What a step of a batch is: all that the rest needs to know of it, in one object."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch.context import Context
from napari_emseg.batch.settings import RULES, BatchSettings
from napari_emseg.batch.tasks import Stages, TaskBuilder

COPIES = 4 / 3
"""All scale levels take so much more than the first."""

PACKED = {"uint8": 0.8, "float32": 0.95, "uint32": 0.1}
"""What compression leaves; seen were 0.5, 0.9 and 0.03 on EM of nerve tissue."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A result of a step.

    Parameters
    ----------
    name
        Of the OME-Zarr while it is made.
    kind
        In the names of finished ones: `INPUT-kind.zarr`.
    ids
        It holds ids, which smaller copies pick rather than average.
    """

    name: str
    kind: str
    ids: bool = False

    def path(self, context: Context, out: Path) -> Path:
        """Return where it is when it is finished."""
        suffix = ".tif" if context.settings.output == "tiff" else ".zarr"
        return out / f"{context.given.name}-{self.kind}{suffix}"


class Step(ABC):
    """A step of a batch; a frozen `TaskBody` does the work of each of its tasks.

    Attributes
    ----------
    name, needs, reads, flag, settings, needs_weights
        As `StepRule` says.
    results
        What it makes under names of their own.
    refines
        The step whose results it changes; that step has it done before its results
        are stored.
    ending
        Of the file that it makes of finished results; empty for steps before them.
    """

    name: str
    needs: tuple[str, ...] = ()
    reads: str = ""
    flag: str = ""
    settings: tuple[str, ...] = ()
    needs_weights: bool = False
    results: tuple[StepResult, ...] = ()
    refines: str = ""
    ending: str = ""

    @abstractmethod
    def tasks(self, course: TaskBuilder) -> Stages:
        """Yield the tasks of each stage, be sent their facts or failures in order.

        What later steps need goes into `course.found`, and so does what is left empty
        (`course.warn`). It computes nothing itself.

        Raises
        ------
        OSError, ValueError
            If the input can't be gone on with; the message is for a person.
        """

    def cost(self, context: Context) -> Mapping[str, float]:
        """Return what a pixel takes in each stage, relative to stages of other steps.

        Stages are known by the names of their tasks; others cost nothing.
        """
        return {}

    def trial(
        self,
        cells: NDArray[np.uint32],
        membrane: NDArray[np.float32],
        context: Context,
    ) -> Callable[[], object] | None:
        """Return its work on a drawing of two sections, to be timed; None: no time.

        It is as much as an input takes for as many pixels as one of them has.
        """
        return None

    def memory(self, context: Context, threads: int) -> tuple[float, float]:
        """Return the bytes that a worker takes: as a rule, and at the most."""
        return 0.0, 0.0

    def disk(self, context: Context) -> float:
        """Return the bytes that are stored for each pixel."""
        return 0.0


STEPS = cast("dict[str, Step]", RULES)
"""All of them, in their order."""


def steps_of(settings: BatchSettings) -> list[Step]:
    """Return the steps that are asked for, in their order."""
    return [
        step
        for step in STEPS.values()
        if (getattr(settings, step.flag) if step.flag else step.name in settings.steps)
    ]


def results_of(context: Context) -> list[StepResult]:
    """Return the results that a batch makes of an input."""
    return [result for step in steps_of(context.settings) for result in step.results]


def packed_bytes(dtype: str) -> float:
    """Return what a pixel of a type takes when it is compressed."""
    return np.dtype(dtype).itemsize * PACKED[dtype]
