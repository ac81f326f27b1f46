"""Posterior families and priors from the command line: same bits on any number of ranks, stopped and resumed; earlier
posteriors as priors and as starts."""

import unittest

import h5py
import numpy as np

from support import MOONS, RunTest, checkpoints

FAMILIES = {
    "dropout": ["--posterior", "dropout:0.2", "--noise", "shard"],
    "low_rank_and_full_rank": ["--posterior", "low-rank:3", "--posterior", "fc3=full-rank", "--noise", "antithetic"],
    "spike_slab": ["--posterior", "spike-slab", "--prior", "spike-slab"],
    "sparse_and_gaussian_dropout": ["--posterior", "sparse", "--posterior", "fc1=gaussian-dropout:0.3"],
    "ensemble_under_a_prior_charged_at_draws": ["--posterior", "ensemble:2", "--prior", "student-t", "--noise", "shard"],
    "ensemble_of_low_rank": ["--posterior", "ensemble:4,low-rank:2", "--noise", "antithetic"],
    "ensemble_of_learned_prior_scales_clipped": ["--posterior", "ensemble:4", "--prior", "hierarchical", "--weight-samples",
                                                 2, "--clip-norm", 0.02],
    "ensemble_by_flipout": ["--posterior", "ensemble:4", "--estimator", "flipout", "--optimizer", "lars"],
    "ensemble_of_swag": ["--posterior", "ensemble:4,swag:3", "--swag-start", 0.2, "--swag-every", 4],
    "ensemble_of_laplace": ["--posterior", "ensemble:2,laplace"],
    "hierarchical": ["--prior", "hierarchical", "--weight-samples", 2],
}


class Families(RunTest):
    def check(self, options):
        common = ["train", *MOONS, *options, "--shards", 4, "--steps", 24, "--progress", "none"]
        self.succeed(*common, "--out", self.folder / "one")
        self.succeed(*common, "--out", self.folder / "four", ranks=4)
        stopped = self.run_with_code(75, *common, "--stop-after", 9, "--out", self.folder / "stopped", ranks=2)
        self.assertIn("run the same command", stopped.stderr)
        self.succeed("train", "--out", self.folder / "stopped", "--progress", "none")
        for other in ("four", "stopped"):
            self.assert_same_bits(checkpoints(self.folder / "one")[-1], checkpoints(self.folder / other)[-1])


for name, family in FAMILIES.items():
    setattr(Families, f"test_{name}", lambda self, options=family: self.check(options))


class Members(RunTest):
    """Members of an ensemble are dealt to the ranks where these divide them."""

    def test_ranks_with_members_of_their_own_exchange_no_gradients(self):
        sent = {}
        for name, options in (("one", []), ("dealt", ["--posterior", "ensemble:2"]), ("odd", ["--posterior", "ensemble:3"])):
            result = self.succeed("train", *MOONS, *options, "--shards", 4, "--steps", 100, "--checkpoint-every", 1000,
                                  "--json", "--out", self.folder / name, ranks=2)
            sent[name] = result.json["bytes_sent"]
            dealt = "each rank trains 1 of the 2 members" in result.stdout + result.stderr
            self.assertEqual(dealt, name == "dealt", result)
            self.assertEqual(result.json["shards_per_rank"], 4 if dealt else 2)
        # Of 500 weights: sums of tensors in every step, and values for one checkpoint.
        self.assertLess(sent["dealt"], 0.6 * sent["one"])
        self.assertGreater(sent["odd"], 2.5 * sent["one"])

    def test_a_loss_that_overflows_ends_every_rank(self):
        result = self.run_with_code(93, "train", *MOONS, "--posterior", "ensemble:2,point", "--optimizer", "sgd", "--lr",
                                    "1e30", "--out", self.folder / "overflow", ranks=2)
        self.assertIn("is not finite", result.stderr)
        self.assertIn("member-0.", result.stderr)


class Informed(RunTest):
    def posterior(self, directory):
        with h5py.File(checkpoints(directory)[-1]) as file:
            return {f"{name}/{kind}": tensor[kind][()] for name, tensor in file["posterior"].items()
                    for kind in ("mean", "scale")}

    def test_an_earlier_posterior_is_prior_and_start_and_is_kept_with_the_run(self):
        first = self.folder / "first"
        self.succeed("train", *MOONS, "--steps", 200, "--out", first, "--progress", "none")
        before = self.posterior(first)
        file = checkpoints(first)[-1]
        second = ["train", *MOONS, "--prior", f"checkpoint:{file}", "--steps", 8, "--progress", "none",
                  "--shards", 2, "--out", self.folder / "second"]
        self.run_with_code(75, *second, "--stop-after", 1, "--lr", "0", ranks=2)
        for name, values in self.posterior(self.folder / "second").items():
            np.testing.assert_allclose(values, before[name], rtol=2e-6, atol=1e-9, err_msg=name)
        with h5py.File(checkpoints(self.folder / "second")[-1]) as held:
            # At rate zero q is the prior.
            self.assertLess(abs(held["history/kl"][0]), 1e-3)
            np.testing.assert_array_equal(held["prior/fc1.weight/mean"][()], before["fc1.weight/mean"].astype(float))
        first.rename(self.folder / "moved")
        self.succeed("train", "--out", self.folder / "second", "--progress", "none", ranks=2)
        self.succeed("evaluate", "--checkpoint", self.folder / "second", "--data", "moons")

    def test_tensors_that_do_not_match_are_named_with_the_way_out(self):
        first = self.folder / "first"
        self.succeed("train", *MOONS, "--steps", 2, "--out", first, "--progress", "none")
        wide = [option if option != "mlp:20,20" else "mlp:20,30" for option in MOONS]
        file = checkpoints(first)[-1]
        result = self.run_with_code(2, "train", *wide, "--prior", f"checkpoint:{file}", "--out", self.folder / "wide")
        self.assertIn("fc2.weight [30, 20]", result.stderr)
        self.assertIn("--prior 'fc2.weight=normal:1'", result.stderr)
        self.succeed("train", *wide, "--prior", f"checkpoint:{file}", "--prior", "fc[23]=normal:1", "--steps", 2, "--out",
                     self.folder / "wide", "--progress", "none")
        result = self.run_with_code(2, "train", *wide, "--init", first, "--out", self.folder / "start")
        self.assertIn("fc3.weight is [1, 20] and the network's [1, 30]", result.stderr)
        self.succeed("train", *wide, "--init", f"{first},skip=fc[23]", "--steps", 1, "--lr", "0", "--out",
                     self.folder / "start", "--progress", "none")
        started, before = self.posterior(self.folder / "start"), self.posterior(first)
        np.testing.assert_array_equal(started["fc1.weight/mean"], before["fc1.weight/mean"])
        self.run_with_code(65, "train", *MOONS, "--prior", "weights:none.safetensors", "--out", self.folder / "none")


if __name__ == "__main__":
    unittest.main()
