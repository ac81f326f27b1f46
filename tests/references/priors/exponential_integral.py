#!/usr/bin/env python3
"""Prints the coefficients in framework/credence/priors/scale_marginal.cpp: a rational function for the rest Q of
x exp(x) E1(x) = 1 - Q(1/x)/x, x >= 1, and its largest relative error.

usage: exponential_integral.py     (made with mpmath 1.4, 60 digits)

Least squares on Chebyshev nodes in z = 1/x, weighted to relative error; the denominator of one round linearises the
next.
"""

import mpmath as mp

mp.mp.dps = 60
DEGREE = 8
ROUNDS = 6


def rest(z):
    x = 1 / z
    if x > 5000:  # the asymptotic series: the difference below would lose its digits
        return mp.fsum((-1) ** (k + 1) * mp.factorial(k) / x ** (k - 1) for k in range(1, 60))
    return (1 - x * mp.exp(x) * mp.e1(x)) * x


def fit(degree):
    count = 6 * degree
    nodes = [(1 - mp.cos(mp.pi * (i + mp.mpf(1) / 2) / count)) / 2 for i in range(count)]
    values = [rest(z) for z in nodes]
    weights = [mp.mpf(1)] * count
    for _ in range(ROUNDS):
        matrix, right = mp.matrix(count, 2 * degree + 1), mp.matrix(count, 1)
        for i, (z, value) in enumerate(zip(nodes, values)):
            factor = weights[i] / value
            for k in range(degree + 1):
                matrix[i, k] = factor * z ** k
            for k in range(1, degree + 1):
                matrix[i, degree + k] = -factor * value * z ** k
            right[i] = factor * value
        solution = mp.lu_solve(matrix, right)
        numerator = [solution[k] for k in range(degree + 1)]
        denominator = [mp.mpf(1)] + [solution[degree + k] for k in range(1, degree + 1)]
        weights = [1 / abs(mp.polyval(denominator[::-1], z)) for z in nodes]
    return numerator, denominator


def main():
    numerator, denominator = fit(DEGREE)
    error = max(abs(mp.polyval(numerator[::-1], z) / mp.polyval(denominator[::-1], z) / rest(z) - 1)
                for z in (mp.mpf(i) / 997 for i in range(1, 998)))
    print("numerator  ", ", ".join(mp.nstr(c, 20) for c in numerator))
    print("denominator", ", ".join(mp.nstr(c, 20) for c in denominator))
    print("largest relative error", mp.nstr(error, 3))


if __name__ == "__main__":
    main()
