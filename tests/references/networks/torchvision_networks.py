#!/usr/bin/env python3
"""Writes networks.json: what torchvision's networks compute from given weights, in float64.

usage: torchvision_networks.py > networks.json     (made with torch 2.11, torchvision 0.26)

Every weight and pixel is a function of its tensor's name and its index, which the test repeats.
"""

import json
import math
import sys

import torch
import torchvision

MASK = 0xFFFFFFFF
EXAMPLES, CLASSES = 2, 10


def uniform(name, count):
    """Numbers in [-1/2, 1/2): a hash (FNV-1a) of the name, mixed with the index."""
    start = 2166136261
    for letter in name.encode():
        start = (start ^ letter) * 16777619 & MASK
    h = (torch.arange(count, dtype=torch.int64) * 2654435761 + start) & MASK
    h = ((h ^ h >> 16) * 0x45D9F3B) & MASK
    h = ((h ^ h >> 16) * 0x45D9F3B) & MASK
    return (h ^ h >> 16).double() / 2.0**32 - 0.5


def fill(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            u = uniform(name, tensor.numel()).view(tensor.shape)
            if tensor.dim() > 1:  # the variance of He et al. 2015
                u = u * math.sqrt(24.0 / (tensor.numel() // tensor.shape[0]))
            elif name.endswith("running_var"):
                u = u + 1.0
            elif name.endswith("weight"):
                u = u * 0.5 + 1.0
            tensor.copy_(u)


def build(name):
    """The network by its name in Credence, and the size of its images."""
    if not name.startswith("vit:"):
        return getattr(torchvision.models, name)(num_classes=CLASSES), 64
    patch, depth, width, heads = map(int, name.removeprefix("vit:").split(","))
    return torchvision.models.VisionTransformer(image_size=16, patch_size=patch, num_layers=depth, num_heads=heads,
                                                hidden_dim=width, mlp_dim=4 * width, num_classes=CLASSES), 16


def first_gradient(model):
    return next(p for p in model.parameters() if p.dim() == 4).grad.flatten()[:8].tolist()


def main():
    torch.set_default_dtype(torch.float64)
    result = {}
    for name in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vit:4,2,24,3"]:
        model, size = build(name)
        pixels = uniform("input", EXAMPLES * 3 * size**2).view(EXAMPLES, 3, size, size) * 4.0
        fill(model)
        entry = {"pixels": size, "parameters": sum(p.numel() for p in model.parameters())}
        model.eval()
        with torch.no_grad():
            entry["evaluation"] = model(pixels).tolist()
        model.train()
        logits = model(pixels)
        torch.nn.functional.cross_entropy(logits, torch.arange(EXAMPLES)).backward()
        entry["training"] = logits.tolist()
        entry["gradient"] = first_gradient(model)  # of the first convolution
        entry["gradient_norm"] = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        if hasattr(model, "bn1"):
            entry["running_var"] = model.bn1.running_var[:4].tolist()
        result[name] = entry
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
