"""Every experiment with a short form, each with a number that would be wrong if the method were."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"


def short(name, *arguments):
    """The values that the experiment's short form prints, and whether it drew its figure."""
    with tempfile.TemporaryDirectory() as folder:
        command = [EXPERIMENTS / name / "run", "--short", "--credence", os.environ["CREDENCE_EXECUTABLE"], "--output", folder,
                   *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if process.returncode != 0:
            raise AssertionError(f"{name}: {process.stdout}{process.stderr}")
        for file in ("figure.png", "results.txt"):
            if (pathlib.Path(folder) / file).stat().st_size == 0:
                raise AssertionError(f"{name} left {file} empty")
        return json.loads(process.stdout.splitlines()[-1])


class Experiments(unittest.TestCase):
    def test_coin_toss_reaches_the_best_gaussian(self):
        values = short("coin_toss")
        self.assertLess(values["elbo"], values["best"] + 1e-4)  # -7.1891 has four decimals
        self.assertGreater(values["elbo"], values["best"] - 0.005)
        self.assertAlmostEqual(values["estimate"], values["elbo"], delta=0.06)  # five standard errors

    def test_linear_regression_knows_what_a_factorised_posterior_loses(self):
        values = short("linear_regression")
        self.assertGreater(values["log_evidence"] - values["best_mean_field"], 1.0)
        self.assertLess(values["mean-field"], values["best_mean_field"] + 1e-6)
        self.assertGreater(values["mean-field"], values["best_mean_field"] - 0.05)
        self.assertLess(values["full-rank"], values["log_evidence"] + 1e-6)
        self.assertGreater(values["full-rank"], values["log_evidence"] - 0.05)

    def test_maximum_likelihood_is_overconfident(self):
        values = short("mle_map_vi")
        mle, vi = values["maximum likelihood"], values["variational inference"]
        self.assertGreater(mle["confidence"] - mle["accuracy"], 0.05)
        self.assertLess(vi["confidence"] - vi["accuracy"], 0.02)
        self.assertLess(vi["nll"], mle["nll"])

    def test_sparse_priors_find_the_inputs_that_matter(self):
        values = short("priors")
        for name in ("horseshoe by input", "spike-slab"):
            self.assertGreater(values[name]["share"], 0.9, name)
        self.assertLess(values["normal"]["share"], 0.9)
        for task in ("linear", "curved"):  # layer sizes are learned from the data, at no cost in fit
            self.assertEqual(values[f"{task}, normal"]["units"], 50)
            self.assertLess(values[f"{task}, horseshoe by unit"]["nll"], values[f"{task}, normal"]["nll"] + 0.03)
        units = {task: values[f"{task}, horseshoe by unit"]["units"] for task in ("linear", "curved")}
        self.assertLess(units["linear"], 6)
        self.assertLess(units["curved"], 20)
        self.assertGreater(units["curved"], units["linear"])

    def test_moons_reach_a_bound_near_that_of_long_runs(self):
        values = short("moons")  # long runs end near 104 without biases; without a KL a run would report 60, the prior alone 347
        self.assertGreater(values["without biases"]["negative_elbo"], 95.0)
        self.assertLess(values["without biases"]["negative_elbo"], 120.0)
        for name in ("full data", "batches of 50"):
            self.assertGreater(values[name]["accuracy"], 0.95, name)

    def test_estimators_agree_and_differ_in_variance(self):
        values = short("estimators")
        variance = {name: row["mean_variance"] for name, row in values.items()}
        self.assertLess(variance["flipout, 1"], variance["reparam, shared, 1"])
        self.assertLess(variance["local-reparam, 1"], variance["flipout, 1"])
        self.assertLess(variance["reparam, shard, 1"], variance["reparam, shared, 1"])
        self.assertLess(variance["reparam, shared, 4"], variance["reparam, shared, 1"])
        self.assertGreater(variance["score, 8"], variance["reparam, shared, 1"])
        for name, row in values.items():  # one expectation: a bias of a fifth of the gradient's length makes over 20 of it
            self.assertLess(row["distance"], 4.0, name)
        self.assertLess(values["score, 8"]["bytes"], 1000)
        self.assertGreater(values["reparam, shared, 1"]["bytes"], 40000)

    def test_dropout_spreads_by_its_rate(self):
        values = short("dropout")
        self.assertEqual(values["point"]["near"], 0.0)
        self.assertGreater(values["dropout:0.3"]["near"], values["dropout:0.1"]["near"])
        self.assertGreater(values["mean-field"]["far"], values["mean-field"]["near"])

    def test_sparse_networks_need_few_weights(self):
        values = short("sparse")["LeNet-300-100"]
        self.assertGreater(values["compression"], 4.0)
        self.assertAlmostEqual(values["compression"], values["zeros"], places=9)  # of the exported file, counted here
        self.assertGreater(values["pruned"], values["sparse"] - 0.01)
        self.assertAlmostEqual(values["exported"], values["pruned"], delta=5e-4)  # evaluated in NumPy: ties of rounding
        self.assertGreater(values["pruned"], values["magnitude"] + 0.01)

    def test_an_informed_prior_saves_labels(self):
        values = short("transfer")
        self.assertGreater(values["informed prior"][0], values["no knowledge"][0])
        # With the prior not applied, the start alone has an NLL of 0.44; with it 0.36.
        self.assertLess(values["nll"]["informed prior"][0], values["nll"]["same start only"][0] - 0.03)

    def test_mutual_information_chooses_the_labels(self):
        values = short("active_learning")
        self.assertEqual(values["mutual information"][0], values["random"][0])  # both arms begin with the same labels
        self.assertNotEqual(values["mutual information"][1], values["random"][1])
        self.assertGreater(values["ratio"], 1.5)  # of labels in no order it is 1

    def test_generative_bounds_beat_independent_pixels(self):
        values = short("vae")
        for name in ("fixed decoder", "Bayesian decoder"):
            self.assertGreater(values[name]["elbo_per_example"], values["independent pixels"] + 50.0, name)
            self.assertGreater(values[name]["importance_bound"], values[name]["elbo_per_example"], name)
            self.assertLess(values[name]["importance_bound"], values[name]["elbo_per_example"] + 30.0, name)

    def test_depth_grows_with_the_task(self):
        values = short("adaptive_depth")
        easy, hard = values["global 0"], values["global 2"]
        self.assertGreater(hard["mean"], easy["mean"] + 0.5)
        self.assertGreater(hard["accuracy"], hard["at_depth"][0] + 0.1)

    def test_groups_learn_from_each_other(self):
        values = short("hierarchical_groups")
        for other in ("pooled", "separate"):
            self.assertLess(values["hierarchical"]["nll"], values[other]["nll"], other)
            self.assertGreater(values["hierarchical"]["accuracy"], values[other]["accuracy"], other)
        self.assertLess(values["hierarchical, VI"]["nll"], values["separate, VI"]["nll"])
        self.assertGreater(values["hierarchical, VI"]["accuracy"], values["separate, VI"]["accuracy"])


if __name__ == "__main__":
    unittest.main()
