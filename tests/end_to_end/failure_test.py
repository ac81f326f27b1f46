"""What breaks while training: lost and stopped ranks, damaged checkpoints, full disks, two jobs on one directory."""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

import numpy as np

from images import png
from support import MOONS, RunTest, checkpoints, children, files, finish, run, start, start_ranks, wait_until


def training(directory):
    """Whether the run in a directory has begun its steps."""
    status = directory / "status.json"
    return status.exists() and "running" in status.read_text()


def alive(pid):
    """Whether a process still runs; one that nobody has waited for yet (a zombie) does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def slow(rank, part, seconds):
    """The environment in which a rank's files with this in their path take so much longer to open and to read."""
    return {"LD_PRELOAD": os.environ["CREDENCE_SLOW_FILES"], "SLOW_RANK": str(rank), "SLOW_PART": part,
            "SLOW_MILLISECONDS": str(int(1000 * seconds))}


class LostRanks(RunTest):
    LONG = ("train", *MOONS, "--steps", 1000000, "--progress", "none", "--timeout-seconds", 5)

    def begin(self, ranks):
        process = start(*self.LONG, "--shards", 4, "--out", self.folder / "run", ranks=ranks)
        pids = wait_until(lambda: len(found := children(process.pid)) == ranks and found, f"{ranks} ranks")
        wait_until(lambda: training(self.folder / "run"), "training to begin")
        time.sleep(0.5)
        return process, pids

    def test_stopped_rank_is_noticed_and_named(self):
        process, pids = self.begin(4)
        began = time.monotonic()
        os.kill(pids[2], signal.SIGSTOP)
        result = finish(process, 60)
        self.assertEqual(result.code, 76, result)
        self.assertLess(time.monotonic() - began, 5 + 10)
        self.assertIn("rank 2", result.stderr)
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual((status["status"], status["exit_code"]), ("failed", 76))
        self.assertIn("rank 2", status["message"])

    def test_stopped_rank_0_is_noticed_by_the_others(self):
        process, pids = self.begin(2)
        began = time.monotonic()
        os.kill(pids[0], signal.SIGSTOP)
        result = finish(process, 60)
        self.assertEqual(result.code, 76, result)
        self.assertLess(time.monotonic() - began, 5 + 10)
        self.assertRegex(result.stderr, r"error: rank 1 on \S+: .*no answer from rank 0 on \S+ \(in training, step \d+\)")
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual((status["status"], status["exit_code"]), ("failed", 76))
        self.assertIn("rank 0", status["message"])

    def test_stopped_rank_is_noticed_in_an_evaluation(self):
        self.succeed("train", *MOONS, "--steps", 3, "--progress", "none", "--out", self.folder / "run", ranks=2)
        process = start("evaluate", "--checkpoint", self.folder / "run", "--samples", 40000, "--timeout-seconds", 5, ranks=2)
        pids = wait_until(lambda: len(found := children(process.pid)) == 2 and found, "2 ranks")
        time.sleep(2)
        os.kill(pids[1], signal.SIGSTOP)
        result = finish(process, 120)
        self.assertEqual(result.code, 76, result)
        self.assertRegex(result.stderr, r"error: rank 0 on \S+: .*no answer from rank 1 on \S+ \(in (evaluation|reading of .*)\)")

    def test_killed_rank_ends_the_job(self):
        process, pids = self.begin(2)
        began = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        result = finish(process, 60)
        self.assertIn(result.code, (137, 76), result)
        self.assertLess(time.monotonic() - began, 10)
        for pid in pids:
            wait_until(lambda: not alive(pid), f"rank process {pid} to be gone", 5)
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual((status["status"], status["exit_code"]), ("failed", 76))
        self.assertIn("rank 1", status["message"])

    def test_term_through_the_wrapper_leaves_a_checkpoint(self):
        wrapper = os.environ["CREDENCE_WRAPPER"]
        command = [wrapper, "-np", "2", os.environ["CREDENCE_EXECUTABLE"], *map(str, self.LONG), "--out",
                   str(self.folder / "run")]
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                                   start_new_session=True)
        wait_until(lambda: training(self.folder / "run"), "training to begin")
        time.sleep(0.5)
        process.terminate()
        result = finish(process, 60)
        self.assertEqual(result.code, 75, result)
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual(checkpoints(self.folder / "run")[-1].name, f"checkpoint-{status['step']:08}.h5")


