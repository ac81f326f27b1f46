"""Images/s of `credence pack` over those of libjpeg-turbo alone with as many threads, by the clock: other programs disturb both.

usage: packing.py BUILD FOLDER [THREADS [COPIES [ROUNDS]]]
BUILD holds credence and benchmark_decode; FOLDER one folder of JPEGs a class, of which COPIES (default 8) are packed so that it
takes some seconds; THREADS: default all cores that this process may use. $TMPDIR must hold the copies twice.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

build, folder = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
threads, copies, rounds = (int(text) for text in sys.argv[3:] + [len(os.sched_getaffinity(0)), 8, 3][len(sys.argv) - 3:])
SECONDS = 5.0  # of a measurement of libjpeg-turbo
ROWS = {"pack, bytes as they are (decoded at an eighth)": (0, []),
        "pack, JPEG anew at a short side of 256": (256, ["--encoding", "jpeg", "--short-side", "256"])}


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def packed_rate(source, file, options):
    result = json.loads(output(build / "credence", "pack", f"images:{source}", file, "--loader-threads", threads, "--overwrite", "--json",
                               *options).splitlines()[-1])
    return result["images"] / result["packing_seconds"], result["images"] / result["seconds"]


with tempfile.TemporaryDirectory() as scratch:
    source = pathlib.Path(scratch) / "images"
    source.mkdir()
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        for copy in range(copies):
            (source / f"{name}-{copy}").symlink_to(folder / name)
    rates = {row: [] for row in ROWS}
    for _ in range(rounds):  # in turn, so that whatever else the machine does meets all alike
        for row, (side, options) in ROWS.items():
            bare = float(output(build / "experiments/input/benchmark_decode", folder, threads, side, SECONDS))
            rates[row].append((bare, *packed_rate(source, pathlib.Path(scratch) / "packed.h5", options)))
for row, values in rates.items():
    bare, packing, whole = (statistics.median(column) for column in zip(*values))
    ratio = statistics.median(packing / bare for bare, packing, _ in values)
    print(f"{row:<52} {packing:>7.0f} images/s  {100 * ratio:>5.1f} % of libjpeg-turbo alone ({bare:.0f}); "
          f"{whole:.0f} with the file put together; {threads} threads")
