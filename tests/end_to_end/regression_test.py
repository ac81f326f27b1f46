"""Regression as a user types it: noise that is learned, intervals that cover, checks that tell a wrong model."""

import math
import unittest

import h5py
import numpy as np

from support import RunTest, checkpoints, run

TRAINED = TESTED = 2000
SIGMAS = 4.0  # 6e-5 of a normal quantity
NOISE = (0.3, 0.8)


def write_csv(path, names, columns):
    rows = np.column_stack(columns)
    with open(path, "w", encoding="ascii") as file:
        file.write(",".join(names) + ",split\n")
        for i, row in enumerate(rows):
            file.write(",".join(f"{value:.7g}" for value in row) + ("," + ("train" if i < TRAINED else "test")) + "\n")
    return f"csv:{path}"


def coverage_error(targets):
    """Standard error of the coverage of 90 % intervals: of counting, and of a noise known to 1 in sqrt(2 N)."""
    density = math.exp(-0.5 * 1.6448536**2) / math.sqrt(2 * math.pi)
    return math.hypot(math.sqrt(0.09 / targets), 2 * 1.6448536 * density / math.sqrt(2 * TRAINED))


class Regression(RunTest):
    def setUp(self):
        super().setUp()
        self.rng = np.random.default_rng(31)
        self.x = self.rng.uniform(-1, 1, TRAINED + TESTED)

    def two_columns(self):
        noise = self.rng.normal(size=(TRAINED + TESTED, 2)) * NOISE
        return write_csv(self.folder / "two.csv", ["x", "target_a", "target_b"],
                         [self.x, 1.5 * self.x - 0.5 + noise[:, 0], 0.3 - self.x + noise[:, 1]])

    def one_column(self):
        self.log_variance = -1.0 + 2.0 * self.x
        noise = self.rng.normal(size=TRAINED + TESTED) * np.exp(0.5 * self.log_variance)
        return write_csv(self.folder / "one.csv", ["x", "target_a"], [self.x, 1.5 * self.x + noise])

    def train(self, data, likelihood, out, *options, ranks=1, code=0, steps=1000):
        result = run("train", "--data", data, "--network", "linear", "--likelihood", likelihood, "--batch", 200, "--shards",
                     2, "--steps", steps, "--lr", "0.02", "--progress", "none", "--out", self.folder / out, *options,
                     ranks=ranks)
        self.assertEqual(result.code, code, result)

    def evaluate(self, out, *options, ranks=1):
        return self.succeed("evaluate", "--checkpoint", self.folder / out, "--json", *options, ranks=ranks).json

    def last(self, out):
        return checkpoints(self.folder / out)[-1]

    def test_learned_noise_is_the_true_one(self):
        data = self.two_columns()
        self.train(data, "gaussian:learned", "one", ranks=1)
        self.train(data, "gaussian:learned", "two", ranks=2)
        self.assert_same_bits(self.last("one"), self.last("two"))
        self.train(data, "gaussian:learned", "pieces", "--stop-after", 311, ranks=2, code=75)
        self.train(data, "gaussian:learned", "pieces", ranks=1)
        self.assert_same_bits(self.last("one"), self.last("pieces"))
        with h5py.File(self.last("one")) as file:
            learned = np.log1p(np.exp(file["posterior/likelihood.raw_scale/mean"][()]))
            self.assertEqual(file["posterior/likelihood.raw_scale"].attrs["family"], "point")
        for sigma, truth in zip(learned, NOISE):
            self.assertAlmostEqual(sigma / truth, 1.0, delta=SIGMAS / math.sqrt(2 * TRAINED))

        checks = ("--samples", 100, "--split", "train", "--check", "mean,variance,minimum,maximum")
        metrics = self.evaluate("one")
        self.assertEqual(metrics, {**self.evaluate("one", ranks=2)})
        self.assertEqual(self.evaluate("one", *checks), self.evaluate("one", *checks, ranks=2))
        for values in (metrics, metrics["mean"]):
            self.assertAlmostEqual(values["coverage_90"], 0.9, delta=SIGMAS * coverage_error(2 * TESTED))
        width = 2 * 1.6448536 * sum(NOISE) / 2
        self.assertAlmostEqual(metrics["mean"]["interval_width_90"] / width, 1.0, delta=SIGMAS / math.sqrt(2 * TRAINED))
        self.assertAlmostEqual(metrics["scale"] ** 2, metrics["aleatoric_scale"] ** 2 + metrics["epistemic_scale"] ** 2,
                               places=12)
        self.assertGreater(metrics["epistemic_scale"], 0.0)
        self.assertEqual(metrics["mean"]["epistemic_scale"], 0.0)
        entropy = sum(0.5 + 0.5 * math.log(2 * math.pi) + math.log(sigma) for sigma in NOISE)
        self.assertAlmostEqual(metrics["nll"], entropy, delta=SIGMAS * math.sqrt(1.0 / TESTED) + 4.0 / TRAINED)
        found = {(check["statistic"], check["column"]): check for check in self.evaluate("one", *checks)["checks"]}
        self.assertEqual(len(found), 8)
        for key, check in found.items():
            self.assertTrue(0.0 < check["tail_probability"] < 1.0, (key, check))

    def test_a_wrong_noise_is_told_by_its_check(self):
        self.train(self.two_columns(), "gaussian:1", "wrong")
        checks = self.evaluate("wrong", "--samples", 50, "--split", "train", "--check", "mean,variance")["checks"]
        self.assertEqual([check["tail_probability"] for check in checks if check["statistic"] == "variance"], [1.0, 1.0])
        self.assertEqual({check["column"] for check in checks}, {0, 1})
        self.assertGreater(self.evaluate("wrong")["coverage_90"], 0.95)

    def test_noise_of_each_example(self):
        data = self.one_column()
        for out, ranks in (("one", 1), ("two", 2)):  # Adam forgets the large first gradients of small variances sooner
            self.train(data, "heteroscedastic", out, "--beta2", "0.99", ranks=ranks)
        self.assert_same_bits(self.last("one"), self.last("two"))
        metrics = [self.evaluate("one", "--predictions", self.folder / f"{ranks}.h5", ranks=ranks) for ranks in (1, 2)]
        self.assertEqual(metrics[0], metrics[1])
        self.assertAlmostEqual(metrics[0]["coverage_90"], 0.9, delta=SIGMAS * coverage_error(TESTED))
        with h5py.File(self.folder / "1.h5") as file:
            targets, lower, upper = (file[f"regression/{name}"][:, 0] for name in ("targets", "lower", "upper"))
        # A constant noise would cover nearly all targets on one side and far less on the other.
        x = self.x[TRAINED:]
        for side in (x < -0.5, x > 0.5):
            covered = np.mean((targets[side] >= lower[side]) & (targets[side] <= upper[side]))
            self.assertAlmostEqual(covered, 0.9, delta=SIGMAS * math.sqrt(2) * coverage_error(side.sum()))

    def test_counts(self):
        rate = np.exp(1.0 + self.x)
        data = write_csv(self.folder / "counts.csv", ["x", "target_a"], [self.x, self.rng.poisson(rate)])
        self.train(data, "poisson", "counts")
        metrics = self.evaluate("counts", "--check", "variance", "--split", "train", "--samples", 100)
        # Of counts an interval holds 90 % or more.
        self.assertGreater(metrics["coverage_90"], 0.9 - SIGMAS * math.sqrt(0.09 / TRAINED))
        self.assertAlmostEqual(metrics["aleatoric_scale"] ** 2 / rate[:TRAINED].mean(), 1.0,
                               delta=SIGMAS / math.sqrt(TRAINED * rate.mean()) + 0.01)
        self.assertTrue(0.0 < metrics["checks"][0]["tail_probability"] < 1.0)

    def test_heavy_tails(self):
        noise = 0.2 * self.rng.standard_t(3.0, TRAINED + TESTED)
        data = write_csv(self.folder / "tails.csv", ["x", "target_a"], [self.x, 1.5 * self.x + noise])
        self.train(data, "student-t:3,0.2", "tails")
        metrics = self.evaluate("tails")
        self.assertAlmostEqual(metrics["coverage_90"], 0.9, delta=SIGMAS * math.sqrt(0.09 / TESTED))
        self.assertAlmostEqual(metrics["aleatoric_scale"], 0.2 * math.sqrt(3.0), places=6)

    def test_what_does_not_fit_is_refused(self):
        def refuse(data, likelihood, code, *words):
            self.assert_refused(run("train", "--data", data, "--network", "linear", "--likelihood", likelihood, "--steps", 5,
                                    "--batch", 64, "--out", self.folder / "refused", ranks=2), code, *words)

        refuse(self.two_columns(), "poisson", 65, "poisson", "counts")
        refuse(self.two_columns(), "gaussian:learnt", 2, "gaussian:learned")
        refuse("moons", "heteroscedastic", 2, "class labels", "target_")
        self.train(self.two_columns(), "gaussian:learned", "run", steps=5)
        for statistic, words in (("accuracy", ("accuracy", "numbers", "variance")), ("meen", ("meen", "mean"))):
            self.assert_refused(run("evaluate", "--checkpoint", self.folder / "run", "--check", statistic, ranks=2), 2, *words)


class Classification(RunTest):
    def test_checks_of_labels(self):
        self.succeed("train", "--data", "moons", "--network", "mlp:8,tanh", "--likelihood", "bernoulli", "--batch", 100,
                     "--steps", 200, "--lr", "0.02", "--progress", "none", "--out", self.folder)
        metrics = [self.succeed("evaluate", "--checkpoint", self.folder, "--json", "--split", "train", "--check",
                                "accuracy,class-entropy", ranks=ranks).json for ranks in (1, 2, 4)]
        self.assertEqual(metrics[0], metrics[1])
        self.assertEqual(metrics[0], metrics[2])
        accuracy, entropy = metrics[0]["checks"]
        self.assertEqual(accuracy["observed"], metrics[0]["accuracy"])
        self.assertEqual(entropy["statistic"], "class-entropy")
        self.assertLessEqual(entropy["observed"], math.log(2) + 1e-12)


if __name__ == "__main__":
    unittest.main()