class SlowReading(RunTest):
    """A rank that reads for longer than the timeout answers meanwhile, and is waited for."""

    TIMEOUT = 3

    def train(self, *arguments, **options):
        return self.succeed("train", "--network", "mlp:20,20", "--batch", 50, "--progress", "none", "--timeout-seconds", self.TIMEOUT,
                     "--out", self.folder / "run", *arguments, ranks=2, **options)

    def table(self):
        table = self.folder / "table.csv"
        table.write_text("x,y\n" + "1,0\n2,1\n" * 50)
        return f"csv:{table}"

    def test_training_data(self):
        result = self.train("--data", self.table(), "--steps", 3, environment=slow(0, "table.csv", 2.5 * self.TIMEOUT))
        # On the terminal, after each timeout.
        told = re.findall(r"rank 1 on \S+ has waited .* for rank 0 on \S+, still at work", result.stderr)
        self.assertEqual(len(told), 2, result)

    def test_images_while_training(self):
        for number in range(100):
            image = self.folder / "images" / f"class-{number % 2}" / ("slow.png" if number == 50 else f"{number}.png")
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(png(np.full((8, 8, 3), 2 * number, np.uint8)))
        self.train("--data", f"images:{self.folder / 'images'}", "--shards", 2, "--steps", 4,
                   environment=slow(1, "slow.png", 2 * self.TIMEOUT))

    def test_checkpoint_to_continue(self):
        self.train("--data", "moons", "--steps", 3)
        self.train("--data", "moons", "--steps", 6,
                   environment=slow(0, "checkpoint-00000003.h5", self.TIMEOUT / 10))

    def test_images_to_pack(self):
        def idx(name, *shape):
            sizes = b"".join(size.to_bytes(4, "big") for size in shape)
            values = bytes(value % 10 for value in range(math.prod(shape)))
            (self.folder / name).write_bytes(bytes([0, 0, 8, len(shape)]) + sizes + values)

        for split in ("train", "t10k"):
            idx(f"{split}-images-idx3-ubyte", 20, 8, 8)
            idx(f"{split}-labels-idx1-ubyte", 20)
        self.succeed("pack", f"mnist:{self.folder}", self.folder / "packed.h5", "--encoding", "raw", "--timeout-seconds",
                     self.TIMEOUT, ranks=2, environment=slow(1, "train-labels-idx1-ubyte", 2 * self.TIMEOUT))

    def test_checkpoint_and_data_to_evaluate(self):
        self.train("--data", self.table(), "--steps", 3)
        for suffix, seconds in (("checkpoint-00000003.h5", self.TIMEOUT / 5), ("table.csv", 2 * self.TIMEOUT)):
            self.succeed("evaluate", "--checkpoint", self.folder / "run", "--split", "train", "--timeout-seconds",
                         self.TIMEOUT, ranks=2, environment=slow(1, suffix, seconds))


