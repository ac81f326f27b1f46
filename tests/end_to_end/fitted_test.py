"""Posteriors that training leaves behind: laplace after a point run, swag from its iterates, sparse networks pruned."""

import json
import unittest

import h5py
import numpy as np

from support import MOONS, RunTest, checkpoints, run


def last(directory):
    return checkpoints(directory)[-1]


class Fitted(RunTest):
    def train(self, name, *options, ranks=1, steps=60, code=0):
        result = run("train", *MOONS, "--shards", 4, "--steps", steps, "--progress", "none", "--out", self.folder / name,
                     *options, ranks=ranks)
        self.assertEqual(result.code, code, result)
        return last(self.folder / name)


class Laplace(Fitted):
    def test_trains_as_point_does(self):
        point = self.train("point", "--posterior", "point")
        for name in ("laplace", "laplace:last-layer"):
            file = self.train(name.replace(":", "-"), "--posterior", name)
            with h5py.File(point) as expected, h5py.File(file) as found:
                for tensor in expected["posterior"]:
                    np.testing.assert_array_equal(found["posterior"][tensor]["mean"][()],
                                                  expected["posterior"][tensor]["mean"][()])
                np.testing.assert_array_equal(found["history/objective"][()], expected["history/objective"][()])
                self.assertGreaterEqual(found.attrs["log_evidence"], found.attrs["log_evidence_at_prior"])

    def test_same_bits_on_any_ranks_and_after_a_stop(self):
        for name in ("laplace", "laplace:last-layer"):
            label = name[-5:]
            straight = self.train(label + "1", "--posterior", name)
            self.assert_same_bits(straight, self.train(label + "4", "--posterior", name, ranks=4))
            stopped = self.train(label + "s", "--posterior", name, "--stop-after", 31, ranks=2, code=75)
            with h5py.File(stopped) as file:
                self.assertNotIn("log_evidence", file.attrs)
            refused = run("evaluate", "--checkpoint", self.folder / (label + "s"))
            self.assert_refused(refused, 2, "fitted when training ends", "continues it")
            resumed = self.train(label + "s", "--posterior", name, ranks=2)
            self.assert_same_bits(straight, resumed)
            with h5py.File(straight) as a, h5py.File(resumed) as b:
                self.assertEqual(a.attrs["log_evidence"], b.attrs["log_evidence"])

    def test_predictions_are_linearized_unless_sampled_is_asked_for(self):
        self.train("run", "--posterior", "laplace", "--lr", "0.02", steps=600)
        def evaluate(*options):
            return self.succeed("evaluate", "--checkpoint", self.folder / "run", "--json", *options).json
        default, linearized, sampled = evaluate(), evaluate("--predictive", "linearized"), evaluate("--predictive", "sampled")
        self.assertEqual(default, linearized)
        self.assertEqual((default["draws"], sampled["draws"]), ("linearized", "sampled"))
        self.assertEqual(default["mean"], sampled["mean"])
        self.assertGreater(default["accuracy"], 0.9)
        self.assertGreater(sampled["nll"], default["nll"])
        self.assertEqual(default["samples"], 32)
        self.assertGreater(default["mutual_information"], 0.0)

    def test_bad_input(self):
        for options, words in ((("--posterior", "laplace", "--prior", "horseshoe"), ("normal:STDDEV",)),
                               (("--posterior", "laplace", "--posterior", "fc1=mean-field"), ("must be point",)),
                               (("--posterior", "laplace:first"), ("last-layer",)),
                               (("--posterior", "laplace", "--laplace-precision", "best"), ("evidence",)),
                               (("--posterior", "swag:1"), ("between 2 and 1000",)),
                               (("--posterior", "swag", "--prior", "horseshoe"), ("infinite at zero", "mean-field")),
                               (("--posterior", "swag", "--swag-start", "0.99"), ("train longer", "--swag-start")),
                               (("--posterior", "swag", "--swag-every", "-3"), ("--swag-every",)),
                               (("--network", "mlp:500,500", "--likelihood", "bernoulli", "--posterior",
                                 "fc2=laplace:last-layer"), ("last Linear layer",))):
            result = run("train", *(MOONS if "--network" not in options else MOONS[:2]), "--steps", 20, "--out",
                         self.folder / "bad", *options)
            self.assert_refused(result, 2, *words)
        self.train("run", "--posterior", "point")
        result = run("evaluate", "--checkpoint", self.folder / "run", "--predictive", "exact")
        self.assert_refused(result, 2, "predictive", "linearized")


