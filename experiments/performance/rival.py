"""The same network trained by PyTorch: deterministic, eager, fused Adam. Prints the median step in seconds as JSON.

usage: rival.py NETWORK[@CLASSES] BATCH STEPS THREADS            one process
       rival.py NETWORK[@CLASSES] BATCH STEPS THREADS RANK SIZE PORT   one rank of DistributedDataParallel over gloo
"""

import gzip
import json
import os
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

DATA = "/usr/share/datasets/fashion-mnist"


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 2).relu_()
        x = F.max_pool2d(self.conv2(x), 2).relu_()
        x = self.fc1(x.flatten(1)).relu_()
        return self.fc3(self.fc2(x).relu_())


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new:
            x = F.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return y.add_(x).relu_()


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for stage in range(3):
            for block in range(3):
                blocks.append(Block(inputs, 16 << stage, 2 if stage and not block else 1))
                inputs = 16 << stage
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.bn1(self.conv1(x)).relu_()).mean((2, 3)))


class ResidualBlock(nn.Module):
    """As torchvision's: two 3x3 convolutions, or 1x1, 3x3 with the stride, 1x1."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        sizes = ([(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)] if bottleneck else
                 [(inputs, width, 3, stride), (width, outputs, 3, 1)])
        layers = []
        for i, (before, after, pixels, step) in enumerate(sizes):
            layers += [nn.Conv2d(before, after, pixels, step, pixels // 2, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True)] if i + 1 < len(sizes) else []
        self.body, self.downsample = nn.Sequential(*layers), None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return self.body(x).add_(x if self.downsample is None else self.downsample(x)).relu_()


def residual_network(name, classes):
    blocks, bottleneck = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}[name.split(":")[0]]
    small = name.endswith(":cifar")
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False) if small else nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64),
            nn.ReLU(inplace=True)] + ([] if small else [nn.MaxPool2d(3, 2, 1)])
    layers, inputs = [], 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(ResidualBlock(inputs, 64 << stage, 2 if stage and not block else 1, bottleneck))
            inputs = (64 << stage) * (4 if bottleneck else 1)
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def examples(name):
    """Fashion-MNIST; of the large networks numbers of the size of their images."""
    if not name.startswith(("resnet18", "resnet50")):
        images = torch.from_numpy(read("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28).copy()).float()
        return (images / 255 - 0.2860) / 0.3530, torch.from_numpy(read("train-labels-idx1-ubyte", 8).copy()).long()
    pixels, count = (32, 512) if name.endswith(":cifar") else (224, 64)
    return torch.randn(count, 3, pixels, pixels), torch.arange(count) % 10


def build(name, classes):
    if name.startswith(("resnet18", "resnet50")):
        return residual_network(name, classes)
    if name == "lenet5":
        return LeNet5()
    if name == "resnet20":
        return ResNet20()
    widths = [784, *map(int, name.removeprefix("mlp:").split(",")), 10]
    layers = [nn.Flatten()]
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1])] + ([nn.ReLU(inplace=True)] if i + 2 < len(widths) else [])
    return nn.Sequential(*layers)


def read(name, header):
    with gzip.open(f"{DATA}/{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def main():
    name, batch, steps, threads = sys.argv[1], *map(int, sys.argv[2:5])
    name, _, classes = name.partition("@")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rank, size = 0, 1
    network = build(name, int(classes or 10))
    if len(sys.argv) > 5:
        rank, size = int(sys.argv[5]), int(sys.argv[6])
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[7])
        torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
        network = nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
    images, labels = examples(name)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    part = batch // size
    order = torch.randperm(len(images))
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        first = step * batch % (len(images) - batch) + rank * part
        chosen = order[first:first + part]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        print(json.dumps({"median_seconds": statistics.median(seconds[min(20, steps // 4):])}))
    if size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
