#!/usr/bin/env python3
"""Writes regression.json: densities, distribution functions and predictive mixtures of real targets and counts by SciPy.

usage: regression.py > regression.json     (made with SciPy 1.10, NumPy 1.24)
"""

import json
import sys

import numpy as np
from scipy import optimize, special, stats

DRAWS, TARGETS = 5, 6


def densities(rng):
    means = np.round(rng.normal(0, 1, (5, 2)), 3)
    values = np.round(rng.normal(0, 2, (5, 2)), 3)
    raw_scales = np.broadcast_to(np.array([-1.5, 0.75]), (5, 2))
    log_variances = np.round(rng.normal(0, 2, (5, 2)), 3)
    log_rates = np.round(rng.normal(1, 1.5, (5, 2)), 3)
    counts = rng.poisson(np.exp(log_rates))
    counts[0] = [0, 41]
    learned = stats.norm.logpdf(values, means, np.log1p(np.exp(raw_scales)))
    heteroscedastic = stats.norm.logpdf(values, means, np.exp(0.5 * log_variances))
    poisson = stats.poisson.logpmf(counts, np.exp(log_rates))
    student = stats.t.logpdf(values, 2.5, means, 0.4)
    return {
        "learned": {"outputs": np.hstack([means, raw_scales]), "targets": values, "log_likelihoods": learned.sum(axis=1)},
        "heteroscedastic": {"outputs": np.hstack([means, log_variances]), "targets": values,
                            "log_likelihoods": heteroscedastic.sum(axis=1)},
        "poisson": {"outputs": log_rates, "targets": counts, "log_likelihoods": poisson.sum(axis=1)},
        "student_t": {"outputs": means, "targets": values, "dof": 2.5, "scale": 0.4,
                      "log_likelihoods": student.sum(axis=1)},
    }


def distribution_functions():
    """Rows of arguments and value."""
    t = [[x, dof, special.stdtr(dof, x)] for dof in (0.3, 1.0, 2.5, 4.0, 30.0, 1e4)
         for x in (-30.0, -3.0, -0.7, -1e-3, 0.0, 0.2, 1.5, 9.0)]
    poisson = [[k, rate, special.pdtr(k, rate)] for rate in (1e-3, 0.7, 4.0, 55.5, 2e3, 3e5)
               for k in np.unique(np.maximum(0, np.floor(rate + np.array([-5, -2, -0.5, 0, 1, 3, 6]) * np.sqrt(rate))))]
    large = [[np.floor(rate + z * np.sqrt(rate)), rate, special.pdtr(np.floor(rate + z * np.sqrt(rate)), rate)]
             for rate in (1.1e6, 1e7, 1e9) for z in (-4, -1.6, 0, 0.4, 1.6, 4)]
    return {"student_t": t, "poisson": poisson, "poisson_large": large}


def quantile(p, cdf, brackets):
    return optimize.brentq(lambda y: cdf(y).mean() - p, *brackets, xtol=1e-13, rtol=1e-14)


def predictive(frozen, outputs, counts=False):
    """The equal mixture over draws: `frozen(d, i)` is the distribution of target i under draw d."""
    rows = []
    for i in range(TARGETS):
        parts = [frozen(d, i) for d in range(DRAWS)]
        means = np.array([part.mean() for part in parts])
        cdf = lambda y: np.array([part.cdf(y) for part in parts])
        row = {"mean": means.mean(), "aleatoric_variance": np.mean([part.var() for part in parts]),
               "epistemic_variance": means.var()}
        for name, p in (("lower", 0.05), ("upper", 0.95)):
            if counts:
                grid = np.arange(0, 2000)
                row[name] = grid[np.argmax(np.mean([part.cdf(grid) for part in parts], axis=0) >= p)]
            else:
                ends = [part.ppf(p) for part in parts]
                row[name] = quantile(p, cdf, (min(ends) - 1e-9, max(ends) + 1e-9))
        rows.append(row)
    return {"outputs": outputs, "rows": rows}


def mixtures(rng):
    means = np.round(rng.normal(0, 2, (DRAWS, TARGETS)), 3)
    log_variances = np.round(rng.normal(0, 1.5, (DRAWS, TARGETS)), 3)
    raw_scales = np.broadcast_to(np.round(rng.normal(0, 1, (DRAWS, 1)), 3), (DRAWS, TARGETS))
    log_rates = np.round(rng.normal(2, 1.5, (DRAWS, TARGETS)), 3)
    log_rates[:, 0] = -6.0
    pair = lambda a, b: np.stack([a, b], axis=2)
    one = lambda a: a[:, :, None]
    return {
        "gaussian:0.7": predictive(lambda d, i: stats.norm(means[d, i], 0.7), one(means)),
        "gaussian:learned": predictive(lambda d, i: stats.norm(means[d, i], np.log1p(np.exp(raw_scales[d, i]))),
                                       pair(means, raw_scales)),
        "heteroscedastic": predictive(lambda d, i: stats.norm(means[d, i], np.exp(0.5 * log_variances[d, i])),
                                      pair(means, log_variances)),
        "poisson": predictive(lambda d, i: stats.poisson(np.exp(log_rates[d, i])), one(log_rates), counts=True),
        "student-t:3,0.5": predictive(lambda d, i: stats.t(3.0, means[d, i], 0.5), one(means)),
    }


def plain(value):
    return value.tolist() if hasattr(value, "tolist") else float(value)


def main():
    rng = np.random.default_rng(27182)
    json.dump({"densities": densities(rng), "distribution_functions": distribution_functions(),
               "mixtures": mixtures(rng)}, sys.stdout, default=plain)
    print()


if __name__ == "__main__":
    main()