class ErrorLines(RunTest):
    """The first line of an error says where it began and in what."""

    def test_what_only_rank_1_meets(self):
        for name in ("with", "without"):
            (self.folder / name).mkdir()
        (self.folder / "with" / "table.csv").write_text("x,y\n" + "1,0\n2,1\n" * 50)
        command = (os.environ["CREDENCE_EXECUTABLE"], "train", "--data", "csv:table.csv", "--out", self.folder / "run")
        process = start_ranks("-np", 1, "-wdir", self.folder / "with", *command, ":",
                              "-np", 1, "-wdir", self.folder / "without", *command)
        result = finish(process)
        self.assert_refused(result, 65, "table.csv")
        self.assertRegex(result.stderr, r"(?m)^error: rank 1 on \S+: [^:]*table\.csv.* \(in reading of data\)$")

    def test_a_log_that_only_rank_1_cannot_write(self):
        (self.folder / "run" / "log-1.txt").mkdir(parents=True)
        result = run("train", *MOONS, "--steps", 3, "--out", self.folder / "run", ranks=2)
        self.assert_refused(result, 74, "error: rank 1 on", "log-1.txt")

    def test_what_training_meets(self):
        options = ("train", *MOONS, "--steps", 50, "--progress", "none", "--out", self.folder / "run", "--lr")
        line = r"(?m)^error: rank 0 on \S+: .* not finite.* \(in training, step \d+\)$"
        result = run(*options, 1e30, ranks=2)
        self.assert_refused(result, 93)
        self.assertRegex(result.stderr, line)
        # While rank 0 waits for its disk, with a first step saved, the other has left and mpirun ends the job.
        result = run(*options, 1e15, "--posterior", "point", "--checkpoint-every", 1, "--overwrite", ranks=2,
                     environment=slow(0, "checkpoint-00000001.h5", 6))
        self.assertEqual(result.code, 93, result)
        self.assertRegex(result.stderr, line)
        status = json.loads((self.folder / "run" / "status.json").read_text())
        self.assertEqual((status["status"], status["exit_code"]), ("failed", 93))


class Directory(RunTest):
    def test_second_job_names_the_owner(self):
        process = start("train", *MOONS, "--steps", 1000000, "--progress", "none", "--out", self.folder / "run")
        wait_until(lambda: training(self.folder / "run"), "training to begin")
        second = run("train", *MOONS, "--steps", 10, "--out", self.folder / "run", ranks=2)
        self.assert_refused(second, 73, str(process.pid))
        process.send_signal(signal.SIGUSR2)
        self.assertEqual(finish(process).code, 75)

    def test_a_job_whose_directory_is_taken_over_leaves_it(self):
        directory = self.folder / "run"
        process = start("train", *MOONS, "--shards", 2, "--steps", 100000000, "--checkpoint-every", 100000000,
                        "--progress", "none", "--out", directory, ranks=2)
        wait_until(lambda: training(directory), "training to begin")
        (directory / "lock").unlink()
        (directory / "lock").write_text("of another job")
        before = (directory / "status.json").read_text()
        self.assert_refused(finish(process), 73, "taken over", str(directory))
        self.assertEqual((directory / "lock").read_text(), "of another job")
        self.assertEqual((directory / "status.json").read_text(), before)
        self.assertEqual(checkpoints(directory), [])

    def test_directory_that_cannot_be_made(self):
        (self.folder / "file").write_text("")
        self.assert_refused(run("train", *MOONS, "--steps", 3, "--out", self.folder / "file" / "run", ranks=2), 74,
                            "file/run", "--out")

    def test_directory_that_cannot_be_written(self):
        mount = self.small_disk("4m")
        options = ("train", *MOONS, "--shards", 2, "--progress", "none", "--out", mount / "run")
        self.succeed(*options, "--steps", 5)
        before = files(mount / "run")
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        self.assert_refused(run(*options, "--steps", 9, ranks=2), 74, str(mount / "run"), "Read-only", "--out")
        self.assert_refused(run(*options, "--steps", 9, "--overwrite"), 74, str(mount / "run"), "Read-only", "--out")
        self.assert_refused(run(*options[:-1], mount / "new"), 74, str(mount / "new"), "--out")
        self.assertEqual(files(mount / "run"), before)

    def test_full_disk(self):
        mount = self.small_disk("4m")
        options = ("train", "--data", "moons", "--network", "mlp:50,50", "--likelihood", "bernoulli", "--steps", 1000000,
                   "--shards", 2, "--checkpoint-every", 20, "--progress", "none", "--out", mount / "run")
        process = start(*options, ranks=2)
        wait_until(lambda: len(checkpoints(mount / "run")) >= 2, "two checkpoints")
        filler = os.open(mount / "filler", os.O_WRONLY | os.O_CREAT)
        while process.poll() is None:
            # A checkpoint that is pruned makes room again: taken until saving has failed three times.
            with contextlib.suppress(OSError):
                os.write(filler, b"x" * 4096)
        os.close(filler)
        result = finish(process)
        self.assertEqual(result.code, 74, result)
        self.assertIn("3 checkpoints in a row could not be saved", result.stderr)
        self.assertEqual(list((mount / "run").glob("*.tmp*")), [])
        before = {file.name: file.read_bytes() for file in checkpoints(mount / "run")}
        # Room for the lock and the log, not for two checkpoints.
        os.truncate(mount / "filler", os.path.getsize(mount / "filler") - 65536)
        self.assert_refused(run(*options, ranks=2), 74, "MB free", "--out")
        self.assertEqual({file.name: file.read_bytes() for file in checkpoints(mount / "run")}, before)
        os.remove(mount / "filler")
        step = int(sorted(before)[-1].split("-")[1].split(".")[0])
        self.run_with_code(75, *options, "--stop-after", step + 1, ranks=2)


    def test_room_for_one_more_checkpoint_is_enough_to_go_on(self):
        mount = self.small_disk("4m")
        options = ("train", "--data", "moons", "--network", "mlp:50,50", "--steps", 100, "--keep", 2, "--checkpoint-every", 2,
                   "--progress", "none", "--out", mount / "run")
        self.run_with_code(75, *options, "--stop-after", 4)
        size = checkpoints(mount / "run")[-1].stat().st_size
        free = os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize
        (mount / "filler").write_bytes(bytes(int(free - 0.5 * size)))
        self.assert_refused(run(*options, "--stop-after", 8), 74, "MB free", "a checkpoint of this run needs")
        os.truncate(mount / "filler", int(free - 1.5 * size))
        self.run_with_code(75, *options, "--stop-after", 8)
        self.assertEqual([file.name for file in checkpoints(mount / "run")],
                         ["checkpoint-00000006.h5", "checkpoint-00000008.h5"])


