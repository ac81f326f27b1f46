#!/usr/bin/python3
"""The drawing scripts of experiments/ on small files of the documented layout (checkpoint/FORMAT.md and
prediction/predictions_file.h): each writes a picture, or one line that says what is missing."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import h5py
import matplotlib.image
import numpy as np

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[3] / "experiments"
METRICS = {"samples": 4, "accuracy": 0.75, "nll": 0.5, "ece": 0.03, "brier": 0.4, "classes": 2}


class Draw(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)

    def write_run(self, kl):
        """A run directory; only its newest checkpoint, step 10, is whole."""
        (self.path / "checkpoint-00000009.h5").write_bytes(b"older")
        steps = np.arange(1.0, 101.0)
        with h5py.File(self.path / "checkpoint-00000010.h5", "w") as file:
            file.attrs.update(dataset_size=10, world_size=2, epoch=5.0)
            file["config"] = np.bytes_("data = moons\nnetwork = linear\nposterior = mean-field\n")
            file["history/epoch"] = steps / 20
            file["history/expected_log_likelihood"] = -10.0 - 5.0 / steps
            file["history/kl"] = np.full(100, kl)
            file["history/elbo"] = -10.0 - 5.0 / steps - kl

    def write_predictions(self, images):
        file = h5py.File(self.path / "predictions.h5", "w")
        file.attrs.update(METRICS, examples=20)
        file["labels"] = np.arange(20) % 2
        file["predicted"] = np.zeros(20, np.int64)
        file["confidence"] = np.linspace(0.5, 1.0, 20)
        file["reliability/count"] = np.array([0, 12, 8])
        file["reliability/accuracy"] = np.array([0.0, 0.5, 1.0])
        file["reliability/confidence"] = np.array([0.0, 0.6, 0.9])
        if images:
            for kind in ("most_sure", "least_sure"):
                file[f"inputs/{kind}/index"] = np.arange(16)
                file[f"inputs/{kind}/pixels"] = np.ones((16, 3, 8, 8), np.float32)
        else:
            file["surface/x"] = np.linspace(-1, 1, 6)
            file["surface/y"] = np.linspace(-2, 2, 5)
            for name in ("probability", "label_stddev", "probability_stddev"):
                file[f"surface/{name}"] = np.outer(np.linspace(0, 1, 5), np.linspace(0, 1, 6))
            file["surface/points"] = np.ones((20, 2), np.float32)
        file.close()

    def draw(self, experiment):
        figure = self.path / "figure.png"
        result = subprocess.run([sys.executable, "-B", EXPERIMENTS / experiment / "draw.py", self.path,
                                 self.path / "predictions.h5", figure], capture_output=True, text=True, timeout=60)
        return result, figure

    def assert_drawn(self, experiment):
        result, figure = self.draw(experiment)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        picture = matplotlib.image.imread(figure)
        self.assertGreater(picture.shape[0], 1000)
        self.assertGreater(picture.std(), 0.05)

    def test_images(self):
        self.write_run(kl=3.0)
        self.write_predictions(images=True)
        self.assert_drawn("fashion_mnist")

    def test_surfaces(self):
        self.write_run(kl=3.0)
        self.write_predictions(images=False)
        self.assert_drawn("moons")

    def test_a_point_estimate_has_no_bound(self):
        self.write_run(kl=np.nan)
        self.write_predictions(images=False)
        self.assert_drawn("moons")

    def test_what_is_missing_is_named(self):
        self.write_run(kl=3.0)
        self.write_predictions(images=False)
        result, figure = self.draw("fashion_mnist")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("no images", result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertFalse(figure.exists())


if __name__ == "__main__":
    unittest.main()
