"""Damage files of every kind, run every command on them, and count what goes wrong.

    python tests/mutating.py --seed 1 --tries 500

Each try is a process of its own, forked from one that has loaded everything: one that
hangs, takes too much memory or is killed is counted, and the others go on.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import tifffile
import torch
import zarr
from PIL import Image

from napari_emseg.cli import main
from napari_emseg.cli.app import COMMANDS, MODULES
from napari_emseg.core.card import Card
from napari_emseg.io import save_stack
from napari_emseg.models.exporting import export_weights
from napari_emseg.models.weights import save_weights
from napari_emseg.models.zoo import build

sys.path.insert(0, str(Path(__file__).parent / "io"))
from test_dm import _write as write_dm

SECONDS = 20
MOST_BYTES = 4 * 2**30
NUMBERS = (0, 1, 0xFF, 0xFFFF, 60_000, 2**30, 2**31 - 1, 2**32 - 1)
TEXTS = (b"0", b"-1", b"1000000000", b"99999999999999", b"1e-13", b"1e400", b"NaN")


def mutate(raw: bytes, chance: random.Random) -> bytes:
    """Cut, flip or lie in a file's bytes, mostly in its header."""
    data = bytearray(raw)
    if not data:
        return b"\0"
    ways = (_cut, _flip, _lie, _say, _zero, _repeat)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choices(ways, (1, 4, 4, 4, 1, 1))[0](data, chance)
        if not data:
            break
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    most = chance.choice((64, 512, 4096, len(data)))
    return chance.randrange(min(most, len(data)))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 6)):
        data[_place(data, chance)] = chance.randrange(256)


def _lie(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance) // 2 * 2
    form = chance.choice("<>") + chance.choice("HIIQ")
    size = struct.calcsize(form)
    value = min(chance.choice(NUMBERS), 2 ** (8 * size) - 1)
    if at + size <= len(data):
        struct.pack_into(form, data, at, value)


