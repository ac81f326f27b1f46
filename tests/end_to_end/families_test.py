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

    def test_an_ensemble_of_one_is_its_member(self):
        for family in ("mean-field", "low-rank:2", "dropout:0.2"):
            single, ensemble = self.folder / family, self.folder / f"one-{family}"
            for posterior, out in ((family, single), (f"ensemble:1,{family}", ensemble)):
                self.succeed("train", *MOONS, "--posterior", posterior, "--steps", 20, "--progress", "none", "--out", out)
            self.assert_same_bits(checkpoints(single)[-1], checkpoints(ensemble)[-1])

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

    def arrays(self, directory, tensor, folder="posterior"):
        with h5py.File(checkpoints(directory)[-1]) as file:
            return {name: values[()].astype(float) for name, values in file[f"{folder}/{tensor}"].items()}

    def test_ivon_starts_at_the_prior(self):
        first = self.folder / "first"
        self.succeed("train", *MOONS, "--steps", 200, "--out", first, "--progress", "none")
        self.succeed("train", *MOONS, "--prior", f"checkpoint:{checkpoints(first)[-1]}", "--optimizer", "ivon", "--lr", "0",
                     "--steps", 1, "--out", self.folder / "second", "--progress", "none")
        with h5py.File(checkpoints(self.folder / "second")[-1]) as held:
            self.assertLess(abs(held["history/kl"][0]), 1e-3)
        # The weight decay of each weight is no state: same bits through a stop, also while the KL warms up.
        more = ["train", *MOONS, "--prior", f"checkpoint:{checkpoints(first)[-1]},inflate=2", "--optimizer", "ivon", "--lr",
                "0.1", "--kl-warmup", "0.6", "--shards", 2, "--steps", 20, "--progress", "none"]
        self.succeed(*more, "--out", self.folder / "one")
        self.run_with_code(75, *more, "--stop-after", 5, "--out", self.folder / "stopped", ranks=2)
        self.succeed("train", "--out", self.folder / "stopped", "--progress", "none", ranks=2)
        self.assert_same_bits(checkpoints(self.folder / "one")[-1], checkpoints(self.folder / "stopped")[-1])
        # Where the file gives scales, the first Hessian is what they imply: 1 / (N s^2) less the weight decay 1 / N.
        self.succeed("train", *MOONS, "--init", first, "--optimizer", "ivon", "--lr", "0", "--beta2", "0.9999999", "--steps",
                     1, "--out", self.folder / "third", "--progress", "none")
        scale = self.posterior(first)["fc2.weight/scale"].astype(float)
        with h5py.File(checkpoints(self.folder / "third")[-1]) as held:
            examples = held.attrs["dataset_size"]
            hessian = held["optimizer/scale_hessian/fc2.weight"][()]
        sharp = scale < 0.9  # the others say no more than the prior
        self.assertGreater(sharp.sum(), 100)
        np.testing.assert_allclose(hessian[sharp], ((scale**-2 - 1) / examples)[sharp], rtol=1e-3)

    def test_a_prior_takes_exact_variances_of_other_families(self):
        def mean_and_variance(run, tensor):
            posterior = self.arrays(run, tensor)
            if "factor" in posterior:
                return posterior["mean"], posterior["scale"]**2 + (posterior["factor"]**2).sum(axis=-1)
            if "lower" in posterior:
                further = (posterior["lower"]**2).mean(axis=1)
                return posterior["mean"], posterior["scale"]**2 + further.reshape(posterior["scale"].shape)
            if "precision" in posterior:
                return posterior["mean"], 1 / posterior["precision"]
            if "covariance_root" in posterior:
                return posterior["mean"], (posterior["covariance_root"]**2).sum(axis=1).reshape(posterior["mean"].shape)
            further = (posterior["deviations"]**2).sum(axis=0) / (2 * (len(posterior["deviations"]) - 1))
            return posterior["average"], posterior["variance"] / 2 + further

        for name, options, correlated in (("low-rank", ["low-rank:3"], True), ("full-rank", ["full-rank"], True),
                                          ("laplace", ["laplace"], False), ("last-layer", ["laplace:last-layer"], True),
                                          ("swag", ["swag:3", "--swag-every", 5], True)):
            with self.subTest(family=name):
                first, second = self.folder / name, self.folder / f"{name}-next"
                self.succeed("train", *MOONS, "--lr", "0.05", "--steps", 60, "--posterior", *options, "--out", first,
                             "--progress", "none")
                others = ["--prior", "fc[12]=normal:1"] if name == "last-layer" else []
                result = self.succeed("train", *MOONS, "--prior", f"checkpoint:{checkpoints(first)[-1]}", *others, "--steps", 1,
                                      "--lr", "0", "--out", second, "--progress", "none")
                mean, variance = mean_and_variance(first, "fc3.weight")
                held = self.arrays(second, "fc3.weight", "prior")
                np.testing.assert_allclose(held["mean"], mean, rtol=1e-12)
                np.testing.assert_allclose(held["scale"], np.sqrt(variance), rtol=1e-6)
                self.assertEqual("its correlations are dropped" in result.stderr, correlated, result)

    def test_a_prior_refuses_posteriors_that_are_not_gaussian(self):
        for family, options in (("spike-slab", ["--prior", "spike-slab"]), ("dropconnect:0.2", [])):
            first = self.folder / family
            self.succeed("train", *MOONS, "--steps", 2, "--posterior", family, *options, "--out", first, "--progress", "none")
            result = self.run_with_code(2, "train", *MOONS, "--prior", f"checkpoint:{checkpoints(first)[-1]}", "--out",
                                        self.folder / "next")
            self.assert_refused(result, 2, "fc1.weight", f"the posterior {family}", "--init")

    def test_a_start_takes_every_array_that_fits_and_names_the_others(self):
        for options, tensor, array in ((["--posterior", "low-rank:2"], "fc2.weight", "factor"),
                                       (["--posterior", "fc3=full-rank"], "fc3.weight", "lower"),
                                       (["--posterior", "spike-slab", "--prior", "spike-slab"], "fc1.bias", "inclusion_logit"),
                                       (["--prior", "hierarchical"], "fc1.weight", "prior_location")):
            with self.subTest(array=array):
                first, second = self.folder / f"{array}-first", self.folder / f"{array}-second"
                self.succeed("train", *MOONS, *options, "--steps", 30, "--lr", "0.05", "--out", first, "--progress", "none")
                start = ["train", *MOONS, "--init", first, "--steps", 1, "--lr", "0", "--progress", "none"]
                result = self.succeed(*start, *options, "--seed", 7, "--out", second)
                before, after = self.arrays(first, tensor), self.arrays(second, tensor)
                for name in before:
                    np.testing.assert_allclose(after[name], before[name], rtol=3e-6, atol=1e-9, err_msg=name)
                self.assertNotRegex(result.stderr, "init +without")
                result = self.succeed(*start, "--out", self.folder / f"{array}-other")
                self.assertRegex(result.stderr, rf"init +without [^\n]*/{array}[ ,:]")

    def test_tensors_that_do_not_match_are_named_with_the_way_out(self):
        first = self.folder / "first"
        self.succeed("train", *MOONS, "--steps", 2, "--out", first, "--progress", "none")
        wide = [option if option != "mlp:20,20" else "mlp:20,30" for option in MOONS]
        file = checkpoints(first)[-1]
        result = self.run_with_code(65, "train", *wide, "--prior", f"checkpoint:{file}", "--out", self.folder / "wide")
        self.assertIn("fc2.weight is [20, 20] in that file and [30, 20] in the network", result.stderr)
        self.assertIn("--prior 'fc2.weight=normal:1'", result.stderr)
        self.succeed("train", *wide, "--prior", f"checkpoint:{file}", "--prior", "fc[23]=normal:1", "--steps", 2, "--out",
                     self.folder / "wide", "--progress", "none")
        result = self.run_with_code(65, "train", *wide, "--init", first, "--out", self.folder / "start")
        self.assertIn("fc3.weight is [1, 20] and the network's [1, 30]", result.stderr)
        self.succeed("train", *wide, "--init", f"{first},skip=fc[23]", "--steps", 1, "--lr", "0", "--out",
                     self.folder / "start", "--progress", "none")
        started, before = self.posterior(self.folder / "start"), self.posterior(first)
        np.testing.assert_array_equal(started["fc1.weight/mean"], before["fc1.weight/mean"])
        self.run_with_code(65, "train", *MOONS, "--prior", "weights:none.safetensors", "--out", self.folder / "none")


