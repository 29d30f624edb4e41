"""Time the predictor beside MONAI: `python benchmarks/inference.py --threads 1`.

The same weights, runtime and memory format on the same section, alternating runs, from
grey values as stored to membrane probability:

- ours: `Predictor.run`
- monai: SlidingWindowInferer, windows of 512² px, overlap 0.25, Gaussian weights
- ours in bf16 and int8, where the CPU and its packages have them
- once: one pass over the picture mirrored by the network's context, without tiles

At the large size all get the same memory: ours is given the largest tile whose measured
peak is no higher than MONAI's. Writes results/inference-DEVICE.json and the table of
docs/speed.md. Needs `napari-emseg[bench]`.

`--device cuda` does it on a GPU, in float16 as runs do, within ten minutes, and times
the network alone in several ways (float16, channels last, compiled, as a CUDA graph).
`--dry-run` goes through all of it with small pictures, on a machine without a GPU too,
and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from machine import describe
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import Predictor, estimate
from napari_emseg.inference.openvino_runtime import cpu_facts, import_openvino
from napari_emseg.models.forward import to_probabilities
from napari_emseg.models.weights import Weights, load_weights
from napari_emseg.sample import vnc

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs" / "speed.md"

ROI = 512
OVERLAP = 0.25
STEP = 64
"""Tiles of the same memory are found to so many pixels."""

SECONDS = {"cpu": 1800, "cuda": 120}
"""Runs at one size are repeated for no longer than this."""

WHAT = {"ours": "overlap-tile", "monai": "MONAI", "once": "one pass"}

Picture = NDArray[np.uint8]
Run = Callable[[], NDArray[np.float32]]
Network = Callable[[torch.Tensor], torch.Tensor]


def section(side: int) -> Picture:
    """Return real EM, mirrored to a square of this side."""
    picture = vnc().section(0)
    while min(picture.shape) < side:
        picture = np.pad(picture, [(0, n - 1) for n in picture.shape], mode="reflect")
    return np.ascontiguousarray(picture[:side, :side])


def settings_for(runtime: str, options: argparse.Namespace) -> PredictSettings:
    """Return the settings that all cases of a runtime share."""
    return PredictSettings(
        device=options.device,
        runtime="auto" if options.device == "cuda" else runtime,
        threads=options.threads,
        tile=options.tile,
        precision="auto" if options.half else "float32",
        rescale=False,
        invert="no",
    )


def ours(predictor: Predictor, picture: Picture, settings: PredictSettings) -> Run:
    """Return the job by overlap-tile."""
    stack = Stack(picture[None])

    def run() -> NDArray[np.float32]:
        found = drain(predictor.run(stack, settings=settings)).probabilities
        return np.zeros(0, np.float32) if found is None else found[0]

    return run


def grey(picture: Picture, weights: Weights) -> NDArray[np.float32]:
    """Return normalised grey values by the weights' own rule."""
    return normalise(picture, section_range(picture, weights.card.normalisation))