def _say(data: bytearray, chance: random.Random) -> None:
    """Replace a number that is written as text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:200_000])))
    if found:
        match = chance.choice(found)
        data[match.start() : match.end()] = chance.choice(TEXTS)


def _zero(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at : at + 64] = bytes(len(data[at : at + 64]))


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.randint(1, 256)] * chance.choice((1, 1, 50))


BESIDE = ("em.tif", "lab.tif", "tiny.safetensors")
"""What lies beside the damaged file, whole."""

RUN = "--weights tiny.safetensors --runtime torch --threads 1"
SMALL = "--labels-are cells --steps 1 --patch 32 --network.base 2 --network.levels 1"
IMAGE = (
    "check X",
    f"predict X out.tif {RUN}",
    f"segment X out.tif --input-is em {RUN}",
    "export X out.mrc",
    "export X out.zarr",
    "evaluate em.tif X --prediction-is membrane --truth-is cells",
    "evaluate X lab.tif --prediction-is membrane --truth-is cells",
    f"train em.tif X new.safetensors {SMALL}",
    f"train X lab.tif new.safetensors {SMALL}",
    f"batch X --out results {RUN}",
)
WEIGHTS = (
    "weights show X",
    f"predict em.tif out.tif {RUN}".replace("tiny.safetensors", "X"),
    "weights import X new.safetensors",
    "weights import X new.safetensors --arch unet --network.base 2 --network.levels 1",
    "weights export X new.zip",
    "finetune em.tif lab.tif new.safetensors --weights X --labels-are cells "
    "--steps 1 --patch 32",
)
PROJECT = (
    "project show X",
    "project merge X other.emseg merged.emseg",
    "project merge other.emseg X merged.emseg",
    "project export-training X training",
    f"batch X --out results {RUN}",
)
RESUME = (f"batch em.tif --out X --resume {RUN}", f"batch em.tif --out X {RUN}")

NAMES = {
    **dict.fromkeys(("tiny.safetensors", "pp.safetensors"), WEIGHTS),
    **dict.fromkeys(("state.pt", "old.pth", "package.zip"), WEIGHTS),
    "p.emseg": PROJECT,
    "done": RESUME,
}
"""Commands for what is no picture."""


def write_whole_files(folder: Path) -> None:
    """Write one small file of every kind, a project and a batch."""
    write_pictures(folder)
    _write_weights(folder)
    os.chdir(folder)
    for words in ("project new em.tif p.emseg", f"batch em.tif --out done {RUN}"):
        if main(words.split()):
            raise RuntimeError(words)


def write_pictures(folder: Path) -> None:
    """Write one small picture or stack of every format."""
    rng = np.random.default_rng(0)
    em = rng.integers(0, 255, (4, 48, 56)).astype(np.uint8)
    lab = np.kron(
        np.arange(1, 43, dtype=np.uint16).reshape(6, 7), np.ones((8, 8), "u2")
    )
    lab = np.stack([lab] * 4)
    lab[:, ::8] = 0
    lab[:, :, ::8] = 0
    save_stack(folder / "em.tif", em, voxel_size_nm=(40, 4, 4))
    save_stack(folder / "lab.tif", lab, voxel_size_nm=(40, 4, 4))
    _write_images(folder, em, lab)


def _write_weights(folder: Path) -> None:
    torch.manual_seed(0)
    for name, architecture, config in (
        ("tiny", "unet", {"base": 2, "levels": 1}),
        ("pp", "unetpp", {"base": 2}),
    ):
        state = build(architecture, config).state_dict()
        card = Card(
            name=name, architecture=architecture, config=config, pixel_size_nm=(4, 4)
        )
        weights = save_weights(folder / f"{name}.safetensors", state, card)
        if name == "tiny":
            torch.save(state, folder / "state.pt")
            old = {"_use_new_zipfile_serialization": False}
            torch.save(state, folder / "old.pth", **old)
            export_weights(weights, folder / "package.zip")


def _write_images(folder: Path, em: np.ndarray, lab: np.ndarray) -> None:
    grey: dict[str, dict[str, Any]] = {
        "a.tif": {},
        "z.tif": {"tile": (16, 16), "compression": "zlib"},
        "lzw.tif": {"rowsperstrip": 5, "compression": "lzw", "predictor": True},
        "j.tif": {"compression": "jpeg"},
        "zstd.tif": {"compression": "zstd", "tile": (32, 32)},
        "big.tif": {"bigtiff": True},
        "ij.tif": {"imagej": True, "metadata": {"axes": "ZYX", "unit": "nm"}},
        "o.ome.tif": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 4}},
    }
    for name, options in grey.items():
        tifffile.imwrite(folder / name, em, photometric="minisblack", **options)
    tifffile.imwrite(folder / "ids.tif", lab, photometric="minisblack")
    tifffile.imwrite(folder / "rgb.tif", np.stack([em[0]] * 3, -1), photometric="rgb")
    for name in ("a.png", "a.jpg"):
        Image.fromarray(em[0]).save(folder / name)
    for name in ("a.mrc", "a.h5", "a.zarr"):
        save_stack(folder / name, em, voxel_size_nm=(40, 4, 4))
    save_stack(folder / "v2.zarr", em, format="zarr-0.4", voxel_size_nm=(40, 4, 4))
    zarr.create_array(folder / "plain.zarr", data=em, chunks=(2, 16, 16))
    np.save(folder / "a.npy", em)
    np.save(folder / "f.npy", np.asfortranarray(em))
    for name in ("a.dm3", "a.dm4"):
        write_dm(folder / name, em)
    _mrc(folder / "b.mrc")
    _hdf5(folder / "c.h5")
    for name, packer in (("a.tif.gz", gzip), ("b.mrc.bz2", bz2)):
        raw = (folder / Path(name).stem).read_bytes()
        (folder / name).write_bytes(packer.compress(raw))
    _zip(folder / "plain.zarr", folder / "z.zarr.zip")
    _sections(folder / "sections", em)


def _mrc(path: Path) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.arange(4 * 48 * 56, dtype=np.int16).reshape(4, 48, 56))
        mrc.voxel_size = 40


def _hdf5(path: Path) -> None:
    data = np.arange(4 * 48 * 56, dtype=np.uint16).reshape(4, 48, 56)
    with h5py.File(path, "w") as file:
        packed = {"chunks": (2, 16, 16), "compression": "gzip"}
        raw = file.create_dataset("volumes/raw", data=data, **packed)
        raw.attrs["resolution"] = (40.0, 4.0, 4.0)


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for part in sorted(folder.rglob("*")):
            if part.is_file():
                file.write(part, part.relative_to(folder))


def _sections(folder: Path, em: np.ndarray) -> None:
    folder.mkdir()
    for z, section in enumerate(em):
        Image.fromarray(section).save(folder / f"s{z}.png")


def attempt(whole: Path, chance: random.Random, log: Path) -> tuple[str, str]:
    """Damage a copy and run a command on it.

    Returns
    -------
    wrong
        What went wrong; "" if nothing.
    said
        What was damaged, and the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for beside in BESIDE:
            shutil.copy(whole.parent / beside, place)
        target = place / f"x_{whole.name}"
        if whole.is_dir():
            shutil.copytree(whole, target)
        else:
            shutil.copy(whole, target)
        if whole.suffix == ".emseg":
            shutil.copytree(whole, place / "other.emseg")
        victim = victim_of(target, chance)
        victim.write_bytes(mutate(victim.read_bytes(), chance))
        command = chance.choice(NAMES.get(whole.name, IMAGE))
        words = [target.name if w == "X" else w for w in command.split()]
        wrong = _in_child(words, place, log)
        said = f"{whole.name}/{victim.name}: {' '.join(words)}"
        if wrong:
            kept = log.parent / f"bad-{chance.randrange(10**9)}"
            shutil.copytree(place, kept, symlinks=True)
            said += f"  [kept in {kept}]"
        return wrong, said


