"""Draw and tabulate what `annotate_retrain.py` found.

`python benchmarks/annotate_plot.py` reads `results/annotate_retrain.json` and writes
the picture and the tables of `docs/benchmarks/annotate-retrain.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from annotate_retrain import FULL
from matplotlib.axes import Axes
from pages import DOCS, put, table

PAGE = "benchmarks/annotate-retrain.md"
RESULT = Path(__file__).resolve().parent / "results" / "annotate_retrain.json"
Row = dict[str, Any]
TASKS = {
    "fib25": "fib25 (fly, FIB-SEM)",
    "cortex": "cortex (mouse, SEM)",
    "vnc": "VNC (fly, ssTEM)",
}
WAYS = {
    "suggested": ("suggested places", "#0072b2", "o"),
    "random": ("random places", "#e69f00", "s"),
    "forest": ("random forest, suggested places", "#009e73", "^"),
}
GOALS = {"full": "all pixels", "converged": "all pixels, longer"}
SCORES = ("v_rand", "v_rand_at_threshold", "v_info", "vi")
SCORED = "v_rand"
LOWEST = 0.05
"""So far below the start the picture of V_Rand ends."""

DRAWS = 5000


def rounds(rows: list[Row], task: str, way: str) -> dict[int, list[Row]]:
    """Return the rows of each round, one for each seed."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        if (row["task"], row["way"]) == (task, way) and "v_rand" in row:
            found.setdefault(row["round"], []).append(row)
    return dict(sorted(found.items()))


def one(rows: list[Row], task: str, way: str) -> Row | None:
    """Return the row of a way that has one only; None if it isn't done."""
    return next((r for r in rows if (r["task"], r["way"]) == (task, way)), None)


def way_gone(row: Row, start: Row, full: Row | None) -> str:
    """Say how much of the way from the start to a fully supervised score it is."""
    if full is None or row["vi"] > 2 * start["vi"]:
        return "-"
    parts = ((row[k] - start[k]) / (full[k] - start[k]) for k in SCORES)
    return " / ".join(f"{100 * part:.0f}" for part in parts) + " %"


def better_by(a: list[Row], b: list[Row], key: str) -> tuple[float, float, float, int]:
    """Return mean difference, 95 % interval and number of seeds that both have.

    The bootstrap draws seeds and, the same for both, sections.
    """
    other = {row["seed"]: row for row in b}
    pairs = [(row, other[row["seed"]]) for row in a if row["seed"] in other]
    d = np.array([np.subtract(x[key], y[key]) for x, y in pairs])
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, d.shape[0], (DRAWS, d.shape[0]))
    sections = rng.integers(0, d.shape[1], (DRAWS, d.shape[1]))
    means = d[seeds[:, :, None], sections[:, None, :]].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(d.mean()), float(low), float(high), len(pairs)


