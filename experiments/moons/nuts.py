#!/usr/bin/python3
"""The reference of the predictive surface: NUTS on the network without biases of experiments/moons/run.

usage: nuts.py moons.csv PREDICTIONS.h5 [--draws 1000] [--tune 1000] [--chains 4]

PREDICTIONS.h5: of `credence evaluate --predictions` on the same file; its grid is used. Writes nuts.npz beside this file:
x, y, probability and stddev [H, W] over draws, digest of the table, accuracy and NLL of the test points, and the largest
rank-normalised R-hat of the predicted logits of the test points (weights have symmetries, predictions have none).
"""

import argparse
import os
import pathlib
import subprocess
import sys

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = [(2, 5), (5, 5), (5, 1)]


def logits(x, weights, maths):
    return (maths.tanh(maths.tanh(x @ weights[0]) @ weights[1]) @ weights[2])[..., 0]


def sample(points, labels, options):
    """Draws of the weights, [chains * draws, rows, columns] each, and the number of divergences."""
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model():
        weights = [pm.Normal(f"w{layer}", 0.0, 1.0, shape=shape) for layer, shape in enumerate(SHAPES)]
        pm.Bernoulli("y", logit_p=logits(pt.as_tensor(points), weights, pt), observed=labels)
        trace = pm.sample(options.draws, tune=options.tune, chains=options.chains, cores=1, random_seed=1, target_accept=0.9,
                          init="jitter+adapt_diag", progressbar=False)
    divergences = int(trace.sample_stats["diverging"].sum())
    return [trace.posterior[f"w{layer}"].values.reshape(-1, *shape) for layer, shape in enumerate(SHAPES)], divergences


def over_draws(points, weights):
    """Logits [draws, points]."""
    return np.stack([logits(points, [layer[draw] for layer in weights], np) for draw in range(len(weights[0]))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("predictions")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=4)
    options = parser.parse_args()
    if os.environ.get("CREDENCE_EXPERIMENTS") != "1":
        python = subprocess.run([ROOT / "experiments/prepare"], check=True, capture_output=True, text=True).stdout.strip()
        os.execve(python, [python, *sys.argv], dict(os.environ, CREDENCE_EXPERIMENTS="1", OMP_NUM_THREADS="1"))
    import arviz as az
    from compare import read
    from table import digest as table_digest

    table = read(options.data)
    weights, divergences = sample(*table["train"], options)
    with h5py.File(options.predictions) as file:
        x, y = file["surface/x"][:], file["surface/y"][:]
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    surface = 1.0 / (1.0 + np.exp(-over_draws(grid, weights)))
    points, labels = table["test"]
    at_test = over_draws(points, weights)
    by_chain = at_test.reshape(options.chains, options.draws, -1)
    r_hat = float(az.rhat(az.from_dict(posterior={"logit": by_chain}))["logit"].max())
    p = np.mean(1.0 / (1.0 + np.exp(-at_test)), axis=0)
    accuracy = np.mean((p > 0.5) == (labels == 1))
    nll = -np.mean(np.log(np.where(labels == 1, p, 1 - p)))
    shape = (len(y), len(x))
    np.savez_compressed(pathlib.Path(__file__).with_name("nuts.npz"), x=x.astype(np.float32), y=y.astype(np.float32),
                        probability=surface.mean(axis=0).reshape(shape).astype(np.float16),
                        stddev=surface.std(axis=0).reshape(shape).astype(np.float16),
                        digest=table_digest(options.data), accuracy=accuracy, nll=nll,
                        r_hat=r_hat)
    print(f"{options.chains} chains of {options.draws} draws, {divergences} divergences, largest R-hat of a test logit {r_hat:.3f}; "
          f"accuracy {accuracy:.3f}, NLL {nll:.4f}")


if __name__ == "__main__":
    main()