def victim_of(target: Path, chance: random.Random) -> Path:
    """Choose a file to damage; in folders mostly one of notes."""
    if target.is_file():
        return target
    files = sorted(p for p in target.rglob("*") if p.is_file())
    ends = (".json", ".jsonl", ".zarray", ".zattrs", ".zgroup")
    notes = [p for p in files if p.name.endswith(ends)]
    return chance.choice(notes if notes and chance.random() < 0.6 else files)


def _in_child(words: list[str], place: Path, log: Path) -> str:
    pid = os.fork()
    if pid == 0:
        _child(words, place, log)
    _, status, usage = os.wait4(pid, 0)
    text = log.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGALRM, signal.SIGXCPU)
        return "hang" if hung else f"signal {number}"
    if os.WEXITSTATUS(status) == 77 or "Traceback" in text:
        lines = text.strip().splitlines()
        return "traceback: " + (lines[-1] if lines else "")
    if usage.ru_maxrss * 1024 > MOST_BYTES:
        return f"memory: {usage.ru_maxrss / 2**20:.1f} GiB"
    return ""


def _child(words: list[str], place: Path, log: Path) -> None:
    code = 77
    try:
        os.chdir(place)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        # what counts is work: the machine may be busy with something else
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        signal.alarm(6 * SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = main(words)
        sys.stderr.flush()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:  # noqa: BLE001 - all of them are counted
        traceback.print_exc()
        sys.stderr.flush()
        code = 77
    os._exit(code)


def run(seed: int, tries: int, folder: Path, only: str = "") -> list[tuple[str, str]]:
    """Run so many tries; return those that went wrong."""
    home = folder / "home"
    home.mkdir(parents=True)
    # in a process of its own: threads that a run has started don't survive a fork
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            write_whole_files(home)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        msg = "whole files could not be written"
        raise RuntimeError(msg)
    for name in COMMANDS:  # once, and not in every try
        import_module(f"napari_emseg.cli.{MODULES.get(name, name)}")
    whole = [p for p in sorted(home.iterdir()) if p.name not in BESIDE[:2]]
    whole = [p for p in whole if only in p.name]
    chance = random.Random(seed)
    found = []
    for nth in range(tries):
        wrong, said = attempt(chance.choice(whole), chance, folder / "log.txt")
        (folder / "progress").write_text(f"{nth + 1} of {tries}\n")
        if wrong:
            found.append((wrong, said))
            sys.stdout.write(json.dumps([nth, wrong, said]) + "\n")
            sys.stdout.flush()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--only", default="", help="a part of a whole file's name")
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    where = given.folder or Path(tempfile.mkdtemp(prefix="mutations-"))
    bad = run(given.seed, given.tries, where, given.only)
    sys.stdout.write(f"{given.tries} tries, {len(bad)} went wrong; see {where}\n")
    sys.exit(bool(bad))
