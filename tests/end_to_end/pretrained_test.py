"""Networks that begin with given weights, what is Bayesian of them, and batch normalisation under a posterior."""

import collections
import io
import pathlib
import pickle
import sys
import types
import unittest
import zipfile

import h5py
import numpy as np

from networks import read_safetensors
from support import RunTest, checkpoints

REFERENCES = pathlib.Path(__file__).parents[1] / "references"
MOONS = ["--data", "moons", "--likelihood", "bernoulli", "--batch", "64", "--progress", "none"]
MLP = [*MOONS, "--network", "mlp:6,6"]
RESNET = ["--network", "resnet20", "--batch", "16", "--steps", "4", "--shards", "2", "--progress", "none"]


class Storage:
    """A tensor's memory, as PyTorch's pickles refer to it."""

    def __init__(self, key, values):
        self.key, self.values = key, values


class Tensor:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        stride = tuple(int(np.prod(self.shape[i + 1:])) for i in range(len(self.shape)))
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (self.storage, 0, self.shape, stride, False,
                                                                collections.OrderedDict())


def write_state_dict(file, tensors):
    """What torch.save writes, without PyTorch (the format: torch/serialization.py; zip, pickle protocol 2)."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def _rebuild_tensor_v2():
        """Only its name is pickled."""

    class FloatStorage:
        """The same."""

    for thing, home in ((_rebuild_tensor_v2, utils), (FloatStorage, torch)):
        thing.__module__, thing.__qualname__ = home.__name__, thing.__name__
        setattr(home, thing.__name__, thing)
    sys.modules.update({"torch": torch, "torch._utils": utils})
    storages = [Storage(str(i), np.asarray(values, np.float32)) for i, values in enumerate(tensors.values())]
    state = collections.OrderedDict((name, Tensor(storage, storage.values.shape))
                                    for name, storage in zip(tensors, storages))
    text = io.BytesIO()
    pickler = pickle.Pickler(text, protocol=2)
    pickler.persistent_id = lambda thing: (("storage", FloatStorage, thing.key, "cpu", thing.values.size)
                                           if isinstance(thing, Storage) else None)
    try:
        pickler.dump(state)
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())


def mlp_weights():
    rng = np.random.default_rng(3)
    shapes = {"fc1.weight": (6, 2), "fc1.bias": (6,), "fc2.weight": (6, 6), "fc2.bias": (6,), "fc3.weight": (1, 6),
              "fc3.bias": (1,)}
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


class Pretrained(RunTest):
    def posterior(self, run):
        with h5py.File(checkpoints(run)[-1]) as file:
            return {f"{name}/{part}": values[()] for name, tensor in file["posterior"].items()
                    for part, values in tensor.items()}

    def start(self, *options):
        """The posterior after one step that moves nothing."""
        self.succeed("train", *options, "--steps", 1, "--lr", "0", "--overwrite", "--out", self.folder / "start")
        return self.posterior(self.folder / "start")

    def test_training_starts_at_a_state_dict_of_pytorch(self):
        weights, file = mlp_weights(), self.folder / "mlp.pth"
        write_state_dict(file, weights)
        started = self.start(*MLP, "--init", file)
        for name, values in weights.items():
            np.testing.assert_array_equal(started[f"{name}/mean"], values)

    def test_integers_and_bools_of_a_network_are_kept(self):
        train = ["train", *MOONS, "--network", f"torchscript:{REFERENCES / 'networks/counting.pt'}", "--shards", 2]
        run, ranks, file = self.folder / "run", self.folder / "ranks", self.folder / "state.safetensors"
        self.succeed(*train, "--steps", 1, "--out", run)
        self.succeed(*train, "--steps", 2, "--out", run)
        self.succeed(*train, "--steps", 2, "--out", ranks, ranks=2)
        expected = {"used": [1, 1], "seen": 1, "calls": [0, 2, -3], "level": [200, 7]}  # as shard 0 has them
        self.succeed("export", "--checkpoint", ranks, "--to", "safetensors", file)
        exported, _ = read_safetensors(file)
        with h5py.File(checkpoints(run)[-1]) as one, h5py.File(checkpoints(ranks)[-1]) as two:
            for name, values in expected.items():
                for stored in (one["buffers"][name][()], two["buffers"][name][()], exported[name]):
                    self.assertEqual((stored.dtype, stored.tolist()), (np.int64, values), name)
        self.assertGreater(self.succeed("plan", *train[1:], "--json").json["memory_bytes"], 0)
        for option in (("--init", file), ("--prior", f"weights:{file},scale=1")):
            started = self.start(*train[1:], *option)
            np.testing.assert_array_equal(started["out.weight/mean"], exported["out.weight"])

    def test_members_that_begin_equal_are_told_of(self):
        self.succeed("train", *MLP, "--steps", 2, "--out", self.folder / "first")
        begun = ["train", *MLP, "--steps", 2, "--init", self.folder / "first"]
        equal = self.succeed(*begun, "--posterior", "ensemble:2,point", "--out", self.folder / "equal")
        self.assertIn("they stay equal", equal.stderr)
        for name, more in (("drawn", ["--posterior", "ensemble:2"]), ("one", ["--posterior", "point"])):
            self.assertNotIn("stay equal", self.succeed(*begun, *more, "--out", self.folder / name).stderr)
        own = self.succeed("train", *MLP, "--steps", 2, "--posterior", "ensemble:2,point", "--out", self.folder / "own")
        self.assertNotIn("stay equal", own.stderr)

    def test_what_does_not_fit_is_named(self):
        weights, file = mlp_weights(), self.folder / "mlp.pth"
        del weights["fc2.bias"]
        weights["fc3.weight"] = np.zeros((10, 6))
        weights["extra.weight"] = np.zeros(2)
        write_state_dict(file, weights)
        result = self.run_with_code(65, "train", *MLP, "--init", file, "--out", self.folder / "run")
        for text in (str(file), "fc3.weight is [10, 6] and the network's [1, 6]", "it has no fc2.bias", "the network has no extra.weight",
                     "skip=REGEX"):
            self.assertIn(text, result.stderr)
        started = self.start(*MLP, "--init", f"{file},skip=fc3|fc2.bias|extra")
        np.testing.assert_array_equal(started["fc1.weight/mean"], weights["fc1.weight"])
        self.assertGreater(np.abs(started["fc3.weight/mean"]).max(), 0.0)
        file.write_bytes(file.read_bytes()[:200])
        self.run_with_code(65, "train", *MLP, "--init", file, "--out", self.folder / "run")

    def test_a_prior_fits_as_a_start_does(self):
        file = self.folder / "mlp.pth"
        train = ["train", *MLP, "--out", self.folder / "run", "--steps", 1]

        def refused(weights, *texts):
            write_state_dict(file, weights)
            result = self.run_with_code(65, *train, "--prior", f"weights:{file},scale=1")
            for text in (str(file), *texts):
                self.assertIn(text, result.stderr)

        right = mlp_weights()
        refused({name: values for name, values in right.items() if name != "fc2.bias"}, "no distribution over fc2.bias [6]")
        refused({**right, "fc3.weight": np.zeros((10, 6))}, "fc3.weight is [10, 6] in that file and [1, 6] in the network",
                "--prior 'fc3.weight=normal:1'")
        refused({**right, "extra.weight": np.zeros(2)}, "the network has no extra.weight", "skip=REGEX")
        self.succeed(*train, "--prior", f"weights:{file},skip=^extra,scale=1")
        self.run_with_code(65, *train, "--overwrite", "--prior", f"weights:{file},skip=fc3|extra,scale=1")
        self.succeed(*train, "--overwrite", "--prior", f"weights:{file},skip=fc3|extra,scale=1", "--prior", "fc3=normal:1")

    def test_numbers_that_are_none_are_named(self):
        weights, file = mlp_weights(), self.folder / "mlp.pth"
        train = ["train", *MLP, "--out", self.folder / "run", "--steps", 1]
        for value in (np.nan, np.inf):
            weights["fc2.weight"][2, 3] = value
            write_state_dict(file, weights)
            for option in (("--init", file), ("--prior", f"weights:{file}")):
                result = self.run_with_code(65, *train, *option)
                self.assertIn(f"{file}: the tensor fc2.weight holds NaN or infinity", result.stderr)
        self.succeed(*train, "--init", f"{file},skip=fc2.weight")

    def test_pretrained_weights_become_the_prior(self):
        """MOPED: mean and prior mean are the weights, first scales a share of them (Krishnan et al. 2020)."""
        weights, file = mlp_weights(), self.folder / "mlp.pth"
        write_state_dict(file, weights)
        by_ivon = self.start(*MLP, "--prior", f"weights:{file},scale=1,delta=0.1", "--optimizer", "ivon")
        started = self.start(*MLP, "--prior", f"weights:{file},scale=1,delta=0.1")
        for name, values in weights.items():
            np.testing.assert_array_equal(started[f"{name}/mean"], values)
            floor = 1e-3 * np.sqrt(np.mean(values.astype(float) ** 2))
            # softplus and its inverse in float
            expected = 0.1 * np.maximum(np.abs(values), floor)
            np.testing.assert_allclose(started[f"{name}/scale"], expected, rtol=1e-4)
            np.testing.assert_allclose(by_ivon[f"{name}/scale"], expected, rtol=1e-3)
        with h5py.File(checkpoints(self.folder / "start")[-1]) as run:
            np.testing.assert_array_equal(run["prior/fc1.weight/mean"][()], weights["fc1.weight"])
            self.assertEqual(np.unique(run["prior/fc1.weight/scale"][()]).tolist(), [1.0])

    def test_norms_and_biases_are_bayesian_or_not(self):
        def families(*options):
            self.succeed("train", *RESNET, *options, "--out", self.folder / "run", "--overwrite")
            tensors = self.succeed("inspect", self.folder / "run", "--json").json["posterior"]
            return {name: tensor["family"] for name, tensor in tensors.items()}

        usual = families()
        self.assertEqual(usual["layer1.0.bn1.weight"], "point")
        self.assertEqual(usual["fc.bias"], "mean-field")
        self.assertIn("38 of 59 tensors, 1376 parameters in all, are point estimates",
                      self.succeed("inspect", self.folder / "run").stdout)
        other = families("--norm-parameters", "bayesian", "--biases", "point", "--posterior", "layer2.*bn1=point")
        self.assertEqual(other["layer1.0.bn1.weight"], "mean-field")
        self.assertEqual(other["layer2.0.bn1.weight"], "point")
        self.assertEqual(other["fc.bias"], "point")
        self.assertEqual(other["fc.weight"], "mean-field")
        self.run_with_code(2, "train", *RESNET, "--biases", "none", "--out", self.folder / "other")

    def test_statistics_are_estimated_anew_for_each_draw(self):
        run = self.folder / "run"
        self.succeed("train", *RESNET, "--out", run)
        common = ["evaluate", "--checkpoint", run, "--samples", 2, "--json"]
        running = self.succeed(*common).json
        refresh = [*common, "--norm-statistics", "refresh", "--norm-batches", 3]
        first = self.succeed(*refresh).json
        self.assertNotEqual(running["nll"], first["nll"])
        self.assertEqual(first, self.succeed(*refresh, ranks=2).json)
        # After four steps the averages are still near where they began; the data's own statistics fit them better.
        self.assertLess(first["nll"], running["nll"])
        self.run_with_code(2, *common, "--norm-batches", 3)
        mlp = self.folder / "mlp"
        self.succeed("train", *MLP, "--steps", 1, "--out", mlp)
        result = self.run_with_code(2, "evaluate", "--checkpoint", mlp, "--norm-statistics", "refresh")
        self.assertIn("this one has none", result.stderr)


if __name__ == "__main__":
    unittest.main()