def draw(rows: list[Row]) -> None:
    """Draw scores against what was labelled, and against the annotator's minutes."""
    tasks = [task for task in TASKS if one(rows, task, "start")]
    figure, axes = plt.subplots(
        len(tasks), 4, figsize=(14, 3.2 * len(tasks)), squeeze=False
    )
    for line, task in zip(axes, tasks, strict=True):
        curve(line[0], rows, task, "share", "v_rand")
        curve(line[1], rows, task, "share", "v_rand_at_threshold")
        curve(line[2], rows, task, "share", "vi")
        curve(line[3], rows, task, "minutes", "v_rand_at_threshold")
        line[0].set_title(TASKS[task], loc="left", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=6, loc=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(DOCS / "images" / "retrain-loop.png", dpi=110)


def curve(axes: Axes, rows: list[Row], task: str, x: str, y: str) -> None:
    """Draw all ways: seeds thin, their mean thick; what is fixed as lines."""
    start = one(rows, task, "start")
    factor = 100 if x == "share" else 1
    for way, (words, colour, marker) in WAYS.items():
        found = rounds(rows, task, way)
        known = [r for part in found.values() for r in part]
        told = known and all(x in r for r in known)
        unfair = way == "forest" and y != SCORED  # its threshold is nobody's choice
        if start is None or unfair or not told:
            continue
        for seed in sorted({r["seed"] for r in known}):
            mine = [start, *(r for r in known if r["seed"] == seed)]
            points = [factor * r[x] for r in mine], [r[y] for r in mine]
            axes.plot(*points, color=colour, lw=0.6, alpha=0.5)
        middle = [[start], *found.values()]
        axes.plot(
            [factor * mean(r[x] for r in part) for part in middle],
            [mean(r[y] for r in part) for part in middle],
            color=colour,
            marker=marker,
            ms=4,
            label=words,
        )
    for (way, words), style in zip(GOALS.items(), ("--", ":"), strict=True):
        row = one(rows, task, way)
        if row is not None:
            axes.axhline(row[y], color="0.3", ls=style, lw=1, label=words)
    first = one(rows, task, "start")
    if first is not None and y != "vi":  # the forest may lie far below
        axes.set_ylim(bottom=max(axes.get_ylim()[0], first[y] - LOWEST))
    names = {"share": "labelled, % of the pixels", "minutes": "annotator's minutes"}
    axes.set_xlabel(names[x], fontsize=8)
    scores = {"v_rand": "V_Rand", "v_rand_at_threshold": "V_Rand as shown"}
    axes.set_ylabel(scores.get(y, "VI, bits"), fontsize=8)
    axes.tick_params(labelsize=7)


def scores_table(rows: list[Row]) -> str:
    """Tabulate each way after its last round, beside what is fixed."""
    lines = []
    for task in TASKS:
        start = one(rows, task, "start")
        if start is None:
            continue
        goals = [one(rows, task, way) for way in GOALS]
        lines.append([task, "nothing: the start", "0", "-", *numbers(start), "-", "-"])
        for way, (words, _, _) in WAYS.items():
            found = rounds(rows, task, way)
            for number, part in found.items():
                middle = {k: mean(r[k] for r in part) for k in SCORES}
                timed = "minutes" in part[0]
                lines.append(
                    [
                        task,
                        f"{words}, round {number}, {counted(len(part), 'seed')}",
                        f"{mean(r['share'] for r in part):.1%}",
                        f"{mean(r['minutes'] for r in part):.1f}" if timed else "-",
                        *numbers(middle),
                        *(way_gone(middle, start, goal) for goal in goals),
                    ]
                )
        for row in goals:
            if row is not None:
                words = f"all pixels, {row['steps']} steps"
                lines.append([task, words, "100 %", "-", *numbers(row), "-", "-"])
    head = ("tissue", "learns from", "labelled", "minutes", "V_Rand", "as shown")
    ways = ("V_Info", "VI", "of the way", "of the way, six times")
    return table((*head, *ways), lines)


def numbers(row: Row) -> list[str]:
    """Return the scores in words."""
    return [f"{row[k]:.2f}" if k == "vi" else f"{row[k]:.3f}" for k in SCORES]


def counted(n: int, what: str) -> str:
    """Say a number of things."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def differences_table(rows: list[Row]) -> str:
    """Tabulate suggested against random, and against the forest, round by round."""
    lines = []
    for task in TASKS:
        best = rounds(rows, task, "suggested")
        for other in ("random", "forest"):
            against = rounds(rows, task, other)
            for number in sorted(set(best) & set(against)):
                cells = [task, str(number), WAYS[other][0]]
                for key in ("v_rand_by_section", "vi_by_section"):
                    d, low, high, n = better_by(best[number], against[number], key)
                    cells.append(f"{d:+.3f} ({low:+.3f} to {high:+.3f})")
                lines.append([*cells, str(n)])
    head = ("tissue", "round", "suggested places against", "V_Rand", "VI", "seeds")
    return table(head, lines)


def at_minutes(rows: list[Row], start: Row, seed: int, minutes: float) -> list[float]:
    """Return VI of each section after so many of the annotator's minutes, one seed.

    Between two rounds it is taken to change evenly.
    """
    mine = [start, *(r for r in rows if r["seed"] == seed)]
    clock = [r["minutes"] for r in mine]
    sections = np.array([r["vi_by_section"] for r in mine])
    return [float(np.interp(minutes, clock, values)) for values in sections.T]


def equal_time_table(rows: list[Row]) -> str:
    """Tabulate VI at suggested places, at random and with nothing learnt at all.

    After as many of the annotator's minutes as the faster way took for all its rounds.
    """
    lines = []
    for task in TASKS:
        start = one(rows, task, "start")
        ways = {
            way: [r for part in rounds(rows, task, way).values() for r in part]
            for way in ("suggested", "random")
        }
        seeds = {r["seed"] for r in ways["suggested"]} & {
            r["seed"] for r in ways["random"]
        }
        if start is None or not seeds:
            continue
        found: dict[str, list[Row]] = {"suggested": [], "random": [], "nothing": []}
        shared = []
        for seed in sorted(seeds):
            ends = (
                max(r["minutes"] for r in part if r["seed"] == seed)
                for part in ways.values()
            )
            shared.append(min(ends))
            for way, part in ways.items():
                vi = at_minutes(part, start, seed, shared[-1])
                found[way].append({"seed": seed, "vi": vi})
            found["nothing"].append({"seed": seed, "vi": start["vi_by_section"]})
        for other in ("random", "nothing"):
            d, low, high, n = better_by(found["suggested"], found[other], "vi")
            words = "random places" if other == "random" else "nothing learnt"
            middle = f"{mean(shared):.1f}"
            numbers = f"{d:+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append([task, middle, words, numbers, str(n)])
    head = ("tissue", "minutes", "suggested places against", "VI", "seeds")
    return table(head, lines)


def kept_table(rows: list[Row]) -> str:
    """Tabulate what was lost where the weights were good before."""
    lines = []
    for row in rows:
        if "kept" not in row:
            continue
        kept = row["kept"]
        old = kept["old_data"]
        lines.append(
            [
                f"{row['task']}, {row['way']}, seed {row['seed']}",
                in_words(kept["all"]),
                in_words(kept["good_before"]),
                f"{old['before']:.4f} → {old['after']:.4f}",
            ]
        )
    head = ("weights", "V_Rand, uncorrected sections", "of these: good before")
    return table((*head, "ISBI 2012, held out"), lines)


def in_words(part: Row | None) -> str:
    """Say a difference with its interval."""
    if part is None:
        return "-"
    return (
        f"{part['mean']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f}), "
        f"{counted(part['n'], 'section')}"
    )


def times_table(rows: list[Row]) -> str:
    """Tabulate what a round takes."""
    lines = []
    for task in TASKS:
        known = [r for part in rounds(rows, task, "suggested").values() for r in part]
        for what in ("choose", "learn"):
            wall, cpu = (
                [r[f"{clock}_to_{what}"] for r in known]
                for clock in ("seconds", "cpu_seconds")
            )
            if known:
                lines.append(
                    [
                        f"{task}, to {what}",
                        f"{mean(wall):.0f} s, at most {max(wall):.0f} s",
                        f"{mean(cpu):.0f} s, at most {max(cpu):.0f} s",
                    ]
                )
    return table(("a round", "on the clock", "processor time"), lines)


def unfinished(rows: list[Row]) -> str:
    """Say what of the plan isn't measured yet."""
    missing = []
    for task, way, seed in FULL.pieces:
        wanted = 1 if way in GOALS else FULL.rounds
        mine = (task.name, way, seed)
        done = sum(
            (r["task"], r["way"], r["seed"]) == mine for r in rows if SCORED in r
        )
        if done < wanted:
            words = WAYS[way][0] if way in WAYS else GOALS[way]
            missing.append(f"{task.name}, {words}, seed {seed}: {done} of {wanted}")
    return (
        f"**Not measured yet**: {'; '.join(missing)}."
        if missing
        else "All is measured."
    )


def main() -> None:
    """Read, draw and write."""
    rows = json.loads(RESULT.read_text())["rows"]
    draw(rows)
    put(PAGE, "loop scores", scores_table(rows))
    put(PAGE, "loop differences", differences_table(rows))
    put(PAGE, "loop equal time", equal_time_table(rows))
    put(PAGE, "loop kept", kept_table(rows))
    put(PAGE, "loop times", times_table(rows))
    put(PAGE, "loop state", unfinished(rows))


if __name__ == "__main__":
    main()
