#!/usr/bin/python3
"""Seeds of mean-field inference on two moons beside PyMC's mean-field ADVI in the same run: networks with biases, full batch and
batches of 50, and the network without biases.

usage: compare.py moons.csv [--seeds 10] [--rival-seeds 3] [--credence build/credence] [--output FILE]

moons.csv: columns x1, x2, y, split. Needs the environment of experiments/prepare. PyMC fits with its default optimizer and with
Adam at 0.01; its time is that of the fit alone, ours that of the whole command.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMON = ["--likelihood", "bernoulli", "--noise", "shared", "--kl-warmup", "0.3"]
FULL = ["--batch", "500", "--steps", "12000", "--lr", "0.02"]
LIMITS = {"each accuracy >= 95 %": lambda rows: min(row[1] for row in rows) >= 0.95,
          "median NLL <= 0.125": lambda rows: statistics.median(row[2] for row in rows) <= 0.125,
          "each -ELBO <= 126": lambda rows: max(row[3] for row in rows) <= 126.0}
BEST = {"best -ELBO <= 112.2": lambda rows: min(row[3] for row in rows) <= 112.2}
# Ours, PyMC's, how many seeds more than asked for, what must hold.
CONFIGURATIONS = {
    "full batch": (["--network", "mlp:5,5,tanh", *FULL], dict(steps=30000, batch=None, biases=True), 0, LIMITS),
    "batches of 50": (["--network", "mlp:5,5,tanh", "--batch", "50", "--steps", "20000", "--lr", "0.02"],
                      dict(steps=40000, batch=50, biases=True), 0, LIMITS),
    "full batch, without biases": (["--network", "mlp:5,5,tanh,nobias", "--batch", "500", "--steps", "20000", "--lr", "0.02"],
                                   dict(steps=30000, batch=None, biases=False), 6, BEST),
}


def credence(executable, data, options, seed):
    folder = tempfile.mkdtemp(prefix="credence-moons-")
    try:
        command = [executable, "train", "--data", f"csv:{data}", *COMMON, *options, "--seed", str(seed), "--threads", "1",
                   "--checkpoint-every", "1000000", "--progress", "none", "--out", folder]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        output = subprocess.run([executable, "evaluate", "--checkpoint", folder, "--elbo", "--samples", "200", "--threads",
                                 "1", "--json"], check=True, capture_output=True, text=True).stdout
        metrics = json.loads(output.splitlines()[-1])
        return seconds, metrics["accuracy"], metrics["nll"], -metrics["elbo"]["elbo"]
    finally:
        shutil.rmtree(folder)


def advi(table, rival, adam, seed):
    """PyMC's mean-field ADVI on the same network and priors; time of the fit alone."""
    import pymc as pm
    import pytensor.tensor as pt

    train, test, batch = table["train"], table["test"], rival["batch"]
    shapes = [("w1", (2, 5)), ("w2", (5, 5)), ("w3", (5, 1))]
    if rival["biases"]:
        shapes += [("b1", (5,)), ("b2", (5,)), ("b3", (1,))]

    def logits(x, w, maths):
        hidden = maths.tanh(maths.tanh(x @ w["w1"] + w.get("b1", 0.0)) @ w["w2"] + w.get("b2", 0.0))
        return (hidden @ w["w3"] + w.get("b3", 0.0))[..., 0]

    generator = np.random.default_rng(seed)
    with pm.Model():
        weights = {name: pm.Normal(name, 0.0, 1.0, shape=shape, initval=generator.standard_normal(shape))
                   for name, shape in shapes}
        if batch is None:
            x, y = pt.as_tensor(train[0]), pt.as_tensor(train[1])
        else:
            x, y = pm.Minibatch(train[0], train[1].astype(np.int32), batch_size=batch)
        pm.Bernoulli("y", logit_p=logits(x, weights, pt), observed=y, total_size=len(train[1]))
        began = time.perf_counter()
        approximation = pm.fit(rival["steps"], method="advi", random_seed=seed, progressbar=False,
                               **(dict(obj_optimizer=pm.adam(learning_rate=0.01)) if adam else {}))
        seconds = time.perf_counter() - began
        draws = approximation.sample(1000, random_seed=seed).posterior
    total = np.zeros(len(test[1]))
    for draw in range(1000):
        w = {name: draws[name].values[0, draw] for name, _ in shapes}
        total += 1.0 / (1.0 + np.exp(-logits(test[0], w, np)))
    probability = total / 1000
    nll = -np.mean(np.log(np.where(test[1] == 1, probability, 1 - probability)))
    loss = float(np.mean(approximation.hist[-1000:])) * (1 if batch is None else len(train[1]) / batch)  # PyMC's is of a minibatch
    return seconds, float(np.mean((probability > 0.5) == (test[1] == 1))), float(nll), loss


def read(path):
    table = {"train": [], "test": []}
    with open(path) as file:
        for row in csv.DictReader(file):
            table[row["split"]].append((float(row["x1"]), float(row["x2"]), int(row["y"])))
    return {split: (np.array([r[:2] for r in rows]), np.array([r[2] for r in rows])) for split, rows in table.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rival-seeds", type=int, default=3)
    parser.add_argument("--credence", default=str(ROOT / "build/credence"))
    parser.add_argument("--output", default=str(pathlib.Path(__file__).with_name("results-pymc.txt")))
    options = parser.parse_args()
    if "pymc" not in sys.modules and os.environ.get("CREDENCE_EXPERIMENTS") != "1":
        python = subprocess.run([ROOT / "experiments/prepare"], check=True, capture_output=True, text=True).stdout.strip()
        os.execve(python, [python, *sys.argv], dict(os.environ, CREDENCE_EXPERIMENTS="1", OMP_NUM_THREADS="1"))
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    say(f"{datetime.date.today()}, commit {commit}, {os.cpu_count()} processors, one thread each")
    table = read(options.data)
    for name, (arguments, rival, more, limits) in CONFIGURATIONS.items():
        ours = [credence(options.credence, options.data, arguments, seed) for seed in range(options.seeds + more)]
        theirs = {label: [advi(table, rival, adam, seed) for seed in range(options.rival_seeds)]
                  for label, adam in (("PyMC, Adam 0.01", True), ("PyMC, defaults", False))}
        say(f"\n{name}: {' '.join([*arguments, *COMMON])}")
        say(f"{'seed':>6} {'seconds':>8} {'accuracy':>9} {'NLL':>7} {'-ELBO':>8}")
        for seed, row in enumerate(ours):
            say(f"{seed:>6} {row[0]:8.2f} {row[1]:9.3f} {row[2]:7.4f} {row[3]:8.2f}")
        for label, rows in dict({"ours": ours}, **theirs).items():
            seconds, accuracy, nll, elbo = zip(*rows)
            say(f"{label}: median {statistics.median(seconds):.2f} s, accuracy {min(accuracy):.3f} to {max(accuracy):.3f}, NLL "
                f"median {statistics.median(nll):.4f}, -ELBO {min(elbo):.2f} to {max(elbo):.2f} (median "
                f"{statistics.median(elbo):.2f})")
        checks = {check: holds(ours) for check, holds in limits.items()}
        checks["less time than PyMC"] = statistics.median(row[0] for row in ours) < min(
            statistics.median(row[0] for row in rows) for rows in theirs.values())
        checks["best -ELBO no worse than PyMC's"] = min(row[3] for row in ours) <= min(
            row[3] for rows in theirs.values() for row in rows)
        say(", ".join(f"{check}: {'met' if good else 'MISSED'}" for check, good in checks.items()))
    pathlib.Path(options.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
