#!/usr/bin/python3
"""Step times as ratios measured in one run: mean-field over point, point over PyTorch, two ranks over DDP, saving.

usage: benchmark.py [--rounds 5] [--credence build/credence] [--output FILE] [--images FILE.h5] [--small-images FILE.h5]

The two sides of a ratio run in turn, A B A B ...; the ratio is that of the medians over rounds of each run's median step.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
RIVAL = pathlib.Path(__file__).with_name("rival.py")
CASES = [("lenet5", 256, 300, 1.15), ("mlp:1200,1200", 128, 200, 1.8), ("resnet20", 128, 40, 1.1)]
VISION_CASES = [("resnet50", "images", 4, 12, 1.2), ("resnet18:cifar", "small_images", 32, 30, 1.1)]  # network, data, ...
ENSEMBLE_CASES = [("lenet5", 256, 150), ("mlp:1200,1200", 256, 100)]
DDP_CASES = [("mlp:1200,1200", 256, 200, 1.3), ("resnet20", 256, 30, 1.0)]
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


class Bench:
    def __init__(self, credence, python, rounds):
        self.credence, self.python, self.rounds = credence, python, rounds
        self.lines = []

    def say(self, line=""):
        print(line, flush=True)
        self.lines.append(line)

    def ours(self, network, batch, steps, threads, ranks=1, options=()):
        """Median step in seconds after the first fifth, and the shares of a run's columns."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="credence-bench-"))
        command = [self.credence, "train", "--network", network, "--batch", str(batch), "--steps", str(steps), "--threads",
                   str(threads), "--progress", "none", "--out", str(folder), *(options if "--checkpoint-every" in options else ("--checkpoint-every", "1000000", *options))]
        if ranks > 1:
            command = ["mpirun", "-np", str(ranks), "--bind-to", "core", *command]
        try:
            subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
            with h5py.File(sorted(folder.glob("checkpoint-*.h5"))[-1]) as file:
                skip = min(20, steps // 4)
                step_seconds = np.diff(file["history/seconds"][()])[skip:]
                waits = file["timing/communication_seconds"][()][skip + 1:]
                saving = file["timing/checkpoint_seconds"][()][1:].sum() / file["history/seconds"][-1]
                return float(np.median(step_seconds)), float(np.median(waits)), float(saving)
        finally:
            shutil.rmtree(folder)

    def rival(self, network, batch, steps, threads, ranks=1):
        arguments = [self.python, str(RIVAL), network, str(batch), str(steps), str(threads)]
        if ranks == 1:
            output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
            return json.loads(output.splitlines()[-1])["median_seconds"]
        port = str(20000 + os.getpid() % 20000)
        processes = [subprocess.Popen(["taskset", "-c", str(rank), *arguments, str(rank), str(ranks), port],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(ranks)]
        outputs = [process.communicate(timeout=500)[0] for process in processes]
        return json.loads(outputs[0].splitlines()[-1])["median_seconds"]

    def compare(self, label, first, second, target, invert=False):
        a, b = [], []
        for _ in range(self.rounds):
            a.append(first())
            b.append(second())
        pairs = [(x / y if not invert else y / x) for x, y in zip(a, b)]
        a, b = statistics.median(a), statistics.median(b)
        ratio = b / a if invert else a / b
        verdict = ""
        if target is not None:
            good = ratio >= target if invert else ratio <= target
            verdict = f"{'>=' if invert else '<='} {target}  {'met' if good else 'MISSED'}"
        self.say(f"{label:<46} {1e3 * a:8.2f} {1e3 * b:8.2f} {ratio:7.3f} {min(pairs):6.3f}..{max(pairs):.3f}  {verdict}".rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--credence", default=str(ROOT / "build/credence"))
    parser.add_argument("--output", default=str(pathlib.Path(__file__).with_name("results.txt")))
    parser.add_argument("--only", default="", help="overhead, rival, vision, ensemble, ddp, saving")
    parser.add_argument("--network", default="", help="this one only")
    parser.add_argument("--images", default="", help="a packed file of images for resnet50 at 224 pixels")
    parser.add_argument("--small-images", default="", help="a packed file of images of 32 pixels for resnet18:cifar")
    options = parser.parse_args()
    python = subprocess.run([ROOT / "experiments/prepare"], check=True, capture_output=True, text=True).stdout.strip()
    bench = Bench(options.credence, python, options.rounds)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    bench.say(f"{datetime.date.today()}, commit {commit}, {model}, {os.cpu_count()} processors, {platform.system()}, "
              f"{options.rounds} rounds")
    bench.say(f"{'ratio':<46} {'A, ms':>8} {'B, ms':>8} {'A/B':>7} {'of pairs':>14}  target")
    wanted = lambda part, network="": (not options.only or part in options.only) and options.network in ("", network)
    for network, batch, steps, target in CASES:
        if wanted("overhead", network):
            bench.compare(f"mean-field / point, {network}, batch {batch}",
                          lambda: bench.ours(network, batch, steps, 2)[0],
                          lambda: bench.ours(network, batch, steps, 2, options=("--posterior", "point"))[0], target)
    for network, batch, steps, _ in CASES:
        if wanted("rival", network):
            bench.compare(f"point / PyTorch, {network}, batch {batch}",
                          lambda: bench.ours(network, batch, steps, 2, options=("--posterior", "point"))[0],
                          lambda: bench.rival(network, batch, steps, 2), 1.03)
    for network, data, batch, steps, target in VISION_CASES:
        if wanted("vision", network) and vars(options)[data]:
            pack = vars(options)[data]
            with h5py.File(pack) as file:
                classes = file.attrs["classes"]
            common = ("--data", f"pack:{pack}", "--augment", "none")
            point = lambda: bench.ours(network, batch, steps, 2, options=(*common, "--posterior", "point"))[0]
            bench.compare(f"mean-field / point, {network}, batch {batch}",
                          lambda: bench.ours(network, batch, steps, 2, options=common)[0], point, target)
            bench.compare(f"point / PyTorch, {network}, batch {batch}", point,
                          lambda: bench.rival(f"{network}@{classes}", batch, steps, 2), 1.03)
    for network, batch, steps in ENSEMBLE_CASES:
        if wanted("ensemble", network):
            bench.compare(f"ensemble:2 on 2 ranks / a member on one, {network}",
                          lambda: bench.ours(network, batch, steps, 1, ranks=2, options=("--posterior", "ensemble:2"))[0],
                          lambda: bench.ours(network, batch, steps, 1)[0], None)
            bench.compare(f"ensemble:2 / mean-field, 2 ranks, {network}",
                          lambda: bench.ours(network, batch, steps, 1, ranks=2, options=("--posterior", "ensemble:2"))[0],
                          lambda: bench.ours(network, batch, steps, 1, ranks=2)[0], None)
    for network, batch, steps, target in DDP_CASES:
        if wanted("ddp", network):
            waits = []

            def two_ranks():
                seconds, wait, _ = bench.ours(network, batch, steps, 1, ranks=2)
                waits.append(wait / seconds)
                return seconds

            bench.compare(f"images/s over DDP, 2 ranks, {network}, batch {batch}, mean-field", two_ranks,
                          lambda: bench.rival(network, batch, steps, 1, ranks=2), target, invert=True)
            bench.compare(f"images/s over DDP, 2 ranks, {network}, batch {batch}, point",
                          lambda: bench.ours(network, batch, steps, 1, ranks=2, options=("--posterior", "point"))[0],
                          lambda: bench.rival(network, batch, steps, 1, ranks=2), target, invert=True)
            bench.say(f"    communication not hidden, mean-field: {100 * statistics.median(waits):.1f} % of the step")
    if wanted("saving"):
        shares = [bench.ours("lenet5", 256, 940, 1, ranks=2, options=("--checkpoint-every", "235"))[2]
                  for _ in range(min(options.rounds, 3))]
        share = statistics.median(shares)
        bench.say(f"checkpoint every epoch, lenet5: training held up for {100 * share:.2f} % of the time, target <= 2 %  "
                  f"{'met' if share <= 0.02 else 'MISSED'}")
    pathlib.Path(options.output).write_text("\n".join(bench.lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
