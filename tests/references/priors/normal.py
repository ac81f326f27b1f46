#!/usr/bin/env python3
"""Writes normal.json: KL, cross entropy and entropy of normal distributions by numerical integration with SciPy.

usage: normal.py > normal.json     (made with SciPy 1.17, NumPy 2.4)
"""

import json
import sys

import numpy as np
from scipy import integrate, stats


def expectation(function, mean, scale):
    """E[function(w)], w ~ N(mean, scale^2); beyond 12 standard deviations less than 1e-30 is left."""
    value, _ = integrate.quad(lambda z: stats.norm.pdf(z) * function(mean + scale * z), -12.0, 12.0,
                              epsabs=1e-13, epsrel=1e-13, limit=400)
    return value


def main():
    rng = np.random.default_rng(27182)
    tensors = []
    for prior_mean, prior_scale in [(0.0, 1.0), (0.0, 0.1), (0.5, 2.0)]:
        means = np.round(prior_mean + prior_scale * rng.normal(0, 1.5, 9), 4)
        scales = np.round(prior_scale * np.exp(rng.normal(-1.0, 1.5, 9)), 5)
        means[0], scales[0] = prior_mean, prior_scale
        q = [stats.norm(m, s) for m, s in zip(means, scales)]
        p = stats.norm(prior_mean, prior_scale)
        tensors.append({
            "prior_mean": prior_mean, "prior_scale": prior_scale,
            "means": means.tolist(), "scales": scales.tolist(),
            "kl": sum(expectation(lambda w, q=q_: q.logpdf(w) - p.logpdf(w), m, s)
                      for q_, m, s in zip(q, means, scales)),
            "cross_entropy": sum(expectation(lambda w: -p.logpdf(w), m, s) for m, s in zip(means, scales)),
            "entropy": sum(d.entropy() for d in q),
            "point_cross_entropy": -p.logpdf(means).sum(),
        })
    json.dump({"tensors": tensors}, sys.stdout, default=float)
    print()


if __name__ == "__main__":
    main()
