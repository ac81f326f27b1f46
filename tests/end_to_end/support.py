"""Starts the credence executable as a user would and compares what it leaves behind."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import h5py
import numpy as np

EXECUTABLE = os.environ["CREDENCE_EXECUTABLE"]
MPIRUN = os.environ.get("CREDENCE_MPIRUN", "mpirun")
LIMIT_SECONDS = 180  # of one command; a command that takes longer hangs

ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

MOONS = ["--data", "moons", "--network", "mlp:20,20", "--likelihood", "bernoulli", "--batch", "64"]


class Result:
    def __init__(self, process, stdout, stderr):
        self.code = process.returncode
        self.stdout = stdout
        self.stderr = stderr

    @property
    def json(self):
        return json.loads(self.stdout.strip().splitlines()[-1])

    def __repr__(self):
        return f"exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def start(*arguments, ranks=1, environment=None):
    command = [EXECUTABLE, *map(str, arguments)]
    if ranks > 1:
        return start_ranks("-np", ranks, *command, environment=environment)
    return launch(command, environment)


def start_ranks(*arguments, environment=None):
    """mpirun with the arguments that follow its own."""
    return launch([MPIRUN, "--oversubscribe", "--bind-to", "none", *map(str, arguments)], environment)


def launch(command, environment):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            errors="replace", env=dict(ENVIRONMENT, **(environment or {})), start_new_session=True)


def finish(process, limit=LIMIT_SECONDS):
    try:
        stdout, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        raise AssertionError(f"still running after {limit} s\n{stdout}\n{stderr}") from None
    return Result(process, stdout, stderr)


def run(*arguments, ranks=1, environment=None, limit=LIMIT_SECONDS):
    return finish(start(*arguments, ranks=ranks, environment=environment), limit)


def children(pid):
    """Process ids of the ranks below an mpirun, in the order of ranks."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) != pid:
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        ranks = [int(text.split(b"=")[1]) for text in environment if text.startswith(b"OMPI_COMM_WORLD_RANK=")]
        if ranks:
            found.append((ranks[0], int(entry.name)))
    return [pid for _, pid in sorted(found)]


def wait_until(condition, what, limit=60.0):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {limit} s for {what}")


def checkpoints(directory):
    return sorted(pathlib.Path(directory).glob("checkpoint-*.h5"))


def files(directory):
    """The bytes of every file of a directory, by name."""
    return {file.name: file.read_bytes() for file in pathlib.Path(directory).iterdir()}


def contents(file):
    """All datasets but those that tell of the machine."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and name not in ("history/seconds", "config") and not name.startswith("timing/"):
            arrays[name] = np.asarray(item[()])

    with h5py.File(file) as opened:
        opened.visititems(visit)
    return arrays


class RunTest(unittest.TestCase):
    """A test with a temporary folder."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="credence-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def small_disk(self, size):
        """The mount point of a new file system of this size (as mount's option); needs root."""
        mount = self.folder / "disk"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True).returncode != 0:
            self.fail("a small file system cannot be mounted: this test needs root")
        self.addCleanup(subprocess.run, ["umount", mount])
        return mount

    def run_with_code(self, code, *arguments, **options):
        result = run(*arguments, **options)
        self.assertEqual(result.code, code, result)
        return result

    def succeed(self, *arguments, **options):
        return self.run_with_code(0, *arguments, **options)

    def assert_same_bits(self, first, second):
        a, b = contents(first), contents(second)
        self.assertEqual(sorted(a), sorted(b))
        self.assertIn("history/elbo", a)
        different = [name for name in a if a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes()]
        self.assertEqual(different, [], f"{first} and {second} differ")

    def assert_refused(self, result, code, *words):
        """One clear sentence, the right exit code, no crash."""
        self.assertEqual(result.code, code, result)
        lines = [line for line in result.stderr.splitlines() if "error: rank" in line]
        self.assertEqual(len(lines), 1, f"one error line is expected\n{result}")
        for word in words:
            self.assertIn(word, lines[0])
