"""launchers/mpirun with real ranks: what they get, what comes back, what a signal does."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
MPIRUN = HERE.parents[1] / "launchers" / "mpirun"
RANK = [sys.executable, str(HERE / "rank.py")]
CORES = sorted(os.sched_getaffinity(0))


class Mpirun(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "OMP_", "PMIX_"))}

    def tearDown(self):
        self.folder.cleanup()

    def start(self, options, arguments=(), prefix=()):
        command = [*prefix, str(MPIRUN), *options, *RANK, self.folder.name, *arguments]
        return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)

    def finish(self, process):
        try:
            process.error = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode

    def reports(self, ranks):
        """What each rank saw; waits until all have started."""
        paths = [pathlib.Path(self.folder.name) / f"rank-{rank}.json" for rank in range(ranks)]
        end = time.monotonic() + 60
        while not all(path.exists() for path in paths):
            self.assertLess(time.monotonic(), end, "ranks did not start")
            time.sleep(0.02)
        return [json.loads(path.read_text()) for path in paths]

    def test_exit_code_is_the_ranks(self):
        for code in (0, 2, 75, 76, 93):
            process = self.start(["-np", "2"], [str(code)])
            self.assertEqual(self.finish(process), code, process.error)

    def test_arguments_arrive_as_they_are(self):
        self.assertEqual(self.finish(self.start(["-np", "1"], ["0", "two words", "a*", "$HOME", "-np"])), 0)
        self.assertEqual(self.reports(1)[0]["arguments"][1:], ["0", "two words", "a*", "$HOME", "-np"])

    def test_each_rank_has_processors_and_threads_of_its_own(self):
        ranks = min(2, len(CORES))
        process = self.start(["-np", str(ranks)], ["0"])
        self.assertEqual(self.finish(process), 0, process.error)
        reports = self.reports(ranks)
        threads = len(CORES) // ranks
        self.assertEqual([r["environment"]["OMP_NUM_THREADS"] for r in reports], [str(threads)] * ranks)
        if len(CORES) == os.cpu_count():
            bound = [p for r in reports for p in r["processors"]]
            self.assertEqual(len(bound), len(set(bound)), "two ranks share a processor")
            self.assertTrue(all(len(r["processors"]) == threads for r in reports), reports)

    def test_more_ranks_than_processors(self):
        ranks = len(CORES) + 1
        process = self.start(["-np", str(ranks)], ["0"])
        self.assertEqual(self.finish(process), 0, process.error)
        for report in self.reports(ranks):
            self.assertEqual(report["environment"]["OMP_NUM_THREADS"], "1")
            self.assertEqual(report["processors"], CORES)

    def test_threads_where_the_number_of_ranks_is_not_given(self):
        hostfile = pathlib.Path(self.folder.name) / "hosts"
        hostfile.write_text("localhost slots=1  # and no more\n")
        for options, ranks in ((["-N", "1"], 1), (["--pernode"], 1), (["-H", "localhost"], 1), (["-H", "localhost:2"], 2),
                               (["--hostfile", str(hostfile)], 1), ([], len(CORES))):
            with self.subTest(options=options):
                for path in pathlib.Path(self.folder.name).glob("rank-*"):
                    path.unlink()
                process = self.start(options, ["0"])
                self.assertEqual(self.finish(process), 0, process.error)
                reports = self.reports(ranks)
                self.assertEqual(len(list(pathlib.Path(self.folder.name).glob("rank-*"))), ranks)
                threads = max(len(CORES) // ranks, 1)
                self.assertEqual([r["environment"]["OMP_NUM_THREADS"] for r in reports], [str(threads)] * ranks)
                self.assertTrue(all(len(r["processors"]) >= threads for r in reports), reports)

    def test_affinity_mask_is_kept(self):
        process = self.start(["-np", "1"], ["0"], prefix=["taskset", "-c", str(CORES[-1])])
        self.assertEqual(self.finish(process), 0, process.error)
        self.assertEqual(self.reports(1)[0]["processors"], [CORES[-1]])
        self.assertEqual(self.reports(1)[0]["environment"]["OMP_NUM_THREADS"], "1")

    def test_the_users_own_choices_win(self):
        self.environment["OMP_NUM_THREADS"] = "3"
        self.environment["NCCL_DEBUG"] = "INFO"
        process = self.start(["--bind-to", "none", "-np", "1", "-x", "LANG=C"], ["0"])
        self.assertEqual(self.finish(process), 0, process.error)
        report = self.reports(1)[0]
        self.assertEqual(report["environment"]["OMP_NUM_THREADS"], "3")
        self.assertEqual(report["environment"]["NCCL_DEBUG"], "INFO")
        self.assertEqual(report["environment"]["HDF5_USE_FILE_LOCKING"], "FALSE")
        self.assertEqual(report["processors"], CORES)

    def test_stop_signals_let_the_ranks_finish(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            for path in pathlib.Path(self.folder.name).iterdir():
                path.unlink()
            process = self.start(["-np", "2"])
            self.reports(2)
            process.send_signal(number)
            self.assertEqual(self.finish(process), 75, (number, process.error))

    def test_ctrl_c_goes_to_the_whole_process_group(self):
        process = self.start(["-np", "2"])
        self.reports(2)
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(self.finish(process), 75, process.error)

    def test_a_second_ctrl_c_ends_deaf_ranks(self):
        process = self.start(["-np", "2"], ["deaf"])
        self.reports(2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        self.assertNotIn(self.finish(process), (0, 75))
        self.assertLess(time.monotonic() - began, 30)

    def test_what_it_says_and_does_is_what_the_command_can(self):
        program = pathlib.Path(self.folder.name) / "credence"  # a training rank under the name of the program
        program.write_text(f'#!/bin/sh\nexec {RANK[0]} {RANK[1]} {self.folder.name}\n')
        program.chmod(0o755)
        for command, code, words in (("train", 75, "with a checkpoint"), ("pack", 75, "the same command goes on"),
                                     ("evaluate", None, "stopping at once")):
            for report in pathlib.Path(self.folder.name).glob("rank-*"):
                report.unlink()
            process = subprocess.Popen([str(MPIRUN), "-np", "2", str(program), command], env=self.environment,
                                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
            self.reports(2)
            process.send_signal(signal.SIGINT)
            ended = self.finish(process)
            self.assertIn(words, process.error)
            if code is None:
                self.assertNotIn(ended, (0, 75), process.error)  # asked by USR2 the ranks would end with 75
            else:
                self.assertEqual(ended, code, process.error)

    def test_bad_number_of_ranks(self):
        process = self.start(["-np", "two"])
        self.assertEqual(self.finish(process), 2)
        self.assertIn('not "two"', process.error)


if __name__ == "__main__":
    unittest.main()
