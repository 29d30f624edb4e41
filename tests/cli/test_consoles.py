"""Consoles of any encoding, and readers that leave: no command ends by a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch

from napari_emseg.cli.app import COMMANDS, GROUPS, main
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference.torch_runtime import choose_device
from napari_emseg.io import open_stack

SEGMENT = ["--weights", "tiny.safetensors", "--input-is", "em", "--table", "µ.csv"]

START = "import sys; from napari_emseg.cli import main; sys.exit(main())"


def run(
    *words: str | Path, where: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", START, *map(str, words)],
        cwd=where,
        env=os.environ | {"PYTHONUTF8": "0", **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["predict", "--help"],
        ["weights", "list"],
        ["weights", "show", "isbi2012-unetpp"],
        ["check", "zoë µ.tif"],
        ["check", "夜.tif"],
        ["predict", "zoë µ.tif", "out µ.tif", "--weights", "tiny.safetensors"],
        ["segment", "zoë µ.tif", "cells.tif", *SEGMENT],
        ["doctor"],
    ],
)
@pytest.mark.parametrize(
    "console",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252", "FORCE_COLOR": "1"},  # with progress bars
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
    ],
)
def test_any_encoding_will_do(
    tmp_path: Path,
    em_file: Path,
    tiny_weights: Path,
    words: list[str],
    console: dict[str, str],
) -> None:
    em_file.rename(tmp_path / "zoë µ.tif")
    (tmp_path / "tiny.safetensors").symlink_to(tiny_weights)
    done = run(*words, where=tmp_path, **console)
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    assert done.returncode == (2 if "夜.tif" in words else 0), done.stderr


@pytest.mark.parametrize(
    "encoding",
    ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("cp1252", "cp437"))],
)
def test_every_command_explains_itself_and_its_errors_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    groups = [[name] for name in GROUPS]
    calls = [[], *([name] for name in COMMANDS), *([*g, "show"] for g in groups)]
    for call in calls:
        code, shown, _ = spoken(monkeypatch, encoding, *call, "--help")
        assert code == 0, call
        assert "Usage" in shown
    for call in calls[1:]:
        if call not in (["demo"], ["doctor"]):
            code, _, said = spoken(monkeypatch, encoding, *call, "夜 µ – ≥.tif")
            assert code == 2, call
            assert "error: " in said


def spoken(
    monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str
) -> tuple[int, str, str]:
    """Run a command; return its exit code, and what a console of an encoding got."""
    said = [TextIOWrapper(BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        for name, stream in zip(("stdout", "stderr"), said, strict=True):
            patch.setattr(sys, name, stream)
        code = main(list(words))
    for stream in said:
        stream.flush()
    return (code, *(s.buffer.getvalue().decode(encoding) for s in said))


def test_a_name_that_the_console_can_not_show_is_escaped(
    tmp_path: Path, em_file: Path
) -> None:
    done = run("check", "夜.tif", where=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert rb"\u591c.tif" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_run_goes_on_when_nobody_reads_what_it_says(
    tmp_path: Path, em_file: Path, tiny_weights: Path
) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ["predict", "em.tif", "out.tif", "--weights", str(tiny_weights)]
    done = subprocess.run(
        [sys.executable, "-c", START, *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=write,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0
    assert open_stack(tmp_path / "out.tif").shape == open_stack(em_file).shape


def test_gpus_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PredictSettings(device="cuda:1").device == "cuda:1"
    for wrong in ("cuda:", "cuda:x", "cuda:-1", "gpu", "cpu:0", "cuda:1 "):
        with pytest.raises(ValueError, match="such as 'cuda:1'"):
            PredictSettings(device=wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"no device 'cuda:2'.* cuda, cpu, cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no device 'cuda:0'.*there is: cpu"):
        choose_device("cuda:0")


def test_a_gpu_that_is_not_there_is_said_in_one_line(
    emseg, em_file: Path, tiny_weights: Path
) -> None:
    words = ["predict", em_file, "out.tif", "--weights", tiny_weights]
    done = emseg(*words, "--device", "cuda:97")
    assert done.code == 2
    assert "no device 'cuda:97' on this machine; there is: " in done.err
