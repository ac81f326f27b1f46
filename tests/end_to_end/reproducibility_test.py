"""A run is a function of its configuration: same bits on any number of ranks, stopped and resumed any number of times."""

import os
import pathlib
import random
import signal
import time
import unittest

import h5py
import numpy as np

from support import EXECUTABLE, MOONS, RunTest, checkpoints, children, finish, run, start, start_ranks, wait_until

FASHION = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"


def last(directory):
    return checkpoints(directory)[-1]


class WorldSize(RunTest):
    def check(self, *options, steps=50):
        for ranks in (1, 2, 4):
            self.succeed("train", *options, "--shards", 4, "--steps", steps, "--out", self.folder / str(ranks),
                         "--progress", "none", ranks=ranks)
        for ranks in (2, 4):
            self.assert_same_bits(last(self.folder / "1"), last(self.folder / str(ranks)))

    def test_shared_noise(self):
        self.check(*MOONS, "--noise", "shared")

    def test_noise_of_each_shard(self):
        self.check(*MOONS, "--noise", "shard")

    def test_antithetic_noise(self):
        self.check(*MOONS, "--noise", "antithetic")

    def test_several_samples(self):
        self.check(*MOONS, "--noise", "shard", "--weight-samples", 3)

    def test_flipout(self):
        self.check(*MOONS, "--estimator", "flipout")

    def test_score_function(self):
        self.check(*MOONS, "--estimator", "score", "--weight-samples", 4)

    def test_point_with_clipping_and_sgd(self):
        self.check(*MOONS, "--posterior", "point", "--optimizer", "sgd", "--clip-norm", "0.5")

    def test_ivon(self):
        self.check(*MOONS, "--optimizer", "ivon", "--noise", "shard", "--clip-radius", "1", "--temperature", "0.5")

    def test_lars(self):
        self.check(*MOONS, "--optimizer", "lars", "--kl-warmup", "0.5")

    def test_products_in_bfloat16(self):
        self.check(*MOONS, "--precision", "bf16", "--noise", "shard", steps=20)

    def test_mixup_and_label_smoothing(self):
        self.check("--data", "moons", "--network", "mlp:5,5", "--batch", 64, "--likelihood",
                   "categorical:smoothing=0.1,mixup=0.4", steps=20)
        with h5py.File(last(self.folder / "2")) as file:
            self.assertIn("label smoothing and mixup", file.attrs["bound"])
            self.assertTrue(np.isnan(file["history/elbo"][()]).all())
            self.assertTrue(np.isfinite(file["history/objective"][()]).all())

    def test_updates_that_ranks_share(self):
        self.check("--network", "mlp:400,700", "--batch", 64, "--clip-norm", "1", "--checkpoint-every", 3, steps=8)

    def test_batch_norm_and_augmentation(self):
        self.assertTrue(os.path.exists(FASHION), "the package dataset-fashion-mnist is missing")
        self.check("--network", "resnet20", "--batch", 8, "--augment", "crop:2,flip")


    def test_batch_norm_over_all_shards_needs_its_ranks(self):
        options = ("train", "--network", "resnet20", "--norm", "sync", "--batch", 8, "--steps", 6, "--progress", "none", "--out")
        self.succeed(*options, self.folder / "straight", ranks=2)
        self.run_with_code(75, *options, self.folder / "run", "--stop-after", 3, ranks=2)
        self.assert_refused(run("train", "--out", self.folder / "run"), 2, "--norm sync", "needs 2 ranks")
        self.succeed("train", "--out", self.folder / "run", "--progress", "none", ranks=2)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "run"))


