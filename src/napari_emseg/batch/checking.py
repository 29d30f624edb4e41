"""May a batch begin? What is there already is never mixed, nor replaced unasked."""

from __future__ import annotations

import shutil

from napari_emseg.batch.job import LEDGER, remember, remembered
from napari_emseg.batch.planning import Plan
from napari_emseg.batch.records import Row


def check(plan: Plan) -> None:
    """Refuse what would mix, or replace without being told to."""
    job = plan.job
    if not any(plan.planned):
        why = "; ".join(_named(row) for row in plan.rows)
        msg = f"none of the inputs can be used: {why}"
        raise ValueError(msg)
    before, now = remembered(job), plan.memory
    finals = [f for p in plan.planned if p is not None for f in p.finals(job.out)]
    there = [path for path in finals if path.exists()]
    if job.overwrite:
        for path in job.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        (job.folder / LEDGER).unlink(missing_ok=True)
    elif before is not None and not job.resume:
        msg = (
            f"an unfinished batch is in {job.out}: go on with --resume, or --overwrite"
        )
        raise FileExistsError(msg)
    elif before is not None and (other := before.differences(now)):
        msg = (
            f"the batch in {job.out} was another one ({'; '.join(other)}); begin anew "
            "with --overwrite, or in another folder"
        )
        raise ValueError(msg)
    elif before is None and there:
        msg = f"{there[0]} exists already; replace it with --overwrite"
        raise FileExistsError(msg)


def _named(row: Row) -> str:
    """Return why an input can't be used, with its name."""
    why = row.warnings[0]
    return why if why.startswith(row.name) else f"{row.name}: {why}"


def note(plan: Plan) -> None:
    """Write down what is done here, beside inputs of a run before."""
    before, now = remembered(plan.job), plan.memory
    known = before.inputs if before is not None and plan.job.resume else {}
    merged = {**known, **now.inputs}
    remember(plan.job, now.model_copy(update={"inputs": merged}))
