#!/usr/bin/env python3
"""Writes densities.json: log densities of the priors from scipy.stats, expectations under a Gaussian, KLs and marginals
by numerical integration.

usage: densities.py > densities.json     (made with SciPy 1.17, NumPy 2.4, mpmath 1.4)
"""

import json
import sys

import mpmath
import numpy as np
from scipy import integrate, optimize, special, stats


def mixture_logpdf(w, probability, first, second):
    return np.logaddexp(np.log(probability) + stats.norm.logpdf(w, 0, first),
                        np.log1p(-probability) + stats.norm.logpdf(w, 0, second))


def horseshoe_logpdf(w, scale):
    x = w * w / (2 * scale * scale)
    if x > 300:  # exp1 underflows
        log_e1 = float(mpmath.log(mpmath.e1(mpmath.mpf(x)) * mpmath.exp(mpmath.mpf(x))))
    else:
        log_e1 = x + np.log(special.exp1(x))
    return log_e1 - 0.5 * np.log(2 * np.pi ** 3 * scale ** 2)


def scale_marginal_logpdf(weights, scale, scale_logpdf):
    """log of the integral over lambda of prod_i N(w_i; 0, (lambda scale)^2) p(lambda), taken over log lambda."""
    def log_integrand(u):
        return stats.norm.logpdf(weights, 0, scale * np.exp(u)).sum() + scale_logpdf(np.exp(u)) + u
    coarse = max(np.arange(-15.0, 8.0, 0.25), key=log_integrand)
    peak = optimize.minimize_scalar(lambda u: -log_integrand(u), bounds=(coarse - 0.25, coarse + 0.25), method="bounded",
                                    options={"xatol": 1e-10}).x
    top = log_integrand(peak)
    value = 0.0
    # Pieces: the integrand may be narrow, and its tails long.
    steps = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40])
    edges = peak + np.concatenate([-steps[::-1], [0.0], steps])
    for left, right in zip(edges[:-1], edges[1:]):
        part, _ = integrate.quad(lambda u: np.exp(log_integrand(u) - top), left, right,
                                 epsabs=1e-15, epsrel=1e-13, limit=400)
        value += part
    return top + np.log(value)


def expectation(function, mean, scale):
    """E[function(w)], w ~ N(mean, scale^2), split at w = 0, where some of the densities have a kink or a pole."""
    def integrand(z):
        return stats.norm.pdf(z) * function(mean + scale * z)
    kink = -mean / scale
    edges = sorted({-12.0, 12.0, *([kink] if abs(kink) < 12 else [])})
    return sum(integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13, limit=400)[0]
               for a, b in zip(edges[:-1], edges[1:]))


def densities(rng):
    points = np.concatenate([[0.0, 1e-6, -1e-3], np.round(rng.normal(0, 1, 6), 4), [-7.5, 40.0]])
    away = np.array([2e-4, -1e-3, 0.03, -0.4, 1.0, 1.3, -1.5, 2.0, -7.5, 40.0, 1e3, -1e6])
    cases = [
        ("normal:0.3", points, lambda w: stats.norm.logpdf(w, 0, 0.3)),
        ("laplace:0.7", points, lambda w: stats.laplace.logpdf(w, 0, 0.7)),
        ("logistic:0.4", points, lambda w: stats.logistic.logpdf(w, 0, 0.4)),
        ("student-t:2.5,0.6", points, lambda w: stats.t.logpdf(w, 2.5, 0, 0.6)),
        ("scale-mixture:0.25,1,0.002", points, lambda w: mixture_logpdf(w, 0.25, 1, 0.002)),
        ("scale-mixture:0.9,0.5,0.05", points, lambda w: mixture_logpdf(w, 0.9, 0.5, 0.05)),
        ("scale-mixture:0.9,0.05,0.5", points, lambda w: mixture_logpdf(w, 0.9, 0.05, 0.5)),
        ("horseshoe:1", away, lambda w: horseshoe_logpdf(w, 1.0)),
        ("horseshoe:0.05", 0.05 * away, lambda w: horseshoe_logpdf(w, 0.05)),
    ]
    return [{"spec": spec, "weights": list(weights), "nats": [-logpdf(w) for w in weights]}
            for spec, weights, logpdf in cases]


def marginals(rng):
    """One group of weights with a common scale: a row for the horseshoe, a tensor for the hierarchical prior."""
    groups = [np.array([0.3]), np.array([2e-3]), np.array([0.02, -0.01]), np.array([30.0, 5.0, -12.0]),
              np.round(rng.normal(0, 0.05, 10), 5), np.round(rng.normal(0, 2.0, 10), 4)]
    result = []
    for weights, repeat in [(group, 1) for group in groups] + [(groups[-2], 2000), (groups[-1], 40)]:
        tiled = np.tile(weights, repeat)
        for scale in (1.0, 0.2):
            for spec, logpdf in [(f"horseshoe:{scale:g},unit", stats.halfcauchy.logpdf),
                                 (f"hierarchical:{scale:g}", stats.halfnorm.logpdf)]:
                result.append({"spec": spec, "weights": weights.tolist(), "repeat": repeat,
                               "nats": -scale_marginal_logpdf(tiled, scale, logpdf)})
    return result


MEANS = [0.0, 1e-4, -0.02, 0.3, -1.2, 2.5, 0.7]
SCALES = [0.4, 0.05, 0.02, 0.001, 1.5, 0.1, 0.7]


