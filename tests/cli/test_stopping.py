from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.api import predict
from napari_emseg.core.sinks import CountingSink
from napari_emseg.io import open_stack

EMSEG = [
    sys.executable,
    "-c",
    "import sys; from napari_emseg.cli import main; sys.exit(main())",
]


@pytest.mark.parametrize("command", ["predict", "export"])
def test_ctrl_c_keeps_finished_sections_and_says_so(
    emseg, em_file, tiny_weights, monkeypatch, command
):
    write = CountingSink.write
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell runs us apart

    def interrupted(self, z, section):
        write(self, z, section)
        if self.written == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(CountingSink, "write", interrupted)
    if command == "predict":
        done = emseg("predict", em_file, "out.tif", "--weights", tiny_weights)
        expected = predict(open_stack(em_file), tiny_weights)
    else:
        done = emseg("export", em_file, "out.tif")
        expected = open_stack(em_file).data[:]

    assert done.code == 130
    assert "of 4 sections were finished; they are kept in out.tif." in done.err
    assert "stopped: by Ctrl-C" in done.err
    assert not Path("out.tif").exists()
    kept = open_stack(next(Path().glob("out.tif.*.part"))).data[:2]
    np.testing.assert_array_equal(kept, expected[:2])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_leaves_is_no_error(tiny_weights):
    words = [*EMSEG, "weights", "show", str(tiny_weights), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert err == b""


def test_exit_codes_reach_the_shell(tmp_path):
    words = [*EMSEG, "predict", "gone.tif", "out.tif"]
    done = subprocess.run(words, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert b"no such file" in done.stderr
    assert done.stdout == b""
