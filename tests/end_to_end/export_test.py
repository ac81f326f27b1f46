"""credence export: what ArviZ and the safetensors library make of the files, and the numbers in them against NumPy."""

import json
import math
import os
import pathlib
import subprocess
import unittest

import h5py
import numpy as np

from networks import mlp, read_safetensors, sigmoid
from support import LIMIT_SECONDS, RunTest, checkpoints, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOONS = ("--data", "moons", "--network", "mlp:8,8,tanh", "--likelihood", "bernoulli", "--batch", 100, "--steps", 120,
         "--lr", "0.02", "--initial-scale", "0.2")


def open_with_library(*arguments):
    python = subprocess.run([ROOT / "tests/prepare"], capture_output=True, text=True, check=True).stdout.strip()
    environment = dict(os.environ, OMP_NUM_THREADS="1", MPLCONFIGDIR=str(pathlib.Path(arguments[1]).parent))
    process = subprocess.run([python, "-B", pathlib.Path(__file__).with_name("open_with_libraries.py"), *arguments],
                             capture_output=True, text=True, timeout=LIMIT_SECONDS, env=environment)
    if process.returncode != 0:
        raise AssertionError(process.stderr)
    return json.loads(process.stdout.splitlines()[-1])


class Export(RunTest):
    def train(self, *options, folder="run"):
        self.succeed("train", "--progress", "none", *options, "--out", self.folder / folder)

    def export(self, form, name, *options, run="run", ranks=1):
        file = self.folder / name
        self.succeed("export", "--checkpoint", self.folder / run, "--to", form, file, *options, ranks=ranks)
        self.assertEqual(list(self.folder.glob("*.tmp")), [])
        return file

    def test_arviz_opens_it(self):
        self.train(*MOONS)
        file = self.export("netcdf", "draws.nc", "--draws", 40, ranks=2)
        seen = open_with_library("netcdf", file, self.folder)
        self.assertEqual(sorted(seen["groups"]), ["log_likelihood", "observed_data", "posterior", "posterior_predictive"])
        self.assertEqual(seen["attributes"], {"inference_library": "credence", "step": 120, "network": "mlp:8,8,tanh",
                                              "posterior": "mean-field", "data": "moons"})
        self.assertEqual(seen["variables"]["posterior"]["fc2.weight"],
                         [["chain", "draw", "fc2.weight_dim_0", "fc2.weight_dim_1"], [1, 40, 8, 8], "float32"])
        self.assertEqual(seen["variables"]["posterior_predictive"], {"y": [["chain", "draw", "y_dim_0"], [1, 40, 500],
                                                                           "int64"]})
        self.assertEqual(seen["variables"]["observed_data"], {"y": [["y_dim_0"], [500], "int64"]})
        self.assertEqual(seen["coordinates"]["draw"], list(range(40)))
        self.assertEqual(seen["dimensions"]["observed_data"], {"y_dim_0": 500})
        self.assertTrue((self.folder / "trace.png").read_bytes().startswith(b"\x89PNG"))
        with h5py.File(file) as opened:
            weight = np.float64(opened["posterior/fc1.weight"][0])
            summary = seen["summary"]
            self.assertEqual(len(summary), sum(np.prod(opened[f"posterior/fc{i}.{kind}"].shape[2:])
                                               for i in (1, 2, 3) for kind in ("weight", "bias")))
            for row in range(8):
                mean, deviation = summary[f"fc1.weight[{row}, 1]"]
                self.assertAlmostEqual(mean, weight[:, row, 1].mean(), places=6)
                self.assertAlmostEqual(deviation, weight[:, row, 1].std(ddof=1), places=6)
            log_likelihood = opened["log_likelihood/y"][0]
            # The leave-one-out estimate lies below the in-sample one.
            within = np.sum(np.log(np.mean(np.exp(log_likelihood), axis=0)))
            self.assertLess(seen["elpd_loo"], within)
            self.assertGreater(seen["elpd_loo"], within - 60)

    def test_draws_are_of_the_posterior_and_targets_of_the_draws(self):
        self.train(*MOONS)
        file = self.export("netcdf", "draws.nc", "--draws", 200)
        tensors, _ = read_safetensors(self.export("safetensors", "a.safetensors"))
        data = self.folder / "predictions.h5"
        self.succeed("evaluate", "--checkpoint", self.folder / "run", "--predictions", data, "--samples", 1)
        with h5py.File(data) as opened:
            inputs, labels = opened["surface/points"][()], opened["labels"][()]
        with h5py.File(file) as opened:
            draws = {name: opened[f"posterior/{name}"][0] for name in tensors if not name.endswith(".scale")}
            replicated, observed = opened["posterior_predictive/y"][0], opened["observed_data/y"][()]
            log_likelihood = opened["log_likelihood/y"][0]
        z = np.concatenate([((values - tensors[name]) / tensors[f"{name}.scale"]).reshape(200, -1)
                            for name, values in draws.items()], axis=1)
        self.assertGreater(z.size, 20000)
        # Standard normal: mean within 6 / sqrt(n), mean square within 6 sqrt(2 / n).
        self.assertLess(abs(z.mean()), 6 / math.sqrt(z.size))
        self.assertLess(abs(np.mean(z * z) - 1), 6 * math.sqrt(2 / z.size))
        self.assertLess(np.abs(np.corrcoef(z[:, :20].T) - np.eye(20)).max(), 6 / math.sqrt(200))

        np.testing.assert_array_equal(observed, labels)
        p = np.stack([sigmoid(mlp({name: values[i] for name, values in draws.items()}, inputs))[:, 0]
                      for i in range(200)])
        np.testing.assert_allclose(log_likelihood, np.log(np.where(labels == 1, p, 1 - p)), atol=2e-5)
        self.assertEqual(set(np.unique(replicated)), {0, 1})
        errors = (replicated - p) / np.sqrt(np.mean(p * (1 - p)))
        self.assertLess(abs(errors.mean()), 6 / math.sqrt(errors.size))
        # Below, between and above: targets follow their own probabilities.
        for low, high in ((0, 0.2), (0.2, 0.8), (0.8, 1)):
            inside = (p > low) & (p < high)
            bound = 6 * math.sqrt(np.mean(p[inside] * (1 - p[inside])) / inside.sum())
            self.assertLess(abs(np.mean(replicated[inside] - p[inside])), bound)
        # Replicates of two draws are no copies of each other.
        unsure = (p.mean(axis=0) > 0.2) & (p.mean(axis=0) < 0.8)
        self.assertGreater(np.mean(replicated[0, unsure] != replicated[1, unsure]), 0.1)

    def test_same_bytes_whenever_and_on_any_number_of_ranks(self):
        self.train(*MOONS)
        files = [self.export("netcdf", f"{i}.nc", "--draws", 5, ranks=ranks) for i, ranks in enumerate((1, 1, 2, 4))]
        for file in files[1:]:
            self.assertEqual(file.read_bytes(), files[0].read_bytes())
        again = [self.export("safetensors", f"{i}.safetensors", ranks=ranks) for i, ranks in enumerate((1, 2))]
        self.assertEqual(again[0].read_bytes(), again[1].read_bytes())

    def test_numbers_of_several_columns(self):
        rng = np.random.default_rng(2)
        x = rng.uniform(-2, 2, 150)
        lines = [f"{a},{np.sin(a) + 0.1 * e},{0.5 * a + 0.1 * f}" for a, e, f in zip(x, *rng.normal(0, 1, (2, 150)))]
        data = self.folder / "train.csv"
        data.write_text("x,y_sine,y_line\n" + "\n".join(lines) + "\n")
        self.train("--data", f"csv:{data}", "--network", "mlp:8,tanh", "--likelihood", "gaussian:0.1", "--batch", 50,
                   "--steps", 100, "--lr", "0.02")
        file = self.export("netcdf", "draws.nc", "--draws", 100, ranks=2)
        with h5py.File(file) as opened:
            self.assertEqual(opened["posterior_predictive/y"].shape, (1, 100, 150, 2))
            self.assertEqual(opened["log_likelihood/y"].shape, (1, 100, 150))
            np.testing.assert_allclose(opened["observed_data/y"][:, 1],
                                       [float(line.split(",")[2]) for line in lines], rtol=1e-6)
            draws = {name: opened[f"posterior/{name}"][0] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
            means = np.stack([mlp({name: values[i] for name, values in draws.items()}, x[:, None]) for i in range(100)])
            noise = (opened["posterior_predictive/y"][0] - means) / 0.1
            exact = -0.5 * np.sum(((opened["observed_data/y"][()] - means) / 0.1) ** 2, axis=2) - 2 * np.log(
                0.1 * math.sqrt(2 * math.pi))
            np.testing.assert_allclose(opened["log_likelihood/y"][0], exact, rtol=1e-4, atol=1e-3)
        self.assertLess(abs(noise.mean()), 6 / math.sqrt(noise.size))
        self.assertLess(abs(np.mean(noise * noise) - 1), 6 * math.sqrt(2 / noise.size))
        self.assertEqual(open_with_library("netcdf", file, self.folder)["variables"]["observed_data"]["y"][:2],
                         [["y_dim_0", "y_dim_1"], [150, 2]])

    def test_classes_and_chosen_tensors(self):
        self.train("--network", "mlp:12,tanh", "--batch", 100, "--steps", 40)
        file = self.export("netcdf", "draws.nc", "--draws", 4, "--tensors", "bias$", ranks=2)
        with h5py.File(file) as opened:
            self.assertEqual(sorted(name for name in opened["posterior"] if name.startswith("fc") and "_dim_" not in name),
                             ["fc1.bias", "fc2.bias"])
            replicated, observed = opened["posterior_predictive/y"][0], opened["observed_data/y"][()]
        self.assertEqual(observed[:5].tolist(), [9, 2, 1, 1, 6])
        self.assertEqual(set(np.unique(replicated)), set(range(10)))
        table = self.succeed("predict", "--checkpoint", self.folder / "run", "--data", "fashion-mnist", "--samples", 4,
                             "--json").json
        p = np.array([example["probability"] for example in table["examples"]])
        counts = np.stack([(replicated == label).sum() for label in range(10)])
        expected = 4 * p.sum(axis=0)
        self.assertTrue(np.all(np.abs(counts - expected) < 6 * np.sqrt(expected)), (counts, expected))

    def test_safetensors_as_its_library_reads_it(self):
        self.train("--network", "resnet20", "--batch", 8, "--steps", 1, "--precision", "float32")
        file = self.export("safetensors", "a.safetensors")
        seen = open_with_library("safetensors", file)
        ours, _ = read_safetensors(file)
        self.assertEqual(seen["metadata"]["format"], "pt")
        self.assertEqual(seen["metadata"]["step"], "1")
        self.assertEqual(sorted(seen["tensors"]), sorted(ours))
        stored = {}
        with h5py.File(checkpoints(self.folder / "run")[-1]) as checkpoint:
            for name, group in checkpoint["posterior"].items():
                stored[name] = group["mean"][()]
                if "scale" in group:
                    stored[f"{name}.scale"] = group["scale"][()]
            for name, values in checkpoint["buffers"].items():
                stored[name] = values[()]
        self.assertEqual(sorted(stored), sorted(ours))
        self.assertTrue(any(values.dtype == np.int64 for values in stored.values()), "counts of batches")
        for name, values in stored.items():
            tensor = seen["tensors"][name]
            self.assertEqual((tensor["dtype"], tensor["shape"]), (str(values.dtype), list(values.shape)), name)
            np.testing.assert_array_equal(np.array(tensor["values"]), np.float64(values).ravel(), name)

    def test_bad_input(self):
        self.train("--data", "moons", "--network", "mlp:40,40", "--likelihood", "bernoulli", "--steps", 2)
        checkpoint = ("--checkpoint", self.folder / "run")
        file = self.folder / "out"

        def refuse(code, *words, arguments, ranks=1):
            with self.subTest(arguments=arguments):
                self.assert_refused(run("export", *arguments, ranks=ranks), code, *words)
                self.assertEqual([path.name for path in self.folder.iterdir()], ["run"])

        netcdf = (*checkpoint, "--to", "netcdf")
        refuse(2, "--checkpoint", arguments=("--to", "netcdf", file))
        refuse(2, "--to netcdf", arguments=(*checkpoint, file), ranks=2)
        refuse(2, "netcfd", "netcdf", arguments=(*checkpoint, "--to", "netcfd", file))
        refuse(2, "file to write", arguments=netcdf)
        refuse(2, "file to write", arguments=(*netcdf, file, "more"))
        refuse(2, "--draws", arguments=(*netcdf, file, "--draws", 0))
        refuse(2, "nothing.at.all", "fc1.weight", arguments=(*netcdf, file, "--tensors", "nothing.at.all"), ranks=2)
        refuse(2, "[", arguments=(*netcdf, file, "--tensors", "["), ranks=2)
        refuse(2, "--tensors", "MiB", arguments=(*netcdf, file, "--draws", 1_000_000), ranks=2)
        refuse(2, "[1, 28, 28]", arguments=(*netcdf, file, "--data", "fashion-mnist"))
        refuse(2, "--draws", arguments=(*checkpoint, "--to", "safetensors", file, "--draws", 3))
        refuse(74, "no/where", arguments=(*netcdf, self.folder / "no/where"), ranks=2)
        refuse(74, "no/where", arguments=(*checkpoint, "--to", "safetensors", self.folder / "no/where"), ranks=2)
        refuse(65, "no/run", arguments=("--checkpoint", self.folder / "no/run", "--to", "netcdf", file))


if __name__ == "__main__":
    unittest.main(verbosity=2)
