"""credence predict, held against NumPy: the same draws, exported, pass the same network."""

import csv
import gzip
import pathlib
import struct
import unittest

import h5py
import numpy as np

from images import png
from networks import entropy, mlp, read_safetensors, sigmoid, softmax
from support import RunTest, run

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
POINTS = np.random.default_rng(5).normal(0, 1.5, (300, 2)).astype(np.float32)


def write_table(file, columns):
    """A csv file of named columns; numbers with all their digits."""
    lines = [",".join(columns)] + [",".join(str(value) for value in row) for row in zip(*columns.values())]
    file.write_text("\n".join(lines) + "\n")
    return file


def draws_of(file):
    """Weights of every draw of an exported posterior: a list of dictionaries."""
    with h5py.File(file) as opened:
        group = opened["posterior"]
        tensors = {name: group[name][0] for name in group if name.startswith("fc") and "_dim_" not in name}
    return [{name: values[i] for name, values in tensors.items()} for i in range(len(next(iter(tensors.values()))))]


class Predict(RunTest):
    def train(self, *options):
        self.succeed("train", "--batch", 100, "--steps", 120, "--lr", "0.02", "--progress", "none", *options, "--out",
                     self.folder / "run")

    def train_moons(self, *options):
        self.train("--data", "moons", "--network", "mlp:8,8,tanh", "--likelihood", "bernoulli", "--initial-scale", "0.2",
                   *options)
        return write_table(self.folder / "points.csv", {"a": POINTS[:, 0], "b": POINTS[:, 1]})

    def predict(self, *options, **more):
        return self.succeed("predict", "--checkpoint", self.folder / "run", *options, "--json", **more).json

    def column(self, result, name):
        return np.array([example[name] for example in result["examples"]])

    def test_point_is_the_network_of_the_exported_means(self):
        table = self.train_moons("--posterior", "point")
        result = self.predict(table)
        self.assertEqual(result["samples"], 1)
        self.succeed("export", "--checkpoint", self.folder / "run", "--to", "safetensors", self.folder / "a.safetensors")
        weights, metadata = read_safetensors(self.folder / "a.safetensors")
        self.assertEqual(metadata["step"], "120")
        self.assertFalse(any(name.endswith(".scale") for name in weights))
        p = sigmoid(mlp(weights, POINTS))
        np.testing.assert_allclose(self.column(result, "probability"), np.hstack([1 - p, p]), atol=2e-6)
        np.testing.assert_array_equal(self.column(result, "stddev"), 0.0)
        np.testing.assert_array_equal(self.column(result, "mutual_information"), 0.0)
        np.testing.assert_array_equal(self.column(result, "predicted"), (p[:, 0] > 0.5).astype(int))

    def test_classes_are_those_of_the_exported_draws(self):
        table = self.train_moons()
        result = self.predict(table, "--samples", 20)
        self.succeed("export", "--checkpoint", self.folder / "run", "--to", "netcdf", "--draws", 20,
                     self.folder / "draws.nc")
        p = np.stack([sigmoid(mlp(weights, POINTS)) for weights in draws_of(self.folder / "draws.nc")])
        p = np.concatenate([1 - p, p], axis=2)  # [draws, N, 2]
        self.assertGreater(p.std(axis=0).max(), 0.05, "draws that differ")
        mean = p.mean(axis=0)
        np.testing.assert_allclose(self.column(result, "probability"), mean, atol=2e-6)
        np.testing.assert_allclose(self.column(result, "stddev"), p.std(axis=0), atol=2e-6)
        np.testing.assert_allclose(self.column(result, "entropy"), entropy(mean), atol=1e-5)
        np.testing.assert_allclose(self.column(result, "mutual_information"), entropy(mean) - entropy(p).mean(axis=0),
                                   atol=1e-5)
        np.testing.assert_array_equal(self.column(result, "class"), np.array(["upper", "lower"])[mean.argmax(axis=1)])

    def test_numbers_are_those_of_the_exported_draws(self):
        rng = np.random.default_rng(2)
        x = rng.uniform(-2, 2, (200, 1)).astype(np.float32)
        targets = np.hstack([np.sin(x), 0.5 * x]) + rng.normal(0, 0.1, (200, 2))
        data = write_table(self.folder / "train.csv",
                           {"x": x[:, 0], "y_sine": targets[:, 0], "y_line": targets[:, 1]})
        self.train("--data", f"csv:{data}", "--network", "mlp:8,tanh", "--likelihood", "gaussian:0.1", "--initial-scale",
                   "0.1")
        table = write_table(self.folder / "new.csv", {"id": range(40), "X": x[:40, 0]})
        result = self.predict(table, "--samples", 12)
        self.succeed("export", "--checkpoint", self.folder / "run", "--to", "netcdf", "--draws", 12,
                     self.folder / "draws.nc")
        outputs = np.stack([mlp(weights, x[:40]) for weights in draws_of(self.folder / "draws.nc")])
        spread = outputs.std(axis=0)
        self.assertGreater(spread.max(), 0.02)
        np.testing.assert_allclose(self.column(result, "mean"), outputs.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose(self.column(result, "mean_stddev"), spread, atol=2e-5)
        np.testing.assert_allclose(self.column(result, "stddev"), np.hypot(spread, 0.1), atol=2e-5)
        lower, upper = self.column(result, "lower"), self.column(result, "upper")
        for bounds, level in ((lower, 0.05), (upper, 0.95)):
            # The predictive is an equal mixture of normals, here by a million samples: 6 standard errors of a quantile.
            samples = (outputs[rng.integers(0, 12, 1_000_000)][:, 0] + rng.normal(0, 0.1, (1_000_000, 2)))
            np.testing.assert_allclose([np.mean(samples[:, c] < bounds[0, c]) for c in (0, 1)], level, atol=0.0014)

    def test_columns_are_found_by_name(self):
        labels = (POINTS[:, 0] > 0.3 * POINTS[:, 1]).astype(int)
        data = write_table(self.folder / "train.csv", {"left": POINTS[:, 0], "right": POINTS[:, 1], "label": labels})
        self.train("--data", f"csv:{data}", "--network", "mlp:8,tanh")
        swapped = write_table(self.folder / "swapped.csv", {"right": POINTS[:, 1], "note": labels + 7,
                                                            "left": POINTS[:, 0]})
        first, second = self.predict(data), self.predict(swapped)
        for name in ("probability", "stddev", "entropy", "mutual_information"):
            np.testing.assert_array_equal(self.column(first, name), self.column(second, name))
        self.assertGreater(np.mean(self.column(first, "predicted") == labels), 0.9)
        self.assertEqual(self.predict("--data", f"csv:{data}")["examples"][7]["probability"],
                         first["examples"][7]["probability"])
        missing = write_table(self.folder / "missing.csv", {"left": POINTS[:, 0], "wrong": POINTS[:, 1]})
        self.assert_refused(run("predict", "--checkpoint", self.folder / "run", missing, ranks=2), 65, "missing.csv",
                            "'right'")
        moved = write_table(self.folder / "moved.csv", {"right": POINTS[:, 1], "left": POINTS[:, 0], "label": labels})
        self.assert_refused(run("evaluate", "--checkpoint", self.folder / "run", "--data", f"csv:{moved}"), 2, "left, right")

    def test_images_and_ranks(self):
        self.train("--network", "mlp:12,tanh")
        pixels = gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes())[16:16 + 600 * 784]
        file = self.folder / "a,few.idx"
        file.write_bytes(struct.pack(">IIII", 2051, 600, 28, 28) + pixels)
        results = [self.predict(file, "--data", "fashion-mnist", "--examples", "590-599", "--samples", 3, "--output",
                                self.folder / f"{ranks}.csv", ranks=ranks) for ranks in (1, 2, 4)]
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])
        texts = [(self.folder / f"{ranks}.csv").read_text() for ranks in (1, 2, 4)]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[0], texts[2])
        examples = results[0]["examples"]
        self.assertEqual(len(examples), 610)
        self.assertEqual([example["example"] for example in examples[-10:]], list(range(590, 600)))
        self.assertEqual(examples[-1]["input"], "fashion-mnist (test)")
        np.testing.assert_allclose([example["probability"] for example in examples[-10:]],
                                   [example["probability"] for example in examples[590:600]], atol=1e-6)

        rows = list(csv.DictReader(texts[0].splitlines()))
        self.assertEqual(rows[3]["input"], str(file))
        self.assertEqual(rows[3]["class"], examples[3]["class"])
        for i in range(10):
            self.assertEqual(float(rows[3][f"probability_{i}"]), examples[3]["probability"][i])
            self.assertEqual(float(rows[3][f"stddev_{i}"]), examples[3]["stddev"][i])
        self.assertEqual(float(rows[3]["entropy"]), examples[3]["entropy"])

        self.succeed("export", "--checkpoint", self.folder / "run", "--to", "netcdf", "--draws", 3, self.folder / "d.nc")
        inputs = (np.frombuffer(pixels, np.uint8).reshape(600, 784) / 255 - 0.2860) / 0.3530
        p = np.stack([softmax(mlp(weights, inputs)) for weights in draws_of(self.folder / "d.nc")])
        np.testing.assert_allclose([example["probability"] for example in examples[:600]], p.mean(axis=0), atol=5e-6)

    def test_images_are_prepared_as_evaluation_prepares_them(self):
        generator = np.random.default_rng(0)
        for split in ("train", "test"):
            for name in ("ant", "bee"):
                folder = self.folder / "images" / split / name
                folder.mkdir(parents=True)
                for i in range(4):
                    (folder / f"{i}.png").write_bytes(png(generator.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)))
        data = f"images:{self.folder / 'images'}"
        self.succeed("train", "--data", data, "--network", "resnet20", "--image-size", "32/36", "--batch", 8, "--steps", 2,
                     "--progress", "none", "--out", self.folder / "run")
        ants, bees = self.folder / "images/test/ant", self.folder / "images/test/bee"
        files = [str(folder / f"{i}.png") for folder in (ants, bees) for i in range(4)]
        evaluated = self.predict("--data", data, "--samples", 3)["examples"]
        for ranks, inputs in ((1, files), (2, (ants, bees))):
            examples = self.predict(*inputs, "--samples", 3, ranks=ranks)["examples"]
            self.assertEqual([(example["input"], example["example"]) for example in examples], [(file, 0) for file in files])
            for name in ("probability", "stddev", "entropy", "class"):
                self.assertEqual([example[name] for example in examples], [example[name] for example in evaluated])
        shown = self.succeed("predict", "--checkpoint", self.folder / "run", ants, "--samples", 3).stdout.splitlines()
        self.assertEqual([line.split()[0] for line in shown[2:]], files[:4])
        broken = ants / "1.png"
        broken.write_bytes(broken.read_bytes()[:900])
        self.assert_refused(run("predict", "--checkpoint", self.folder / "run", ants, ranks=2), 65, str(broken))
        broken.write_text("no image")
        self.assert_refused(run("predict", "--checkpoint", self.folder / "run", ants, ranks=2), 65, str(broken), "no image")
        self.assert_refused(run("predict", "--checkpoint", self.folder / "run", self.folder / "images/test"), 65, "images:DIR")

    def test_a_full_disk_does_not_cost_what_was_computed(self):
        table = self.train_moons()
        disk = self.small_disk("16k")
        (disk / "filler").write_bytes(bytes(16384))
        result = self.run_with_code(74, "predict", "--checkpoint", self.folder / "run", table, "--samples", 2, "--json",
                                    "--output", disk / "out.csv")
        self.assertEqual(len(result.json["examples"]), 300)

    def test_table_for_people(self):
        table = self.train_moons()
        shown = self.succeed("predict", "--checkpoint", self.folder / "run", table, "--samples", 4).stdout.splitlines()
        result = self.predict(table, "--samples", 4)
        self.assertEqual(len(shown), 302)
        self.assertIn("points.csv", shown[0])
        first = result["examples"][0]
        for text in (first["class"], f"{max(first['probability']):.4f}", f"{first['entropy']:.4f}"):
            self.assertIn(text, shown[2])

    def test_bad_input(self):
        table = self.train_moons()
        checkpoint = ("--checkpoint", self.folder / "run")

        def refuse(code, *words, arguments, ranks=1):
            with self.subTest(arguments=arguments):
                self.assert_refused(run("predict", *arguments, ranks=ranks), code, *words)

        refuse(2, "--checkpoint", arguments=(table,))
        refuse(2, "inputs", arguments=checkpoint, ranks=2)
        refuse(2, "--examples", arguments=(*checkpoint, table, "--examples", "0-3"))
        refuse(2, "--samples", arguments=(*checkpoint, table, "--samples", "0"))
        for examples in ("500", "3-2", "0-500", "a-b", "-1", "1-"):
            refuse(2, "--examples", arguments=(*checkpoint, "--data", "moons", "--examples", examples))
        refuse(2, "[1, 28, 28]", arguments=(*checkpoint, "--data", "fashion-mnist"), ranks=2)
        refuse(65, "no.csv", arguments=(*checkpoint, self.folder / "no.csv"), ranks=2)
        (self.folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        refuse(65, "photo.png is an image", "inputs [2]", arguments=(*checkpoint, self.folder / "photo.png"))
        (self.folder / "three.csv").write_text("a,b,c,d\n1,2,3,4\n")
        refuse(65, "three.csv", "4 feature columns", arguments=(*checkpoint, table, self.folder / "three.csv"), ranks=2)
        (self.folder / "bad.csv").write_text("a,b\n1,2\n3,x\n")
        refuse(65, "bad.csv, line 3", "'x'", arguments=(*checkpoint, self.folder / "bad.csv"))
        refuse(65, "no/run", arguments=("--checkpoint", self.folder / "no/run", table))
        (self.folder / "noise").write_bytes(bytes([0x80, 1, 2]))
        refuse(65, "noise", "neither a table", arguments=(*checkpoint, self.folder / "noise"))
        # Before anything is read.
        refuse(74, "no/where", "create it first",
               arguments=("--checkpoint", self.folder / "no/run", table, "--output", self.folder / "no/where.csv"), ranks=2)
        refuse(74, "is a folder", arguments=(*checkpoint, table, "--output", self.folder))


if __name__ == "__main__":
    unittest.main(verbosity=2)
