"""Truths and predictions drawn with integer arithmetic: the same bytes everywhere.

`synthetic_pairs.json` holds what the challenge's own evaluation says about them.
"""

import json
from pathlib import Path

import numpy as np


def lcg(n, seed):
    """n integers in 0..32767 (the C library's old linear congruential generator)."""
    out, x = np.empty(n, np.int64), seed
    for i in range(n):
        x = (1103515245 * x + 12345) % 2147483648
        out[i] = x >> 16
    return out


def cells(size, count, seed):
    """Voronoi cells of `count` points: 255 inside, 0 on membranes 2-3 px wide."""
    r = lcg(2 * count, seed).reshape(count, 2) * size // 32768
    y, x = np.mgrid[:size, :size]
    d = (y[None] - r[:, 0, None, None]) ** 2 + (x[None] - r[:, 1, None, None]) ** 2
    lab = d.argmin(0)
    m = np.zeros((size, size), bool)
    m[:-1] |= lab[:-1] != lab[1:]
    m[1:] |= lab[:-1] != lab[1:]
    m[:, :-1] |= lab[:, :-1] != lab[:, 1:]
    m[:, 1:] |= lab[:, :-1] != lab[:, 1:]
    return np.where(m, 0, 255).astype(np.uint8)


def boxsum(a, r):
    p = np.pad(a.astype(np.int64), r, mode="edge")
    return sum(
        p[i : i + a.shape[0], j : j + a.shape[1]]
        for i in range(2 * r + 1)
        for j in range(2 * r + 1)
    )


def prob(gt, seed):
    """Blurred ground truth plus smooth noise, float32 multiples of 1/256."""
    n = boxsum(lcg(gt.size, seed).reshape(gt.shape) >> 7, 1)  # 0..2295, 3x3 sum
    v = boxsum(gt > 0, 1) * 24 + (n - 1147) // 10  # 0..216 +- 114
    return (np.clip(v, 0, 256) / 256).astype(np.float32)


def gaps(gt, seed, count, radius):
    p = (gt > 0).astype(np.float32)
    ys, xs = np.nonzero(gt == 0)
    y, x = np.mgrid[: gt.shape[0], : gt.shape[1]]
    for k in lcg(count, seed) * len(ys) // 32768:
        p[(y - ys[k]) ** 2 + (x - xs[k]) ** 2 <= radius**2] = 1
    return p


def bars(gt, seed, count, length):
    p = (gt > 0).astype(np.float32)
    r = lcg(3 * count, seed).reshape(count, 3)
    for a, b, c in r:
        y, x = a * gt.shape[0] // 32768, b * gt.shape[1] // 32768
        if c % 2:
            p[y : y + 2, x : x + length] = 0
        else:
            p[y : y + length, x : x + 2] = 0
    return p


def pairs():
    g = cells(96, 20, 7)
    yield "r01_synth_prob_96", g, prob(g, 11)
    yield "r02_synth_gaps_96", g, gaps(g, 12, 8, 3)
    yield "r03_synth_bars_96", g, bars(g, 13, 10, 40)
    yield (
        "r04_synth_shift_96",
        g,
        (np.roll(np.pad(g, 1, mode="edge"), (1, 1), (0, 1))[1:-1, 1:-1] > 0).astype(
            np.float32
        ),
    )
    s = [cells(64, 12, k) for k in (1, 2, 3)]
    yield (
        "r05_synth_stack_3x64",
        np.stack(s),
        np.stack([prob(s[0], 21), gaps(s[1], 22, 5, 3), bars(s[2], 23, 6, 30)]),
    )


PAIRS = {name: (prediction, truth) for name, truth, prediction in pairs()}
REFERENCE = json.loads(Path(__file__).with_suffix(".json").read_text())
