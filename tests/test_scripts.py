"""The set-up scripts, with the system's programs played by small fakes."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Debian packages are Linux' own"
)


class Machine:
    """A PATH of fakes beside the real basics, and a project folder to set up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        self.folder.mkdir()
        for name in ("scripts", "constraints"):
            shutil.copytree(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        for name in ("bash", "cat", "dirname", "env", "mkdir", "rm", "sleep", "uname"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.fake("id", "echo 0")
        self.fake("nvidia-smi", "exit 1")

    def fake(self, name: str, code: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{code}\n')
        path.chmod(0o755)

    def run(self, script: str, *words: str, **env: str):
        return subprocess.run(
            [self.folder / "scripts" / script, *words],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(self.bin), **env},
        )

    def calls(self, name: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def debian(machine: Machine) -> Machine:
    """A Debian where xvfb is missing and libgl1 is too."""
    machine.fake(
        "dpkg-query",
        "case $3 in xvfb*|libgl1*) exit 1;; *) echo -n installed;; esac",
    )
    machine.fake("apt-get", "")
    machine.fake("apt-cache", "[[ $2 != libgl1 ]]")
    return machine


class TestSystemPackages:
    def test_nothing_is_done_when_nothing_is_missing(self, machine):
        machine.fake("dpkg-query", "echo -n installed")
        machine.fake("apt-get", "")
        assert machine.run("system_packages.sh", "test").returncode == 0
        assert machine.calls("apt-get") == []

    def test_root_gets_what_is_missing_installed(self, debian):
        done = debian.run("system_packages.sh", "test")
        assert done.returncode == 0, done.stderr
        update, install = debian.calls("apt-get")
        assert update == "apt-get update -qq"
        assert install.endswith(" libgl1t64 xvfb")
        assert "libgl1 xvfb" in done.stderr

    def test_the_window_needs_no_virtual_screen(self, debian):
        debian.run("system_packages.sh", "gui")
        assert debian.calls("apt-get")[-1].endswith(" libgl1t64")

    def test_others_are_told_the_exact_command(self, debian):
        debian.fake("id", "echo 1000")
        debian.fake("sudo", "exit 1")
        done = debian.run("system_packages.sh", "test")
        assert done.returncode == 1
        assert "sudo apt-get install libgl1 xvfb" in done.stderr
        assert debian.calls("apt-get") == []

    def test_sudo_is_used_where_it_asks_nothing(self, debian):
        debian.fake("id", "echo 1000")
        debian.fake("sudo", '[[ $1 == -n ]] && shift; "$@"')
        assert debian.run("system_packages.sh", "test").returncode == 0
        assert len(debian.calls("apt-get")) == 2

    def test_other_systems_are_left_alone(self, machine):
        assert machine.run("system_packages.sh", "gui").returncode == 0
        done = machine.run("system_packages.sh", "test")
        assert done.returncode == 1
        assert "Xvfb" in done.stderr


FAKE_PYTHON = """
case "$*" in
  *version_info*) [[ {too_old} == 0 ]] || exit 1; echo "{version}" ;;
  "--version") echo "Python 3.12.1" ;;
  "-m venv "*) mkdir -p $3/bin; cp $0 $3/bin/python ;;
esac
"""


class TestPythons:
    def good(self, version: str) -> str:
        return FAKE_PYTHON.format(too_old=0, version=version)

    def test_a_name_that_does_not_run_is_passed_over(self, machine):
        machine.fake(
            "python3.12", "echo 'pyenv: python3.12: command not found'; exit 127"
        )
        machine.fake("python3.11", self.good("3.11"))
        done = machine.run("pythons.sh")
        assert done.stdout == f"3.11 {machine.bin}/python3.11\n"
        assert machine.calls("python3.12")

    def test_what_lies_behind_such_a_name_is_found(self, machine):
        machine.fake("python3.13", "exit 127")
        behind = machine.bin.parent / "behind"
        behind.mkdir()
        machine.fake("python3.13-real", self.good("3.13"))
        (machine.bin / "python3.13-real").rename(behind / "python3.13")
        done = machine.run("pythons.sh", PATH=f"{machine.bin}:{behind}")
        assert done.stdout == f"3.13 {behind}/python3.13\n"

    def test_those_that_pyenv_keeps_are_found_once_each(self, machine):
        machine.fake("python3", self.good("3.11"))
        for version, builds in {"3.11": "3.11.7", "3.13": "3.13.0"}.items():
            kept = machine.folder / "versions" / builds / "bin"
            kept.mkdir(parents=True)
            machine.fake("kept", self.good(version))
            (machine.bin / "kept").rename(kept / "python3")
        done = machine.run("pythons.sh", PYENV_ROOT=str(machine.folder))
        assert done.stdout.splitlines() == [
            f"3.11 {machine.bin}/python3",
            f"3.13 {machine.folder}/versions/3.13.0/bin/python3",
        ]

    def test_environments_lie_where_they_are_wanted(self, machine):
        (machine.bin / "cp").symlink_to(shutil.which("cp"))
        machine.fake("python3", self.good("3.13"))
        done = machine.run("environment.sh", "core", VENV=".venv-3.13")
        assert done.returncode == 0, done.stderr
        assert (machine.folder / ".venv-3.13" / "bin" / "python").exists()
        assert not (machine.folder / ".venv").exists()


class TestEnvironment:
    @pytest.fixture
    def python(self, machine: Machine) -> Machine:
        """A machine with a Python that makes venvs of itself, and installs nothing."""
        (machine.bin / "cp").symlink_to(shutil.which("cp"))
        machine.fake("python3", FAKE_PYTHON.format(too_old=0, version="3.12"))
        return machine

    def test_without_python_it_says_what_to_do(self, machine):
        done = machine.run("environment.sh", "core")
        assert done.returncode == 1
        assert "Python 3.11 or newer is needed" in done.stderr
        assert "PYTHON=/path/to/python3" in done.stderr

    def test_an_old_python_is_no_python(self, machine):
        machine.fake("python3", FAKE_PYTHON.format(too_old=1, version="3.9"))
        done = machine.run("environment.sh", "core")
        assert done.returncode == 1
        assert "Python 3.11 or newer is needed" in done.stderr
        done = machine.run("environment.sh", "core", PYTHON="python3")
        assert "PYTHON=python3 is no Python 3.11 or newer" in done.stderr

    def test_installs_once_and_again_when_the_project_changes(self, python):
        def installs() -> list[str]:
            calls = python.calls("python3")
            return [c for c in calls if "pip install" in c]

        assert python.run("environment.sh", "dev").returncode == 0
        (first,) = installs()
        assert "--no-compile" in first
        assert first.endswith(
            "--constraint constraints/cpu.txt --editable .[dev] "
            "--editable packages/napari-emseg-data"
        )
        for extras in ("dev", "all", "core"):  # dev contains the others
            assert python.run("environment.sh", extras).returncode == 0
        assert len(installs()) == 1

        project = python.folder / "pyproject.toml"
        project.write_text(project.read_text() + "# changed\n")
        (python.folder / ".venv/.installed-core").touch()
        assert python.run("environment.sh", "dev").returncode == 0
        assert len(installs()) == 2

    def test_a_project_that_moved_gets_a_new_install(self, python):
        assert python.run("environment.sh", "core").returncode == 0
        python.folder = python.folder.rename(python.folder.with_name("moved"))
        assert python.run("environment.sh", "core").returncode == 0
        installs = [c for c in python.calls("python3") if "pip install" in c]
        assert len(installs) == 2

    def test_pip_compiles_where_python_may_keep_nothing_later(self, python):
        done = python.run("environment.sh", "core", PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0
        (install,) = [c for c in python.calls("python3") if "pip install" in c]
        assert "--no-compile" not in install

    def test_a_gpu_leaves_torch_free_and_an_index_can_be_added(self, python):
        python.fake("nvidia-smi", "exit 0")
        done = python.run("environment.sh", "core", TORCH_INDEX="https://example.org")
        assert done.returncode == 0
        (install,) = [c for c in python.calls("python3") if "pip install" in c]
        assert "--extra-index-url https://example.org --editable ." in install
        assert "--constraint" not in install


class TestCheckWheel:
    """What `scripts/check_wheel.py` says of names and metadata of a wheel."""

    @pytest.fixture
    def check(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module("check_wheel")

    def wheel(self, check, name: str) -> tuple[list[str], dict[str, str]]:
        wanted = check.WHEELS[name]
        names = [
            f"{name}-0.1.0.dist-info/{each}" if each.startswith("licenses/") else each
            for each in wanted.needed
        ]
        return names, {
            "METADATA": f"License-Expression: {wanted.licence}\n",
            "entry_points.txt": "\n".join(wanted.points),
        }

    @pytest.mark.parametrize("name", ["napari_emseg", "napari_emseg_data"])
    def test_what_is_whole_passes(self, check, name):
        assert check.problems(name, *self.wheel(check, name)) == []

    def test_what_is_not_for_commercial_use_stays_out(self, check):
        names, texts = self.wheel(check, "napari_emseg")
        for lost in ("sample/vnc_raw.tif", "models/bundled/em-membranes.safetensors"):
            each = f"napari_emseg/{lost}"
            assert check.problems("napari_emseg", [*names, each], texts) == [
                f"{each} belongs into napari_emseg_data"
            ]

    def test_what_is_missing_or_wrong_is_said(self, check):
        names, texts = self.wheel(check, "napari_emseg_data")
        texts["METADATA"] = "License-Expression: BSD-3-Clause\n"
        names = [*names[1:], "tests/a.py"]
        assert check.problems("napari_emseg_data", names, texts) == [
            "the package by which the files are found "
            "(napari_emseg_data/__init__.py) is missing",
            "tests/a.py doesn't belong into a wheel",
            "its licence is BSD-3-Clause, and should be CC-BY-NC-SA-3.0",
        ]
        names, texts = self.wheel(check, "napari_emseg")
        texts["entry_points.txt"] = ""
        assert len(check.problems("napari_emseg", names, texts)) == 2