def whole(name: str, weights: Weights, options: argparse.Namespace) -> Network:
    """Return the network on windows as they are: probabilities `(n, c, y, x)`."""
    network = weights.network().to(options.device)
    if name == "openvino":
        return on_openvino(network, options.threads)
    form = torch.contiguous_format if "as it comes" in name else torch.channels_last
    network = network.to(memory_format=form)

    def run(values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(options.device, dtype=torch.float16, enabled=options.half):
            logits = network(values.contiguous(memory_format=form))
        return to_probabilities(logits, network)

    return run


def on_openvino(network: torch.nn.Module, threads: int) -> Network:
    """Return the whole network on OpenVINO, as our runtime has its inner part."""
    openvino = import_openvino()

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return to_probabilities(self.network(x), self.network)

    example = torch.zeros(1, 1, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(Probabilities().eval(), example, check_trace=False)
    model = openvino.convert_model(traced, input=[-1, 1, -1, -1])
    wanted = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", wanted)
    return lambda values: torch.from_numpy(compiled(values.numpy())[0])


def once(network: Network, weights: Weights, picture: Picture, device: str) -> Run:
    """Return the job in one pass."""
    geometry = weights.card.geometry or weights.network().geometry
    halo = geometry.halo
    crop = tuple(slice(halo, halo + n) for n in picture.shape)

    @torch.inference_mode()
    def run() -> NDArray[np.float32]:
        padded = np.pad(grey(picture, weights), halo, mode="reflect")
        values = torch.from_numpy(padded)[None, None].to(device)
        return network(values)[0, 0][crop].cpu().numpy()

    return run


def monai(network: Network, weights: Weights, picture: Picture, device: str) -> Run:
    """Return the job by MONAI's sliding window; on a GPU all of it stays there."""
    inferer = SlidingWindowInferer(
        (ROI, ROI),
        sw_batch_size=1 if device == "cpu" else 8,
        overlap=OVERLAP,
        mode="gaussian",
    )

    @torch.inference_mode()
    def run() -> NDArray[np.float32]:
        values = torch.from_numpy(grey(picture, weights))[None, None].to(device)
        return inferer(values, network)[0, 0].cpu().numpy()

    return run


def reduced(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what else than float32 this CPU and its packages compute in."""
    if options.device == "cuda" or options.dry_run:
        return ()
    bf16 = ("bf16",) if "BF16" in cpu_facts().capabilities else ()
    return (*bf16, "int8") if find_spec("nncf") else bf16


def precision_of(row: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what a row was computed in, by the name of its job."""
    last = row["job"].split()[-1]
    if last in ("bf16", "int8"):
        return last
    return "float16" if found.get("half_precision") else "float32"


def jobs(options: argparse.Namespace, side: int) -> dict[str, Run]:
    """Return what is timed, by name."""
    weights, device = load_weights(options.weights), options.device
    picture = section(side)
    made: dict[str, Run] = {}
    for name in ("torch",) if device == "cuda" else ("torch", "openvino"):
        settings = settings_for(name, options)
        network = whole(name, weights, options)
        made[f"ours, {name}"] = ours(Predictor(weights), picture, settings)
        made[f"monai, {name}"] = monai(network, weights, picture, device)
        made[f"once, {name}"] = once(network, weights, picture, device)
        for precision in reduced(options) if name == "openvino" else ():
            way = settings.model_copy(update={"precision": precision})
            job = f"ours, {name} {precision}"
            made[job] = ours(Predictor(weights), picture, way)
    plain = "torch as it comes"
    network = whole(plain, weights, options)
    made[f"monai, {plain}"] = monai(network, weights, picture, device)
    return made


def timed(made: dict[str, Run], runs: int, most: float) -> dict[str, dict[str, float]]:
    """Return median seconds of alternating runs, by the clock and of the processor.

    No more runs begin after `most` seconds.
    """
    start = perf_counter()
    wall: dict[str, list[float]] = {name: [] for name in made}
    cpu: dict[str, list[float]] = {name: [] for name in made}
    for run in range(runs + 1):
        if run > 1 and perf_counter() - start > most:
            break
        for name, job in made.items():
            began = perf_counter(), process_time()
            job()
            if run > 0:  # the first one warms up
                wall[name].append(perf_counter() - began[0])
                cpu[name].append(process_time() - began[1])
    return {
        name: {
            "seconds": round(median(wall[name]), 4),
            "cpu_seconds": round(median(cpu[name]), 4),
        }
        for name in made
    }


def peak_bytes(options: argparse.Namespace, name: str, side: int, tile: int) -> int:
    """Return how far one job raises the memory of a fresh process."""
    command = [sys.executable, "-W", "ignore", __file__, "--peak", name]
    command += ["--sides", str(side), "--tile", str(tile), "--weights", options.weights]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def print_peak(options: argparse.Namespace) -> None:
    """Run one job, warmed up on a small section, and print by what it raised memory."""
    jobs(options, ROI)[options.peak]()
    job = jobs(options, options.sides[0])[options.peak]
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    job()
    print(_status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(key)).split()[1]) * 1024


def largest_tile(options: argparse.Namespace, name: str, side: int, most: int) -> int:
    """Return the largest tile of `ours` whose measured peak is at most `most` bytes."""
    bytes_per_pixel = load_weights(options.weights).card.bytes_per_pixel or 400
    if "openvino" in name:  # compiled for the shape of its windows
        bytes_per_pixel *= 0.6
    tile = isqrt(int(most / bytes_per_pixel)) // STEP * STEP
    while peak_bytes(options, name, side, tile) > most and tile > ROI:
        tile -= STEP
    while peak_bytes(options, name, side, tile + STEP) <= most:
        tile += STEP
    return tile


def same_memory(options: argparse.Namespace, side: int) -> list[dict[str, Any]]:
    """Return time and measured peak at a size that one tile would be too large for."""
    rows = []
    for name in options.large_runtimes:
        peak = peak_bytes(options, f"monai, {name}", side, ROI)
        tile = largest_tile(options, f"ours, {name}", side, peak)
        options.tile = tile
        every = jobs(options, side)
        beside = {job: run for job, run in every.items() if f"monai, {name}" in job}
        both = {f"ours, {name}": every[f"ours, {name}"], **beside}
        for job, row in timed(both, options.large_runs, SECONDS["cpu"]).items():
            size = tile if job.startswith("ours") else ROI
            row_peak = peak_bytes(options, job, side, size)
            rows.append(
                {"job": job, "side": side, "tile": size, "peak": row_peak, **row}
            )
    options.tile = None
    return rows


def share(
    options: argparse.Namespace, row: dict[str, Any], ms_per_megapixel: float
) -> float:
    """Return what part of a run's time the network alone would take for its windows."""
    weights, settings = load_weights(options.weights), settings_for("torch", options)
    stack = Stack(section(row["side"])[None])
    megapixels = estimate(stack, weights, settings=settings).megapixels
    return round(megapixels * ms_per_megapixel / 1000 / row["seconds"], 3)


def ways(options: argparse.Namespace) -> dict[str, float]:
    """Return ms per megapixel of the network alone, its input being on the device.

    Float16 is bfloat16 without a GPU, where nothing is compiled, either.
    """
    n, side = (1, 64) if options.dry_run else (8, 704)
    device = options.device
    half = torch.float16 if device == "cuda" else torch.bfloat16
    values = torch.rand(n, 1, side, side, device=device)
    network, last = (load_weights(options.weights).network().to(device) for _ in "ab")
    last = last.to(memory_format=torch.channels_last)
    wide = values.to(memory_format=torch.channels_last)
    made: dict[str, Callable[[], object]] = {
        "float32": autocast(network, values, None),
        "float32, channels last": autocast(last, wide, None),
        "float16": autocast(network, values, half),
        CHANNELS_LAST: autocast(last, wide, half),
    }
    if device == "cuda":
        made[f"{CHANNELS_LAST}, compiled"] = autocast(torch.compile(last), wide, half)
        made[f"{CHANNELS_LAST}, CUDA graph"] = graph(made[CHANNELS_LAST])
    found = {}
    for name, job in made.items():
        took = [seconds_of(job, device) for _ in range(options.runs + 3)]
        found[name] = round(1e9 * median(took[3:]) / values.numel(), 3)
    return found


CHANNELS_LAST = "float16, channels last"
"""The way of runs on a GPU."""


def autocast(
    network: Network, values: torch.Tensor, kind: torch.dtype | None
) -> Callable[[], torch.Tensor]:
    """Return a pass of the network, in 16 bits if a kind is named."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with torch.autocast(values.device.type, dtype=kind, enabled=kind is not None):
            return network(values)

    return run


def graph(job: Callable[[], object]) -> Callable[[], None]:
    """Return the job as a CUDA graph, which is launched as a whole."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a few times, as PyTorch asks for
        for _ in range(3):
            job()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        job()
    return captured.replay


def seconds_of(job: Callable[[], object], device: str) -> float:
    """Return the time of one call, to the end of what it began on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = perf_counter()
    job()
    wait()
    return perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that is measured, with the machine."""
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {
        "machine": describe(options.threads),
        "weights": options.weights,
        "device": options.device,
        "half_precision": options.half,
        "rows": [],
    }
    for side in options.sides:
        most = SECONDS[options.device]
        for job, row in timed(jobs(options, side), options.runs, most).items():
            found["rows"].append({"job": job, "side": side, "tile": None, **row})
            found["rows"][-1]["precision"] = precision_of(found["rows"][-1], found)
    if options.device == "cuda" or options.dry_run:
        found["network_alone_ms_per_megapixel"] = alone = ways(options)
        ms = alone[CHANNELS_LAST if options.half else "float32, channels last"]
        for row in found["rows"]:
            if row["job"].startswith("ours"):
                row["share_of_network_only"] = share(options, row, ms)
    elif options.large:
        found["rows"] += same_memory(options, options.large)
    return found


def table(found: dict[str, Any]) -> str:
    """Return the table of docs/speed.md: processor time if only one thread worked."""
    one = found["machine"]["threads"] == 1
    key = "cpu_seconds" if one and found["device"] == "cpu" else "seconds"
    unit = "processor seconds" if key == "cpu_seconds" else "seconds"
    lines = [
        f"| section | what | precision | tile | {unit} | MONAI takes | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    took = {(row["side"], row["job"], row["tile"]): row[key] for row in found["rows"]}
    for row in found["rows"]:
        what, runtime = row["job"].split(", ")
        precision = precision_of(row, found)
        # MONAI has no other than float32 on a CPU
        runtime = runtime.removesuffix(f" {precision}")
        tile = None if row["tile"] is None else ROI
        window = ROI if what == "monai" else row["tile"] or "whole"
        theirs = took[row["side"], f"monai, {runtime}", tile]
        peak = f"{row['peak'] / 1e9:.2f} GB" if "peak" in row else ""
        times = "" if what == "monai" else f"{theirs / row[key]:.2f}×"
        lines.append(
            f"| {row['side']}² | {WHAT[what]}, {runtime} | {precision} | {window} "
            f"| {row[key]:.2f} | {times} | {peak} |"
        )
    return "\n".join(lines)


def write_docs(found: dict[str, Any]) -> None:
    """Put the table between its marks in docs/speed.md."""
    begin, end = (f"<!-- {word} {found['device']} -->" for word in ("begin", "end"))
    text = DOCS.read_text()
    head, rest = text.split(begin)
    body = "\n\n".join([table(found), *across(found), *shares(found)])
    DOCS.write_text(f"{head}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}")


def across(found: dict[str, Any]) -> list[str]:
    """Return how ours on OpenVINO compares with MONAI on PyTorch."""
    took = {(row["side"], row["job"]): row["cpu_seconds"] for row in found["rows"]}
    ours = {
        (side, job.removeprefix("ours, openvino")): s
        for (side, job), s in took.items()
        if job.startswith("ours, openvino")
    }
    return [
        f"{side}²: ours on OpenVINO{kind and f' in{kind}'} is "
        f"{took[side, 'monai, torch'] / seconds:.2f} "
        "times as fast as MONAI on PyTorch, "
        f"{took[side, 'monai, torch as it comes'] / seconds:.2f} times as it comes."
        for (side, kind), seconds in ours.items()
        if (side, "monai, torch as it comes") in took and side > ROI
    ]


def shares(found: dict[str, Any]) -> list[str]:
    """Return, for a GPU, how near the runs come to the network alone."""
    alone = found.get("network_alone_ms_per_megapixel", {})
    words = [
        "The network alone, on windows that are on the GPU already, takes "
        + "; ".join(
            f"{ms:.2f} ms per megapixel in {name}" for name, ms in alone.items()
        )
        + "."
    ]
    return (words if alone else []) + [
        f"{row['side']}²: the network alone, on windows that are on the GPU already, "
        f"would take {row['share_of_network_only']:.0%} of that time."
        for row in found["rows"]
        if "share_of_network_only" in row
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--weights", default="isbi2012-unet")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sides", type=int, nargs="+", help="512 1024; 4096 on a GPU")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large", type=int, default=4096, help="0 leaves it out")
    parser.add_argument("--large-runs", type=int, default=1)
    names = ("torch", "openvino")
    parser.add_argument("--large-runtimes", nargs="+", choices=names, default=names)
    parser.add_argument("--float32", action="store_true", help="on a GPU, too")
    parser.add_argument("--dry-run", action="store_true", help="small, writes nothing")
    parser.add_argument("--tile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry_run:
        options.sides, options.runs, options.large = [64], 1, 0
    if options.device == "cuda" and not torch.cuda.is_available():
        if not options.dry_run:
            parser.error(f"no CUDA device here (PyTorch {torch.__version__})")
        options.device = "cpu"
    options.half = options.device == "cuda" and not options.float32
    options.sides = options.sides or [512, 1024] + [4096] * (options.device == "cuda")
    if options.peak:
        print_peak(options)
        return
    found = measure(options)
    print(table(found), *across(found), *shares(found), sep="\n")
    if options.dry_run:
        return
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"inference-{options.device}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    write_docs(found)


if __name__ == "__main__":
    main()