class Reports(RunTest):
    def started(self, *options):
        return self.succeed("train", *MOONS, *options, "--steps", 3, "--out", self.folder / "run", "--overwrite", "--progress",
                            "none").stderr

    def test_the_log_says_how_the_kl_is_taken(self):
        self.assertRegex(self.started(), r"KL +closed form\n")
        self.assertRegex(self.started("--prior", "laplace:1", "--prior", "fc1=student-t", "--prior", "fc2.bias=horseshoe:1"),
                         r"KL +closed form; Monte Carlo at the draws for fc1.weight, fc1.bias, fc2.bias\n")
        self.assertRegex(self.started("--prior", "student-t"),
                         r"KL +Monte Carlo at the draws for fc1.weight, fc1.bias, fc2.weight, fc2.bias and 2 more\n")
        self.assertNotRegex(self.started("--posterior", "point"), r"\bKL  ")

    def test_learned_scales_of_priors_are_reported(self):
        self.started("--prior", "hierarchical:0.7", "--prior", "fc2=empirical", "--prior", "fc3=laplace:0.4")
        tensors = self.succeed("inspect", self.folder / "run", "--json").json["posterior"]
        text = self.succeed("inspect", self.folder / "run").stdout
        with h5py.File(checkpoints(self.folder / "run")[-1]) as file:
            learned = file["posterior/fc1.weight"]
            location, raw = (learned[name][0].astype(float) for name in ("prior_location", "prior_raw_scale"))
            deviation = np.log1p(np.exp(raw))
            draws = np.exp(location + deviation * np.random.default_rng(1).standard_normal(1_000_000))
            fitted = file["posterior/fc2.weight"]
            scale = np.sqrt(np.mean(fitted["mean"][()].astype(float)**2 + fitted["scale"][()].astype(float)**2))
        # Five standard errors of a mean; of a deviation of a nearly normal distribution.
        error = draws.std() / 1000
        self.assertAlmostEqual(tensors["fc1.weight"]["prior_scale_mean"], draws.mean(), delta=5 * error)
        self.assertAlmostEqual(tensors["fc1.weight"]["prior_scale_deviation"], draws.std(), delta=5 * error)
        self.assertAlmostEqual(tensors["fc2.weight"]["prior_scale"], scale, delta=1e-9)
        self.assertNotIn("prior_scale", tensors["fc3.weight"])
        for row in (rf"fc1.weight .* hierarchical:0.7 +{tensors['fc1.weight']['prior_scale_mean']:.3g} \+- ",
                    rf"fc2.weight .* empirical +{scale:.4g} ", r"fc3.weight .* laplace:0.4 +- "):
            self.assertRegex(text, row)
        self.assertNotIn("inf ", text)


if __name__ == "__main__":
    unittest.main()
