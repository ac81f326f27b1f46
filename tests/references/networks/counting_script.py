#!/usr/bin/env python3
"""Writes counting.pt, a small TorchScript network with a buffer of each kind of integers.

usage: counting_script.py FOLDER     (made with torch 2.11)

Of the inputs [N, 2] it uses those that `used` says; in training it counts its passes in `calls` and sets `seen`.
"""

import pathlib
import sys

import torch


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(2, 4), torch.nn.Linear(4, 1)
        self.register_buffer("used", torch.tensor([True, True]))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("calls", torch.tensor([0, 0, -3], dtype=torch.int32))
        self.register_buffer("level", torch.tensor([200, 7], dtype=torch.uint8))

    def forward(self, x):
        if self.training:
            self.calls[1] += 1
            self.seen.fill_(True)
        return self.out(torch.tanh(self.hidden(x * self.used)))


torch.manual_seed(1)
torch.jit.script(Counting()).save(str(pathlib.Path(sys.argv[1]) / "counting.pt"))
