"""Networks with latent variables from the command line: same bits on any number of ranks, stopped and resumed; what
evaluate says of them; combinations that make no sense."""

import math
import unittest

import h5py
import numpy as np

from support import RunTest, checkpoints, run

LABELS = ["--data", "moons", "--likelihood", "bernoulli", "--batch", "64"]
GROUPS = 3


class Latent(RunTest):
    def setUp(self):
        super().setUp()
        generator = np.random.default_rng(5)
        x = generator.standard_normal((240, 2))
        group = np.arange(240) % GROUPS
        label = (x[:, 0] * np.where(group == 0, -1.0, 1.0) + 0.3 * x[:, 1] > 0).astype(int)
        self.groups = self.folder / "groups.csv"
        lines = [f"{a:.5f},{b:.5f},{g},{y},{'test' if i >= 160 else 'train'}"
                 for i, ((a, b), g, y) in enumerate(zip(x, group, label))]
        self.groups.write_text("x1,x2,group,label,split\n" + "\n".join(lines) + "\n")

    def check(self, *options, evaluate=(), steps=24):
        """The same bits on 1 and 4 ranks and in pieces; the metrics, the same on 1, 2 and 4 ranks."""
        common = ["train", *options, "--shards", 4, "--steps", steps, "--progress", "none"]
        self.succeed(*common, "--out", self.folder / "one")
        self.succeed(*common, "--out", self.folder / "four", ranks=4)
        stopped = run(*common, "--stop-after", 9, "--out", self.folder / "stopped", ranks=2)
        self.assertEqual(stopped.code, 75, stopped)
        self.succeed("train", "--out", self.folder / "stopped", "--progress", "none")
        for other in ("four", "stopped"):
            self.assert_same_bits(checkpoints(self.folder / "one")[-1], checkpoints(self.folder / other)[-1])
        metrics = [self.succeed("evaluate", "--checkpoint", self.folder / "one", "--json", *evaluate, ranks=ranks).json
                   for ranks in (1, 2, 4)]
        self.assertEqual(metrics[0], metrics[1])
        self.assertEqual(metrics[0], metrics[2])
        return metrics[0]

    def test_vae_of_images(self):
        kept = self.folder / "kept.h5"
        metrics = self.check("--data", "fashion-mnist", "--network", "vae:3,16", "--batch", 64, "--lr", "2e-3", "--noise", "shard",
                             evaluate=("--samples", 5, "--predictions", kept, "--ood", "fashion-mnist"), steps=60)
        self.assertGreater(metrics["importance_bound"], metrics["elbo_per_example"])
        self.assertLess(metrics["elbo_per_example"], -100.0)
        self.assertGreater(metrics["elbo_per_example"], -784 * math.log(2.0))  # what no knowledge costs
        self.assertEqual(metrics["ood_auroc"], 0.5)  # the same images with the same noise
        with h5py.File(kept) as file:
            bound = file["generative/importance_bound"][()]
            self.assertAlmostEqual(bound.mean(), metrics["importance_bound"], places=6)
            self.assertEqual(file["generative/samples"].shape, (64, 1, 28, 28))
            self.assertEqual(set(np.unique(file["generative/inputs"][()])), {0.0, 1.0})
            again = file["generative/reconstructions"][()]
            self.assertTrue(0.0 <= again.min() and again.max() <= 1.0 and again.std() > 0.1)
        with h5py.File(checkpoints(self.folder / "one")[-1]) as file:
            families = {name: tensor.attrs["family"] for name, tensor in file["posterior"].items()}
            self.assertIn("bound over its latent variables", file.attrs["bound"])
        self.assertEqual({families[n] for n in families if n.startswith("encoder")}, {"point"})
        self.assertEqual({families[n] for n in families if n.startswith("decoder")}, {"mean-field"})

    def test_levels_and_a_fixed_decoder(self):
        metrics = self.check("--data", "fashion-mnist", "--network", "vae:2,8", "--likelihood", "vae-categorical:4",
                             "--posterior", "point", "--batch", 32, evaluate=("--samples", 2), steps=20)
        self.assertEqual(metrics["samples"], 2)
        self.assertEqual(metrics["mean"]["importance_bound"], metrics["importance_bound"])

    def test_vae_of_a_table_counts_the_kl_of_codes_in_the_elbo(self):
        metrics = self.check("--data", "moons", "--network", "vae:1,10", "--likelihood", "vae-gaussian:0.5", "--batch", 64,
                             evaluate=("--elbo", "--samples", 50))
        with h5py.File(checkpoints(self.folder / "one")[-1]) as file:
            trained = file["history/expected_log_likelihood"][-5:].mean()
        estimate = metrics["elbo"]["expected_log_likelihood"]
        self.assertLess(abs(estimate - trained), 0.15 * abs(trained))
        self.assertAlmostEqual(estimate / 500, metrics["elbo_per_example"], delta=0.3)  # training and test data

    def test_one_depth_for_all_inputs(self):
        metrics = self.check(*LABELS, "--network", "adaptive-depth:4,width=8,prior=geometric:0.5", "--noise", "shard",
                             evaluate=("--samples", 4, "--elbo"))
        depth = metrics["depth"]
        self.assertAlmostEqual(sum(depth["probability"]), 1.0, places=6)
        self.assertAlmostEqual(depth["mean"], sum(l * p for l, p in enumerate(depth["probability"], 1)), places=9)
        mode = int(np.argmax(depth["probability"]))
        self.assertEqual(depth["mean_mode"], mode + 1)
        self.assertEqual(metrics["accuracy"], depth["accuracy"][mode])
        self.assertEqual(metrics["nll"], depth["nll"][mode])
        with h5py.File(checkpoints(self.folder / "one")[-1]) as file:
            logits = file["posterior/depth_logits/mean"][()].astype(float)
            self.assertEqual(file["posterior/depth_logits"].attrs["family"], "categorical")
        log_q = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(depth["probability"], np.exp(log_q), rtol=1e-5)
        # Its KL is among those reported, once.
        prior = 0.5 ** np.arange(1, 5)
        kl = (np.exp(log_q) * (log_q - np.log(prior / prior.sum()))).sum()
        described = self.succeed("inspect", checkpoints(self.folder / "one")[-1], "--json").json["posterior"]
        self.assertAlmostEqual(described["depth_logits"]["kl"], kl, delta=1e-5)
        self.assertAlmostEqual(sum(t["kl"] for t in described.values() if t.get("kl") is not None), metrics["elbo"]["kl"],
                               delta=1e-6 * metrics["elbo"]["kl"])

    def test_a_depth_for_each_input(self):
        metrics = self.check(*LABELS, "--network", "adaptive-depth:3,width=8,input", "--posterior", "point",
                             evaluate=("--samples", 1))
        self.assertAlmostEqual(sum(metrics["depth"]["probability"]), 1.0, places=6)
        with h5py.File(checkpoints(self.folder / "one")[-1]) as file:
            self.assertNotIn("depth_logits", file["posterior"])

    def test_depth_of_a_regression(self):
        table = self.folder / "sine.csv"
        x = np.linspace(-2.0, 2.0, 80)
        table.write_text("x,target_y\n" + "\n".join(f"{a:.4f},{math.sin(2 * a):.4f}" for a in x) + "\n")
        metrics = self.check("--data", f"csv:{table}", "--network", "adaptive-depth:3,width=8", "--likelihood", "gaussian:learned",
                             "--batch", 16, evaluate=("--samples", 3))
        mode = int(np.argmax(metrics["depth"]["probability"]))
        self.assertEqual(metrics["rmse"], metrics["depth"]["rmse"][mode])

    def test_groups_around_shared_weights(self):
        metrics = self.check("--data", f"csv:{self.groups}", "--network", f"hierarchical-groups:{GROUPS},8,tanh,shared=0",
                             "--likelihood", "bernoulli", "--batch", 32, "--lr", "0.02", "--initial-scale", "0.03",
                             evaluate=("--samples", 16), steps=600)
        # Group 0 has the opposite sign: one network for all would be right for two thirds.
        self.assertGreater(metrics["accuracy"], 0.85)
        with h5py.File(checkpoints(self.folder / "one")[-1]) as file:
            deviation = file["posterior/fc2.deviation.weight"]
            self.assertEqual(deviation["mean"].shape, (1, 8, GROUPS))
            self.assertIn("prior_location", deviation)

    def test_an_earlier_posterior_of_groups_or_of_a_depth_is_a_prior(self):
        groups = ["--data", f"csv:{self.groups}", "--network", f"hierarchical-groups:{GROUPS},8", "--likelihood", "bernoulli"]
        depth = [*LABELS, "--network", "adaptive-depth:3,width=8"]
        for name, common, tensor in (("groups", groups, "fc2.deviation.weight"), ("depth", depth, "head3.weight")):
            with self.subTest(network=name):
                first, second = self.folder / name, self.folder / f"{name}-next"
                quiet = ["--progress", "none"]
                self.succeed("train", *common, "--steps", 20, *quiet, "--out", first)
                earlier = checkpoints(first)[-1]
                again = ["train", *common, "--prior", f"checkpoint:{earlier}", "--lr", "0", "--steps", 4, *quiet, "--out", second]
                self.assertEqual(run(*again, "--stop-after", 2).code, 75)
                self.succeed(*again)
                with h5py.File(earlier) as before, h5py.File(checkpoints(second)[-1]) as after:
                    self.assertTrue(after[f"posterior/{tensor}"].attrs["prior"].startswith("checkpoint:"))
                    np.testing.assert_array_equal(after[f"prior/{tensor}/mean"][()], before[f"posterior/{tensor}/mean"][()])
                    self.assertLess(abs(after["history/kl"][0]), 1e-3)  # q is the prior; the depth starts at the network's
                self.succeed("evaluate", "--checkpoint", second)

    def test_the_kl_of_a_depth_beside_point_estimates(self):
        self.succeed("train", *LABELS, "--network", "adaptive-depth:3,width=8", "--posterior", "point", "--steps", 40, "--lr",
                     "0.05", "--progress", "none", "--out", self.folder / "point")
        described = self.succeed("inspect", checkpoints(self.folder / "point")[-1], "--json").json["posterior"]
        elbo = self.succeed("evaluate", "--checkpoint", self.folder / "point", "--elbo", "--json").json["elbo"]
        self.assertGreater(elbo["kl"], 0.0)
        self.assertAlmostEqual(elbo["kl"], described["depth_logits"]["kl"], delta=1e-9)
        self.assertNotIn("elbo", elbo)
        with h5py.File(checkpoints(self.folder / "point")[-1]) as file:
            self.assertTrue(np.isfinite(file["history/kl"][()]).all())
            self.assertTrue(np.isnan(file["history/elbo"][()]).all())

    def test_noise_on_the_activations_of_a_decoder(self):
        self.check("--data", "moons", "--network", "vae:1,10", "--batch", 64, "--estimator", "flipout", evaluate=("--samples", 2))

    def test_nonsense_is_refused_in_one_sentence(self):
        def refused(code, words, *options):
            self.assert_refused(run("train", *options, "--steps", 2, "--progress", "none", "--out", self.folder / "x"), code, *words)

        refused(2, ["--network vae"], "--data", "moons", "--network", "mlp:4", "--likelihood", "vae-gaussian:1")
        refused(2, ["vae-bernoulli"], "--data", "moons", "--network", "vae:2", "--likelihood", "bernoulli")
        refused(2, ["pixels"], "--data", "moons", "--network", "vae:2", "--likelihood", "vae-categorical")
        refused(2, ["vae:20"], "--data", "moons", "--network", "vae")
        refused(2, ["adaptive-depth:8,width=64"], *LABELS, "--network", "adaptive-depth")
        refused(2, ["poisson", "geometric"], *LABELS, "--network", "adaptive-depth:3,prior=gamma:1")
        refused(2, ["named 'group'"], *LABELS, "--network", "hierarchical-groups:3,8")
        refused(2, ["depth_logits", "reparam"], *LABELS, "--network", "adaptive-depth:3", "--estimator", "score", "--weight-samples", 4)
        refused(2, ["depth_logits", "reparam"], *LABELS, "--network", "adaptive-depth:3", "--estimator", "flipout")
        refused(2, ["depth_logits", "leave it out"], *LABELS, "--network", "adaptive-depth:3", "--posterior", "depth=point")
        refused(2, ["this network has none", "reparam"], "--data", f"csv:{self.groups}", "--network", "hierarchical-groups:3,8",
                "--estimator", "flipout")
        refused(2, ["fc2.deviation.weight", "give both"], "--data", f"csv:{self.groups}", "--network", "hierarchical-groups:3,8",
                "--posterior", "dropconnect:0.2", "--posterior", "deviation=mean-field")
        refused(65, ["group is 2", "0 to 1"], "--data", f"csv:{self.groups}", "--network", "hierarchical-groups:2,8")
        self.succeed("train", "--data", "moons", "--network", "vae:1,4", "--steps", 2, "--progress", "none", "--out",
                     self.folder / "vae")
        vae = ["--checkpoint", self.folder / "vae"]
        self.assert_refused(run("evaluate", *vae, "--check", "mean"), 2, "--check")
        self.assert_refused(run("predict", *vae, "--data", "moons", "--examples", "0-3"), 2, "describes its inputs")
        self.assert_refused(run("export", *vae, "--to", "netcdf", self.folder / "x.nc"), 2, "describes its inputs")


if __name__ == "__main__":
    unittest.main(verbosity=2)
