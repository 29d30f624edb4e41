"""The way of one input: its steps, one after the other, and the table of all steps.

A pipeline is a generator: it yields the tasks of a stage and is sent their outcomes,
facts or failures, in their order. It never waits and computes nothing itself.
"""

from dataclasses import dataclass

from napari_emseg.batch.cells import CellsStep
from napari_emseg.batch.context import Part, blocks
from napari_emseg.batch.links import LinkStep
from napari_emseg.batch.measuring import TableStep
from napari_emseg.batch.membranes import MembranesStep
from napari_emseg.batch.step import STEPS, StepResult, steps_of
from napari_emseg.batch.stores import Downsample
from napari_emseg.batch.tasks import Failure, Stages, TaskBuilder
from napari_emseg.io.fingerprint import NO_SMALLER_COPY
from napari_emseg.io.zarr_sink import pyramid

STEPS.update(
    (step.name, step)
    for step in (
        MembranesStep(),
        CellsStep(),
        LinkStep(),
        TableStep(),
    )
)


@dataclass
class InputPipeline(TaskBuilder):
    """All stages of an input."""

    def stages(self) -> Stages:
        """Yield the tasks of each stage, be sent their outcomes."""
        for step in steps_of(self.context.settings):
            if step.refines or step.ending:
                continue
            yield from step.tasks(self)
            for result in step.results:
                yield from self._shrink(result)
                self.found.results.append(result.name)

    def files(self) -> Stages:
        """Yield the tasks of what is made of finished results."""
        for step in steps_of(self.context.settings):
            if step.ending:
                yield from step.tasks(self)

    def _shrink(self, result: StepResult) -> Stages:
        """Make the smaller copies of large sections; small ones have them already."""
        c = self.context
        if c.whole:
            return
        for level, shape in enumerate(pyramid(c.size)[1:], start=1):
            stage = f"copies of {result.name}, {level}"
            tasks = []
            for place in range(shape[0]):
                for y, x in blocks((shape[1], shape[2]), c.settings.block):
                    part = Part(place, place + 1, (y.start, x.start, y.stop, x.stop))
                    work = Downsample(c, result, level, part)
                    tasks.append(self.part_task(stage, part, work, self.found.missing))
            for task, outcome in zip(tasks, (yield tasks), strict=True):
                if isinstance(outcome, Failure):
                    self.lose(task.words, NO_SMALLER_COPY, outcome.why)
