"""A round that was stopped goes on, also after the project was opened again."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from napari_emseg.core.records import Note, Record
from napari_emseg.core.stack import Stack
from napari_emseg.session.rounds import checkpoint_of, lesson_of
from napari_emseg.session.training_data_file import read_training_data
from napari_emseg.session.training_request import (
    Learnt,
    Settings,
    TrainingRequest,
    learning,
)


def going_on(
    lesson: TrainingRequest, settings: Settings, stacks: Sequence[Stack]
) -> Generator[Record, None, Learnt]:
    """Go on with a round that was stopped, with what it learnt from.

    Where that is gone or damaged, this is said, and it begins anew.

    Parameters
    ----------
    lesson, settings
        What is learnt if it begins anew.
    stacks
        That are open; among them are those that it learnt from.
    """
    try:
        sets, settings, names = read_training_data(lesson_of(lesson.output), stacks)
    except (OSError, ValueError) as e:
        yield Note(f"{e}: the round begins anew, with what is corrected now")
        checkpoint_of(lesson.output).unlink(missing_ok=True)
    else:
        lesson.sets, lesson.names = sets, names
    return (yield from learning(lesson, settings))