def cross_entropies():
    cases = [
        ("normal:0.3", lambda w: stats.norm.logpdf(w, 0, 0.3)),
        ("laplace:0.7", lambda w: stats.laplace.logpdf(w, 0, 0.7)),
        ("laplace:0.05", lambda w: stats.laplace.logpdf(w, 0, 0.05)),
        ("spike-slab:0.2,0.6", lambda w: np.log(0.2) + stats.norm.logpdf(w, 0, 0.6)),
    ]
    return [{"spec": spec, "means": MEANS, "scales": SCALES,
             "nats": sum(expectation(lambda w, f=logpdf: -f(w), m, s) for m, s in zip(MEANS, SCALES))}
            for spec, logpdf in cases]


def empirical():
    """The smallest cross entropy with any normal prior of mean 0."""
    def nats(log_scale):
        return sum(expectation(lambda w: -stats.norm.logpdf(w, 0, np.exp(log_scale)), m, s)
                   for m, s in zip(MEANS, SCALES))
    return {"means": MEANS, "scales": SCALES, "nats": optimize.minimize_scalar(nats, bracket=(-2, 2), tol=1e-9).fun}


def informed():
    prior_means, prior_scales, inflate = np.linspace(-1, 1, 7), np.geomspace(0.05, 2, 7), 3.0
    logpdfs = [lambda w, m=m, s=s: stats.norm.logpdf(w, m, inflate * s) for m, s in zip(prior_means, prior_scales)]
    return {"means": MEANS, "scales": SCALES, "prior_means": prior_means.tolist(),
            "prior_scales": prior_scales.tolist(), "inflate": inflate,
            "cross_entropy": sum(expectation(lambda w, f=f: -f(w), m, s) for f, m, s in zip(logpdfs, MEANS, SCALES)),
            "density": -sum(f(m) for f, m in zip(logpdfs, MEANS))}


def hierarchical():
    """E_{q(w) q(s)}[-log N(w; 0, s^2) - log p(s) + log q(s)] as an integral over s; that over w is a square."""
    result = []
    for hyper_scale, location, deviation in [(1.0, -0.5, 0.3), (0.2, -2.0, 0.05), (3.0, 0.4, 0.8)]:
        q = stats.lognorm(deviation, scale=np.exp(location))
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        weights = weights / weights.sum()
        draws = np.array(MEANS)[:, None] + np.array(SCALES)[:, None] * nodes

        def integrand(z):
            s = np.exp(location + deviation * z)
            nats = -(stats.norm.logpdf(draws, 0, s) @ weights).sum()
            return stats.norm.pdf(z) * (nats - stats.halfnorm.logpdf(s, 0, hyper_scale) + q.logpdf(s))

        value = sum(integrate.quad(integrand, a, b, epsabs=1e-12, epsrel=1e-13, limit=400)[0]
                    for a, b in [(-20, -3), (-3, 0), (0, 3), (3, 20)])
        result.append({"spec": f"hierarchical:{hyper_scale:g}", "means": MEANS, "scales": SCALES,
                       "location": location, "raw_scale": float(np.log(np.expm1(deviation))), "nats": value})
    return result


def log_uniform():
    """KL(N(m, s^2) || 1/|w|) up to the constant that makes it 0 for m = 0: E[log|w|] - H[q], and the approximation of
    Molchanov et al. 2017, eq. 14."""
    means, scales, exact, approximate = [], [], [], []
    at_zero = -0.5 * (np.euler_gamma + np.log(2.0)) - 0.5 * np.log(2 * np.pi * np.e)
    for log_alpha in np.arange(-12.0, 12.5, 1.0):
        mean = 0.35 * (-1) ** int(log_alpha)
        scale = abs(mean) * np.exp(0.5 * log_alpha)
        kl = expectation(lambda w: np.log(abs(w)), mean, scale) - stats.norm(mean, scale).entropy() - at_zero
        negative = 0.63576 * special.expit(1.87320 + 1.48695 * log_alpha) - 0.5 * np.log1p(np.exp(-log_alpha)) - 0.63576
        means.append(mean), scales.append(scale), exact.append(kl), approximate.append(-negative)
    return {"means": means, "scales": scales, "exact": exact, "approximate": approximate}


def spike_slab():
    """The integral over the slab and the sum over the atom."""
    probability, slab_scale = 0.2, 0.6
    inclusions = [0.001, 0.2, 0.5, 0.999, 0.03, 0.9, 0.4]
    total = 0.0
    for m, s, pi in zip(MEANS, SCALES, inclusions):
        q = stats.norm(m, s)
        total += pi * expectation(lambda w: np.log(pi / probability) + q.logpdf(w) - stats.norm.logpdf(w, 0, slab_scale),
                                  m, s) + (1 - pi) * np.log((1 - pi) / (1 - probability))
    return {"spec": f"spike-slab:{probability},{slab_scale}", "means": MEANS, "scales": SCALES,
            "inclusions": inclusions, "kl": total}


def main():
    rng = np.random.default_rng(16180)
    json.dump({"densities": densities(rng), "marginals": marginals(rng), "cross_entropies": cross_entropies(),
               "empirical": empirical(), "informed": informed(), "hierarchical": hierarchical(),
               "log_uniform": log_uniform(), "spike_slab": spike_slab()}, sys.stdout, default=float, allow_nan=False)
    print()


if __name__ == "__main__":
    main()