class DamagedCheckpoints(RunTest):
    def setUp(self):
        super().setUp()
        self.options = ("train", *MOONS, "--shards", 2, "--steps", 40, "--checkpoint-every", 10, "--progress", "none", "--out")
        self.succeed(*self.options, self.folder / "run")
        self.newest = checkpoints(self.folder / "run")[-1]

    def damage(self, file, position):
        data = bytearray(file.read_bytes())
        data[position] ^= 0x10
        file.write_bytes(bytes(data))

    def test_damaged_newest_is_named_and_the_one_before_used(self):
        straight = self.folder / "straight.h5"
        shutil.copy(self.newest, straight)
        for number, change in enumerate((lambda f: self.damage(f, len(f.read_bytes()) // 2),
                                         lambda f: self.damage(f, 3),
                                         lambda f: f.write_bytes(f.read_bytes()[:-100]),
                                         lambda f: f.write_bytes(b""))):
            with self.subTest(change=number):
                shutil.copy(straight, self.newest)
                change(self.newest)
                result = self.succeed(*self.options, self.folder / "run", ranks=2)
                self.assertIn(self.newest.name, result.stderr)
                self.assertIn("skipping", result.stderr)
                self.assert_same_bits(straight, self.newest)

    def test_every_checkpoint_of_a_directory_is_verified(self):
        files = checkpoints(self.folder / "run")
        self.assertGreaterEqual(len(files), 3)
        sound = self.succeed("inspect", "--verify", self.folder / "run")
        for file in files:
            self.assertRegex(sound.stdout, rf"{file.name}: sound")
        self.damage(files[1], 5000)
        damaged = run("inspect", "--verify", self.folder / "run", "--json")
        self.assert_refused(damaged, 65, f"1 of {len(files)} checkpoints", files[1].name)
        self.assertEqual({pathlib.Path(one["file"]).name: one["sound"] for one in damaged.json["files"]},
                         {file.name: file != files[1] for file in files})

    def test_all_damaged_is_never_a_fresh_start(self):
        for file in checkpoints(self.folder / "run"):
            self.damage(file, 5000)
        result = run(*self.options, self.folder / "run", ranks=2)
        self.assert_refused(result, 65, "none of the", self.newest.name)
        inspected = run("inspect", "--verify", self.newest)
        self.assert_refused(inspected, 65, self.newest.name)
        evaluated = run("evaluate", "--checkpoint", self.newest, ranks=2)
        self.assert_refused(evaluated, 65, self.newest.name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
