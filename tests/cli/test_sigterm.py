from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.api import predict
from napari_emseg.cli import batch
from napari_emseg.cli.progress import Terminated, exit_code, run_with_progress
from napari_emseg.core.records import Progress
from napari_emseg.core.sinks import CountingSink
from napari_emseg.io import open_stack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def steps(closed: list[bool]):
    """Count to nine, and be stopped at two."""
    try:
        for n in range(1, 10):
            if n == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield Progress("counting", n, 9)
            assert n < 2, "went on"
    finally:
        closed.append(True)


def test_the_record_in_hand_is_done_and_the_work_closed() -> None:
    closed: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="by SIGTERM"):
        run_with_progress(steps(closed))
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_finished_sections_are_kept(emseg, em_file, tiny_weights, monkeypatch) -> None:
    write = CountingSink.write

    def terminated(self, z, section):
        write(self, z, section)
        if self.written == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CountingSink, "write", terminated)
    done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)
    assert done.code == 143
    assert "of 4 sections were finished; they are kept in out.tif." in done.err
    assert "stopped: by SIGTERM" in done.err
    assert "Traceback" not in done.err
    (part,) = Path().glob("out.tif.*.part")
    expected = predict(open_stack(em_file), tiny_weights)
    np.testing.assert_array_equal(open_stack(part).data[:2], expected[:2])


def test_words_that_are_added_on_the_way_change_no_code() -> None:
    said = KeyboardInterrupt("the same command goes on")
    said.__cause__ = Terminated()
    assert exit_code(said) == 143
    assert exit_code(KeyboardInterrupt()) == 130


def test_a_batch_says_how_to_go_on(emseg, em_file, tiny_weights, monkeypatch) -> None:
    run = batch.run_batch

    def terminated(job):
        work = run(job)
        yield next(work)
        os.kill(os.getpid(), signal.SIGTERM)
        return (yield from work)

    words = ["batch", em_file, "--out", "b", "--weights", tiny_weights]
    with monkeypatch.context() as context:
        context.setattr(batch, "run_batch", terminated)
        done = emseg(*words)
    assert done.code == 143
    assert "by SIGTERM; what is finished is kept, go on with --resume" in done.err
    assert emseg(*words, "--resume").code == 0


def test_a_command_that_follows_nothing_ends_with_one_line(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from napari_emseg.cli import app, main\n"
        "def show(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "from napari_emseg.cli import doctor; doctor.doctor = show\n"
        "sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 143
    assert done.stderr == "stopped: by SIGTERM\n"


LATE = {
    "as it ends": "code = main(); os.kill(os.getpid(), signal.SIGTERM)",
    "while threads end": "code = main()\n"
    "from threading import Thread; here = os.getpid()\n"
    "Thread(target=os.kill, args=(here, signal.SIGTERM)).start()",
    "at the very end": "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
    "code = main()",
}


@pytest.mark.parametrize(
    ("when", "words", "code"),
    [*((when, ["weights", "list"], 0) for when in LATE), ("as it ends", ["no"], 2)],
)
def test_sigterm_after_the_work_changes_no_exit_code(when, words, code) -> None:
    script = (
        "import atexit, os, signal, sys; from napari_emseg.cli import main\n"
        f"sys.argv = ['emseg', *{words!r}]\n{LATE[when]}\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert ("isbi2012-unet" in done.stdout) == (code == 0)
