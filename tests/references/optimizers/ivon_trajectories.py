#!/usr/bin/env python3
"""Writes ivon.json: trajectories of the published IVON optimizer (PyPI: ivon-opt 0.1.3) in float64 under noise that is
written beside them. Each weight has a loss of its own, k (w - t)^2 / 2 + c w^4 / 4, so a gradient is two lines anywhere.

usage: ivon_trajectories.py > ivon.json     (made with ivon-opt 0.1.3, PyTorch 2.11.0, NumPy 2.4)
"""

import json
import sys

import ivon
import numpy as np
import torch

EXAMPLES = 50
CURVATURE = [0.8, 0.1, 2.0, 0.3]  # k
TARGET = [0.5, -1.0, 0.2, 2.0]    # t
QUARTIC = [0.0, 0.3, 0.1, -0.02]  # c: the last is not convex everywhere
START = [0.3, -0.2, 1.1, 0.7]
PRIOR_SCALES = [1.0, 0.5]         # of weights 0 and 1, of 2 and 3

# beta2 of 0.9 and 3: the term that keeps the Hessian positive matters.
CASES = [
    dict(steps=200, lr=0.3, beta1=0.9, beta2=0.99999, hess_init=0.1, temperature=1.0, samples=1, clip_radius=None, decay=0.0),
    dict(steps=100, lr=0.2, beta1=0.8, beta2=0.9, hess_init=0.5, temperature=0.5, samples=3, clip_radius=0.4, decay=0.02),
    dict(steps=100, lr=0.1, beta1=0.0, beta2=0.6, hess_init=1.0, temperature=2.0, samples=1, clip_radius=None, decay=0.0),
]


def trajectory(case, rng):
    double = dict(dtype=torch.float64)
    curvature, target, quartic = (torch.tensor(values, **double) for values in (CURVATURE, TARGET, QUARTIC))
    parts = [torch.nn.Parameter(torch.tensor(START[i:i + 2], **double)) for i in (0, 2)]
    groups = [dict(params=[part], weight_decay=1.0 / (EXAMPLES * scale ** 2)) for part, scale in zip(parts, PRIOR_SCALES)]
    radius = case["clip_radius"]
    optimizer = ivon.IVON(groups, lr=case["lr"], ess=EXAMPLES / case["temperature"], hess_init=case["hess_init"],
                          beta1=case["beta1"], beta2=case["beta2"], mc_samples=case["samples"],
                          clip_radius=float("inf") if radius is None else radius)
    queue = []
    torch.randn = lambda *size, **options: torch.tensor([queue.pop(0) for _ in range(size[0])], **double)
    noise, states = [], []
    for step in range(case["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = case["lr"] / (1.0 + case["decay"] * step)
        noise.append([np.round(rng.normal(size=4), 3).tolist() for _ in range(case["samples"])])
        for draw in noise[-1]:
            queue.extend(draw)
            with optimizer.sampled_params(train=True):
                weights = torch.cat([part.detach() for part in parts])
                gradient = curvature * (weights - target) + quartic * weights ** 3
                parts[0].grad, parts[1].grad = gradient[:2].clone(), gradient[2:].clone()
        optimizer.step()
        join = lambda name: sum((group[name].tolist() for group in optimizer.param_groups), [])
        states.append(dict(mean=torch.cat([part.detach() for part in parts]).tolist(), hessian=join("hess"),
                           momentum=join("momentum")))
    return dict(case, noise=noise, states=states)


def main():
    rng = np.random.default_rng(31415)
    torch.set_default_dtype(torch.float64)  # else the package rounds hess_init to float32
    json.dump(dict(examples=EXAMPLES, curvature=CURVATURE, target=TARGET, quartic=QUARTIC, start=START,
                   prior_scales=PRIOR_SCALES, cases=[trajectory(case, rng) for case in CASES]), sys.stdout)
    print()


if __name__ == "__main__":
    main()
