#!/usr/bin/env python3
"""Writes state_dict.pt, legacy_state_dict.pt and training_checkpoint.pt: small files as torch.save makes them.

usage: state_dict_sample.py FOLDER     (made with torch 2.11)
"""

import collections
import pathlib
import sys

import torch


def tensors():
    base = torch.arange(12, dtype=torch.float32)
    return collections.OrderedDict([
        ("fc.weight", torch.nn.Parameter(base[:6].view(2, 3).clone())),
        ("fc.bias", torch.tensor([0.1, -1e300], dtype=torch.float64)),
        ("view", base[4:8]),  # part of a storage
        ("transposed", base.view(3, 4).t()),
        ("half", torch.tensor([0.333251953125, -65504.0], dtype=torch.float16)),
        ("brain", torch.tensor([3.140625, -1.0], dtype=torch.bfloat16)),
        ("steps", torch.tensor(-7)),
        ("empty", torch.zeros(0, 5)),
        ("flags", torch.tensor([True, False])),
    ])


def main():
    folder = pathlib.Path(sys.argv[1])
    state = tensors()
    state._metadata = collections.OrderedDict([("", {"version": 1})])  # as Module.state_dict() has it
    torch.save(state, folder / "state_dict.pt")
    torch.save(state, folder / "legacy_state_dict.pt", _use_new_zipfile_serialization=False)
    linear = torch.nn.DataParallel(torch.nn.Linear(2, 1))
    with torch.no_grad():
        linear.module.weight.copy_(torch.tensor([[1.5, -2.0]]))
        linear.module.bias.fill_(0.25)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, "arch": "linear", "best": torch.tensor(71.5), "state_dict": linear.state_dict(),
                "optimizer": optimizer.state_dict(), "seen": {1, 2}}, folder / "training_checkpoint.pt")


main()
