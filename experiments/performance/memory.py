#!/usr/bin/python3
"""Peak memory of training ResNet-50, mean-field against point, between checkpoints: bytes a parameter more.

usage: memory.py [--data fashion-mnist] [--network resnet50] [--batch 4] [--credence build/credence]
"""

import argparse
import datetime
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 8  # memory no longer grows after the first few


def peak(options, posterior):
    """VmHWM in bytes once STEPS steps are done, and the number of parameters; the run is then killed, before it saves."""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.credence, "train", "--data", options.data, "--network", options.network, "--batch", str(options.batch),
                   "--threads", "2", "--steps", "100000", "--checkpoint-every", "1000000", "--log-every", "1", "--out", folder,
                   "--posterior", posterior]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                                   env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))
        try:
            parameters = 0
            for line in process.stderr:
                if found := re.search(r"(\d+) parameters", line):
                    parameters = int(found[1])
                if re.match(rf"step {STEPS}/", line):
                    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]), parameters
            raise SystemExit(f"{' '.join(command)}\nended with {process.wait()}")
        finally:
            process.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--credence", default=str(ROOT / "build/credence"))
    options = parser.parse_args()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    point, parameters = peak(options, "point")
    gaussian, _ = peak(options, "mean-field")
    more = (gaussian - point) / parameters
    lines = [f"{datetime.date.today()}, commit {commit}, {options.network} on {pathlib.Path(options.data).name}, batch {options.batch}, one rank, one shard",
             f"peak memory: point {point / 1e6:.0f} MB, mean-field {gaussian / 1e6:.0f} MB, {parameters} parameters: "
             f"{more:.1f} bytes a parameter more, target <= 20  {'met' if more <= 20 else 'MISSED'}"]
    print("\n".join(lines))
    with pathlib.Path(__file__).with_name("results-memory.txt").open("a") as file:
        file.write("\n".join(lines) + "\n")


main()
