"""launchers/srun and cluster/slurm/train.sbatch with stand-ins for Slurm's programs."""

import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Slurm(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "bin").mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMP_", "CREDENCE_"))}
        self.environment = dict(kept, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}")

    def stand_in(self, name, text):
        """A shell script in the place of a program."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run_with(self, environment, *command):
        return subprocess.run([str(word) for word in command], env=dict(self.environment, **environment), cwd=self.folder,
                              capture_output=True, text=True, timeout=60)


class Srun(Slurm):
    def test_threads_and_options(self):
        self.stand_in("bin/srun", 'echo "$OMP_NUM_THREADS $*"')
        node = {"SLURM_CPUS_ON_NODE": "16", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4"}
        given = dict(node, SLURM_CPUS_PER_TASK="4")
        for environment, options, threads in (
                (node, [], 8), (node, ["-n", "8"], 4), (node, ["-n8"], 4), (node, ["--ntasks=8"], 4), (node, ["--ntasks", "8"], 4),
                (node, ["-n8", "-N", "1"], 2), (node, ["--nodes=1", "-p", "test", "-n", "8"], 2), (node, ["-N1-2", "-n2"], 8),
                (node, ["--ntasks-per-node=2"], 8), (node, ["-n", "64"], 1), (node, ["-c8"], 8), (node, ["-c", "2"], 2),
                (dict(node, SLURM_NTASKS_PER_NODE="4"), [], 4),
                (given, [], 4), (given, ["-c8"], 8), (given, ["--cpus-per-task=2"], 2), (given, ["-n", "2"], 4)):
            with self.subTest(environment=environment, options=options):
                result = self.run_with(environment, ROOT / "launchers/srun", *options, "true", "-n", "1", "-c", "1")
                self.assertEqual(result.returncode, 0, result)
                words = result.stdout.split()
                self.assertEqual(words[0], str(threads))
                self.assertIn("--mpi=pmix", words)
                before = " ".join(words[1:words.index("true")])
                wanted = environment is given and not any(option.startswith(("-c", "--cpus")) for option in options)
                self.assertEqual("--cpus-per-task=4" in before, wanted, before)

    def test_the_users_own_choices_win(self):
        self.stand_in("bin/srun", 'echo "$OMP_NUM_THREADS $*"')
        result = self.run_with({"OMP_NUM_THREADS": "3"}, ROOT / "launchers/srun", "--mpi=pmi2", "--cpu-bind", "none", "-n", "2", "true")
        self.assertEqual(result.stdout, "3 --mpi=pmi2 --cpu-bind none -n 2 true\n")


class Batch(Slurm):
    def setUp(self):
        super().setUp()
        for name, text in (("srun", 'exit "$CODE"'), ("credence", "")):
            self.stand_in(f"{'launchers' if name == 'srun' else 'build'}/{name}", text)
        self.stand_in("bin/squeue", 'echo "${STATE:-RUNNING}"')
        self.stand_in("bin/scontrol", f'echo "$*" >>"{self.folder}/requeued"')
        self.stand_in("bin/sleep", "")

    def submit(self, code, **environment):
        """The exit code, and whether the job was queued again."""
        before = self.requeued()
        slurm = {"SLURM_SUBMIT_DIR": self.folder, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "2", "CODE": code,
                 **environment}
        result = self.run_with({k: str(v) for k, v in slurm.items()}, "bash", ROOT / "cluster/slurm/train.sbatch", "--out", "runs/a")
        self.assertEqual(result.returncode, code, result)
        return self.requeued() > before

    def requeued(self):
        file = self.folder / "requeued"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def assert_no_losses(self):
        self.assertEqual(list(self.folder.glob("*.losses")), [])

    def test_what_is_queued_again(self):
        for code in (75, 76, 137):
            self.assertTrue(self.submit(code), code)
        for code in (0, 2, 65, 93):
            self.assertFalse(self.submit(code), code)
            self.assert_no_losses()
        self.assertFalse(self.submit(75, STATE="COMPLETING"))

    def test_losses_are_counted_and_time_limits_are_not(self):
        for _ in range(3):
            self.assertTrue(self.submit(75, SLURM_RESTART_COUNT=20, CREDENCE_RETRIES=2))
        self.assertTrue(self.submit(137, SLURM_RESTART_COUNT=23, CREDENCE_RETRIES=2))
        self.assertTrue(self.submit(75, SLURM_RESTART_COUNT=24, CREDENCE_RETRIES=2))
        self.assertTrue(self.submit(76, SLURM_RESTART_COUNT=25, CREDENCE_RETRIES=2))
        self.assertFalse(self.submit(137, SLURM_RESTART_COUNT=26, CREDENCE_RETRIES=2))
        self.assert_no_losses()


if __name__ == "__main__":
    unittest.main()
