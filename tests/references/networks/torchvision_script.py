#!/usr/bin/env python3
"""Writes shufflenet.pt, a small network of torchvision as TorchScript, and shufflenet.json, what it computes in float64.

usage: torchvision_script.py FOLDER     (made with torch 2.11, torchvision 0.26)

ShuffleNet V2 (channel splits, concatenation and shuffling, grouped convolutions, batch normalisation: nothing that Credence's own
networks have) of two classes, for images of 32 pixels; weights and pixels as in torchvision_networks.py.
"""

import json
import pathlib
import sys

import torch
from torchvision.models.shufflenetv2 import ShuffleNetV2

from torchvision_networks import EXAMPLES, fill, first_gradient, uniform


def main():
    folder = pathlib.Path(sys.argv[1])
    model = ShuffleNetV2(stages_repeats=[1, 1, 1], stages_out_channels=[8, 16, 24, 32, 48], num_classes=2)
    fill(model)
    torch.jit.script(model).save(str(folder / "shufflenet.pt"))
    x = uniform("input", EXAMPLES * 3 * 32 * 32).view(EXAMPLES, 3, 32, 32)
    model = model.double()  # of the float32 weights
    with torch.no_grad():
        evaluated = model.eval()(x)
    trained = model.train()(x)
    torch.nn.functional.cross_entropy(trained, torch.arange(EXAMPLES) % 2).backward()
    (folder / "shufflenet.json").write_text(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "names": [name for name, _ in model.named_parameters()],
        "evaluated": evaluated.flatten().tolist(),
        "trained": trained.detach().flatten().tolist(),
        "first_gradient": first_gradient(model),
        "running_mean": model.conv1[1].running_mean.tolist(),
    }, indent=1) + "\n")


main()