class Swag(Fitted):
    STEPS, RANK, EVERY = 60, 3, 4
    OPTIONS = ("--posterior", "swag:3", "--swag-every", EVERY, "--keep", 1000)

    def test_moments_are_those_of_the_iterates(self):
        file = self.train("run", *self.OPTIONS, "--checkpoint-every", 1)
        first = 45  # three quarters of the run
        steps = list(range(first, self.STEPS + 1, self.EVERY))
        with h5py.File(file) as found:
            self.assertEqual(found.attrs["collected"], len(steps))
            rates = found["history/learning_rate"][()]
            self.assertTrue(np.all(rates[first:] == rates[first]))
            self.assertGreater(rates[first - 1], rates[first])
            for tensor in found["posterior"]:
                iterates = []
                for step in steps:
                    with h5py.File(self.folder / "run" / f"checkpoint-{step:08}.h5") as earlier:
                        iterates.append(earlier["posterior"][tensor]["mean"][()].astype(np.float64))
                iterates = np.array(iterates)
                kept = {name: found["posterior"][tensor][name][()] for name in ("average", "variance", "deviations")}
                size = np.abs(iterates).max()
                # Rounding of a few float32 operations on numbers of that size.
                np.testing.assert_allclose(kept["average"], iterates.mean(0), rtol=0, atol=1e-6 * size)
                np.testing.assert_allclose(kept["variance"], iterates.var(0), rtol=1e-4, atol=1e-6 * size * np.ptp(iterates))
                for i in range(len(steps) - self.RANK, len(steps)):
                    np.testing.assert_allclose(kept["deviations"][i % self.RANK],
                                               iterates[i] - iterates[:i + 1].mean(0), rtol=0, atol=1e-6 * size)

    def test_same_bits_on_any_ranks_and_after_a_stop(self):
        straight = self.train("straight", *self.OPTIONS)
        self.assert_same_bits(straight, self.train("four", *self.OPTIONS, ranks=4))
        for stop in (20, 50):
            self.train("pieces", *self.OPTIONS, "--stop-after", stop, ranks=2, code=75)
        self.assert_same_bits(straight, self.train("pieces", *self.OPTIONS))
        metrics = [self.succeed("evaluate", "--checkpoint", self.folder / "four", "--json", ranks=ranks).json
                   for ranks in (1, 2)]
        self.assertEqual(metrics[0], metrics[1])
        self.assertGreater(metrics[0]["mutual_information"], 0.0)

    def test_a_longer_run_collects_anew(self):
        self.train("run", *self.OPTIONS)
        with h5py.File(self.train("run", *self.OPTIONS, steps=100)) as file:
            self.assertEqual(file.attrs["collected"], 7)  # after steps 75, 79, ..., 99


class Sparse(Fitted):
    def test_sparsity_is_reported_before_and_after_pruning(self):
        self.train("run", "--posterior", "sparse", "--lr", "0.02", steps=1500)
        metrics = self.succeed("evaluate", "--checkpoint", self.folder / "run", "--json", ranks=2).json
        pruned = metrics["pruned"]
        weights = left = every = gone = 0
        described = self.succeed("inspect", self.folder / "run", "--json").json
        with h5py.File(last(self.folder / "run")) as file:
            for name, counts in pruned["tensors"].items():
                tensor = file["posterior"][name]
                mean, scale = tensor["mean"][()].astype(np.float64), tensor["scale"][()].astype(np.float64)
                expected = int(np.sum(2 * np.log(scale / np.abs(mean)) > 3))
                self.assertEqual(counts, {"weights": mean.size, "pruned": expected})
                self.assertEqual(described["posterior"][name]["pruned"], expected)
                every, gone = every + mean.size, gone + expected
                if mean.ndim > 1:
                    weights, left = weights + mean.size, left + mean.size - expected
        self.assertGreater(gone, 0)
        self.assertAlmostEqual(pruned["sparsity"], gone / every, places=12)
        self.assertAlmostEqual(pruned["compression"], weights / left, places=12)
        self.assertAlmostEqual(described["attributes"]["compression"], weights / left, places=12)
        # What is pruned hardly matters: that is why it may go.
        self.assertLess(abs(pruned["mean"]["accuracy"] - metrics["mean"]["accuracy"]), 0.05)
        self.assertNotEqual(pruned["nll"], metrics["nll"])
        exported = self.folder / "pruned.safetensors"
        self.succeed("export", exported, "--to", "safetensors", "--prune", "--checkpoint", self.folder / "run")
        data = exported.read_bytes()
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        self.assertAlmostEqual(float(header["__metadata__"]["compression"]), weights / left, places=4)
        for name, counts in pruned["tensors"].items():
            begin, end = (8 + int.from_bytes(data[:8], "little") + offset for offset in header[name]["data_offsets"])
            self.assertEqual(int(np.sum(np.frombuffer(data[begin:end], np.float32) == 0)), counts["pruned"])
        self.train("point", "--posterior", "point")
        refused = run("export", exported, "--to", "safetensors", "--prune", "--checkpoint", self.folder / "point")
        self.assert_refused(refused, 2, "only sparse and spike-slab")
        self.assertIn("pruned", self.succeed("inspect", self.folder / "run").stdout)
        self.assertIn("compression", self.succeed("evaluate", "--checkpoint", self.folder / "run").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
