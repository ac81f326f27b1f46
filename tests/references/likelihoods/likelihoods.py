#!/usr/bin/env python3
"""Writes likelihoods.json: log likelihoods and probabilities of made-up outputs, computed by NumPy and SciPy.

usage: likelihoods.py > likelihoods.json     (made with SciPy 1.17, NumPy 2.4)
"""

import json
import sys

import numpy as np
from scipy import special, stats


def main():
    rng = np.random.default_rng(31415)
    logits = np.round(rng.normal(0, 3, (7, 4)), 3)
    logits[5] *= 1000.0
    logits[6] = [1e4, -1e4, 0.0, 1e4]
    labels = np.array([0, 3, 2, 1, 3, 0, 1])
    log_p = special.log_softmax(logits, axis=1)

    columns = np.round(rng.normal(0, 3, (6, 3)), 3)
    columns[5] = [1e4, -1e4, 1e4]
    hits = rng.integers(0, 2, (6, 3))
    hits[5] = [1, 1, 0]

    means = np.round(rng.normal(0, 1, (5, 2)), 3)
    values = np.round(rng.normal(0, 2, (5, 2)), 3)
    scale = 0.3

    json.dump({
        "categorical": {"outputs": logits.tolist(), "targets": labels.tolist(),
                        "log_likelihoods": log_p[np.arange(7), labels].tolist(),
                        "probabilities": special.softmax(logits, axis=1).tolist()},
        "bernoulli": {"outputs": columns.tolist(), "targets": hits.tolist(),
                      "log_likelihoods": special.log_expit((2 * hits - 1) * columns).sum(axis=1).tolist(),
                      "first_column_probabilities": special.expit(columns[:, 0]).tolist()},
        "gaussian": {"outputs": means.tolist(), "targets": values.tolist(), "scale": scale,
                     "log_likelihoods": stats.norm.logpdf(values, means, scale).sum(axis=1).tolist()},
    }, sys.stdout, default=float)
    print()


if __name__ == "__main__":
    main()
