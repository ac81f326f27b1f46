"""What the experiments share: starting `credence` under mpirun, reading its numbers, and a report that says where they
come from."""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))


class Experiment:
    """Command line, scratch folder and report of one experiment: `with Experiment(__file__, __doc__) as experiment:`.

    --short runs a form of seconds with its own numbers, writes nothing into the repository and is what tests run.
    """

    def __init__(self, script, description, options=None):
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no file here")
        parser.add_argument("--ranks", type=int, default=2)
        parser.add_argument("--credence", default=str(ROOT / "build/credence"))
        parser.add_argument("--output", help="folder for results.txt and figure.png (default: this one)")
        if options is not None:
            options(parser)
        self.options = parser.parse_args()
        self.short = self.options.short
        self.home = pathlib.Path(script).resolve().parent
        self.lines, self.values = [], {}

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="credence-experiment-"))
        commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        self.say(f"{datetime.date.today()}, commit {commit.stdout.strip() or '?'}, {os.cpu_count()} processors, "
                 f"{self.options.ranks} ranks{', short form' if self.short else ''}")
        return self

    def __exit__(self, kind, error, trace):
        shutil.rmtree(self.folder, ignore_errors=True)
        if kind is None:
            if self.output is not None:
                (self.output / "results.txt").write_text("\n".join(self.lines) + "\n")
            print(json.dumps(self.values))

    @property
    def output(self):
        """Where results go; nowhere in the short form, unless asked for."""
        if self.options.output:
            folder = pathlib.Path(self.options.output)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        return None if self.short else self.home

    def say(self, line=""):
        print(line, flush=True)
        self.lines.append(line)

    def call(self, command, *arguments, ranks=None):
        """One command of credence; its JSON object."""
        line = [str(ROOT / "launchers/mpirun"), "-np", str(ranks or self.options.ranks), self.options.credence, command,
                *map(str, arguments), "--json"]
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        process = subprocess.run(line, capture_output=True, text=True, env=environment)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(line)}\nended with {process.returncode}:\n{process.stderr}")
        return json.loads(process.stdout.strip().splitlines()[-1])

    def train(self, name, *arguments, ranks=None):
        """A run of that name; its folder."""
        folder = self.folder / name
        self.call("train", "--out", folder, "--progress", "none", "--overwrite", "--checkpoint-every", 1000000, *arguments,
                  ranks=ranks)
        return folder

    def evaluate(self, run, *arguments, ranks=None):
        return self.call("evaluate", "--checkpoint", run, *arguments, ranks=ranks)

    def save(self, figure):
        import drawing
        if self.output is not None:
            drawing.save(figure, self.output / "figure.png")


def posterior(run):
    """{"fc1.weight": {"mean": array, "scale": array, ...}} of a run's newest checkpoint."""
    import drawing
    with h5py.File(drawing.newest_checkpoint(run)) as file:
        return {name: {kind: values[()] for kind, values in tensor.items()} for name, tensor in file["posterior"].items()}


def write_csv(path, columns):
    """Columns by name, arrays of one length (texts allowed)."""
    names = list(columns)
    with open(path, "w") as file:
        file.write(",".join(names) + "\n")
        for row in zip(*columns.values()):
            file.write(",".join(value if isinstance(value, str) else repr(np.asarray(value).item()) for value in row) + "\n")
    return path
