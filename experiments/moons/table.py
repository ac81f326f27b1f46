#!/usr/bin/python3
"""Writes the two moons of the experiment's marks as CSV: x1, x2, y, split.

usage: table.py FILE.csv

scikit-learn's make_moons(n_samples=1000, noise=0.2, random_state=0), standardised, halved by
train_test_split(test_size=0.5, random_state=0), with NumPy alone: the same values in float32.
"""

import csv
import hashlib
import sys

import numpy as np

POINTS, NOISE = 1000, 0.2


def moons():
    generator = np.random.RandomState(0)
    t = np.linspace(0.0, np.pi, POINTS // 2)
    points = np.column_stack([np.append(np.cos(t), 1.0 - np.cos(t)), np.append(np.sin(t), 0.5 - np.sin(t))])
    labels = np.repeat([0, 1], POINTS // 2)
    order = np.arange(POINTS)
    generator.shuffle(order)
    points, labels = points[order] + generator.normal(scale=NOISE, size=points.shape), labels[order]
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    order = np.random.RandomState(0).permutation(POINTS)
    test, train = order[: POINTS // 2], order[POINTS // 2:]
    return [(*points[i], labels[i], name) for name, half in (("train", train), ("test", test)) for i in half]


def digest(path):
    """Of what a table of two moons holds, as training reads it: numbers in float32."""
    with open(path, encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    numbers = np.array([[float(row[name]) for name in ("x1", "x2", "y")] for row in rows], dtype="<f4")
    return hashlib.sha256(numbers.tobytes() + "".join(row["split"] for row in rows).encode()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip().splitlines()[2])
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write("x1,x2,y,split\n")
        for x1, x2, label, split in moons():
            file.write(f"{x1:.17g},{x2:.17g},{label},{split}\n")