class Resume(RunTest):
    STEPS = 60

    def train(self, directory, *options, ranks=2, code=0):
        result = run("train", *MOONS, "--shards", 4, "--steps", self.STEPS, "--noise", "shard", "--checkpoint-every", 7,
                     "--out", directory, "--progress", "none", *options, ranks=ranks)
        self.assertEqual(result.code, code, result)
        return result

    def test_stopped_and_resumed_on_other_ranks(self):
        self.train(self.folder / "straight", ranks=1)
        for stop, ranks in ((1, 2), (23, 4), (24, 1), (50, 2)):
            self.train(self.folder / "pieces", "--stop-after", stop, ranks=ranks, code=75)
            self.assertEqual(int(last(self.folder / "pieces").stem[-8:]), stop)
        self.train(self.folder / "pieces", ranks=4)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "pieces"))

    def test_every_optimizer_stopped_and_resumed_on_other_ranks(self):
        # beta2 and KL warm-up: the Hessian and the prior change fast enough to be seen.
        for optimizer in (("sgd",), ("lars",), ("ivon", "--beta2", "0.99", "--kl-warmup", "0.4")):
            with self.subTest(optimizer=optimizer[0]):
                options = ("--optimizer", *optimizer)
                straight, pieces = self.folder / f"{optimizer[0]}-straight", self.folder / f"{optimizer[0]}-pieces"
                self.train(straight, *options, ranks=1)
                for stop, ranks in ((3, 2), (31, 1)):
                    self.train(pieces, *options, "--stop-after", stop, ranks=ranks, code=75)
                self.train(pieces, ranks=2)
                self.assert_same_bits(last(straight), last(pieces))

    def test_local_reparameterisation_resumes(self):
        self.train(self.folder / "straight", "--estimator", "local-reparam", ranks=1)
        self.train(self.folder / "pieces", "--estimator", "local-reparam", "--stop-after", 23, code=75)
        self.train(self.folder / "pieces", ranks=4)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "pieces"))

    def test_finished_run_exits_at_once(self):
        self.train(self.folder / "run")
        before = last(self.folder / "run").read_bytes()
        result = self.train(self.folder / "run")
        self.assertIn("finished", result.stderr)
        self.assertEqual(last(self.folder / "run").read_bytes(), before)

    def test_signal_stops_with_a_checkpoint(self):
        options = ("train", *MOONS, "--shards", 4, "--steps", 1000000, "--noise", "shard", "--checkpoint-every", 1000000,
                   "--progress", "none", "--out")
        process = start(*options, self.folder / "run", ranks=2)
        wait_until(lambda: "running" in (self.folder / "run" / "status.json").read_text()
                   if (self.folder / "run" / "status.json").exists() else False, "training to begin")
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGUSR2)
        result = finish(process)
        self.assertEqual(result.code, 75, result)
        stopped_at = int(last(self.folder / "run").stem[-8:])
        self.run_with_code(75, *options, self.folder / "straight", "--stop-after", stopped_at + 100, ranks=1)
        self.run_with_code(75, *options, self.folder / "run", "--stop-after", stopped_at + 100, ranks=1)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "run"))

    def test_signal_while_mpi_starts_stops_too(self):
        process = start("train", *MOONS, "--steps", 1000000, "--progress", "none", "--out", self.folder / "run")
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, "MPI's threads")
        process.send_signal(signal.SIGUSR2)
        self.assertEqual(finish(process).code, 75)
        self.assertEqual(len(checkpoints(self.folder / "run")), 1)

    def test_killed_at_random_times(self):
        seed = int(os.environ.get("CREDENCE_TEST_SEED", time.time_ns() % 1000000))
        print(f"random times from seed {seed}")
        chance = random.Random(seed)
        options = ("train", *MOONS, "--shards", 4, "--steps", 3000, "--checkpoint-every", 50, "--progress", "none", "--out")
        self.succeed(*options, self.folder / "straight", ranks=2)
        kills = 0
        for attempt in range(40):
            process = start(*options, self.folder / "run", ranks=2)
            pids = wait_until(lambda: len(found := children(process.pid)) == 2 and found, "two ranks")
            if kills < 8:
                time.sleep(chance.uniform(0.2, 1.5))
                victims = pids if chance.random() < 0.3 else [chance.choice(pids)]
                for victim in victims:
                    try:
                        os.kill(victim, signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass
            result = finish(process)
            if result.code == 0:
                break
            self.assertIn(result.code, (137, 76, 1), result)
        self.assertEqual(result.code, 0, result)
        self.assertGreater(kills, 0)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "run"))

    def test_longer_horizon_is_planned_anew_and_said(self):
        self.train(self.folder / "run")
        result = run("train", "--out", self.folder / "run", "--steps", 80, "--progress", "none", ranks=2)
        self.assertEqual(result.code, 0, result)
        self.assertIn("planned anew", result.stderr)
        self.assertEqual(int(last(self.folder / "run").stem[-8:]), 80)

    def test_resume_from_a_named_checkpoint_elsewhere(self):
        self.train(self.folder / "run")
        first = checkpoints(self.folder / "run")[0]
        self.train(self.folder / "copy", "--resume", first)
        self.assert_same_bits(last(self.folder / "run"), last(self.folder / "copy"))

    def test_resume_of_a_finished_run_elsewhere_leaves_a_checkpoint_there(self):
        self.train(self.folder / "run")
        for _ in range(2):
            result = self.train(self.folder / "copy", "--resume", self.folder / "run", "--json")
            self.assertEqual(pathlib.Path(result.json["checkpoint"]), last(self.folder / "copy"))
            self.assert_same_bits(last(self.folder / "run"), last(self.folder / "copy"))
        self.assertIn("the run is finished", result.stderr)

    def test_a_run_stopped_at_its_new_end_is_finished_there(self):
        options = ("train", *MOONS, "--posterior", "laplace", "--lr-schedule", "constant", "--progress", "none", "--out")
        self.succeed(*options, self.folder / "straight", "--steps", 6)
        self.run_with_code(75, *options, self.folder / "run", "--steps", 10, "--stop-after", 6)
        self.succeed(*options, self.folder / "run", "--steps", 6)
        self.assert_same_bits(last(self.folder / "straight"), last(self.folder / "run"))
        with h5py.File(last(self.folder / "run")) as file:
            self.assertEqual(file.attrs["finished"], 1)

    def test_the_same_line_with_resume_goes_on(self):
        self.train(self.folder / "run")
        first = checkpoints(self.folder / "run")[0]
        self.train(self.folder / "copy", "--resume", first, "--stop-after", self.STEPS - 4, code=75)
        result = self.train(self.folder / "copy", "--resume", first)
        self.assertIn(f"to step {self.STEPS - 4}: continuing there", result.stderr)
        self.assert_same_bits(last(self.folder / "run"), last(self.folder / "copy"))

    def test_resume_from_inside_the_directory(self):
        self.train(self.folder / "run", "--stop-after", 20, code=75)
        result = finish(start_ranks("-np", 1, "-wdir", self.folder / "run", EXECUTABLE, "train", "--progress", "none", "--resume",
                                    last(self.folder / "run").name))
        self.assertEqual(result.code, 0, result)
        self.assertEqual(int(last(self.folder / "run").stem[-8:]), self.STEPS)

    def test_a_second_call_keeps_what_was_asked_for(self):
        self.train(self.folder / "run", "--keep", 6, "--stop-after", 50, code=75)
        self.succeed("train", "--out", self.folder / "run", "--progress", "none", ranks=2)
        self.assertEqual([int(file.stem[-8:]) for file in checkpoints(self.folder / "run")], [35, 42, 49, 50, 56, 60])


if __name__ == "__main__":
    unittest.main(verbosity=2)
