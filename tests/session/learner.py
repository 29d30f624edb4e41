"""A program that learns in a project, to be killed: it writes each step that is done.

learner.py PROJECT PARENT
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from finetuning import QUICK

from napari_emseg.core.records import Progress
from napari_emseg.core.settings import PredictSettings
from napari_emseg.models.weights import read_weights
from napari_emseg.session import Session
from napari_emseg.session.learning import Learning
from napari_emseg.session.projects import open_project

STEPS = 12
LONG = 100_000


@dataclass
class Learner:
    session: Session
    learning: Learning


def sitting(project: Path, parent: Path | None = None, steps: int = STEPS) -> Learner:
    """Open a project to learn in it."""
    session = Session(predict_settings=PredictSettings(invert="no", device="cpu"))
    learning = Learning(session)
    learning.settings = QUICK.model_copy(
        update={"rehearsal": 0.0, "steps": steps, "patience": 0}
    )
    open_project(session, project)
    if parent is not None:
        session.choose_weights(read_weights(parent))
    return Learner(session, learning)


if __name__ == "__main__":
    learner = sitting(Path(sys.argv[1]), Path(sys.argv[2]), LONG)
    for record in learner.learning.start().work:
        if isinstance(record, Progress) and record.step == "training":
            sys.stdout.write(f"{record.done}\n")
            sys.stdout.flush()
