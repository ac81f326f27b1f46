#!/usr/bin/env python3
"""Writes corruptions.json: a small image and what SciPy, Pillow and matplotlib make of it, as Hendrycks and Dietterich's code does.

usage: corruptions.py > corruptions.json     (made with NumPy 1.24, SciPy 1.10, Pillow 9.4, matplotlib 3.6)

Severities 3 of the parameters for small images. Noise and JPEG have no oracle here: the one is drawn from other numbers, the
other depends on the encoder.
"""

import json
import sys

import numpy as np
from matplotlib import colors
from PIL import Image
from scipy import ndimage

HEIGHT, WIDTH = 20, 24


def to_bytes(image):
    return np.round(255 * np.clip(image, 0, 1)).astype(int)


def blur(image):
    return np.stack([ndimage.gaussian_filter(plane, 0.7, mode="nearest", truncate=4.0)
                     for plane in np.moveaxis(image, 2, 0)], axis=2)


def contrast(image):
    means = image.mean(axis=(0, 1), keepdims=True)
    return (image - means) * 0.4 + means


def brightness(image):
    hsv = colors.rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.15, 0, 1)
    return colors.hsv_to_rgb(hsv)


def pixelate(image):
    small = Image.fromarray(to_bytes(image).astype(np.uint8)).resize((int(WIDTH * 0.85), int(HEIGHT * 0.85)), Image.BOX)
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.BOX)) / 255


def main():
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH, 3)), (2, 2, 0))
    image = to_bytes(0.5 + 1.5 * smooth + 0.05 * rng.normal(size=smooth.shape))
    image[:2, :2] = 0
    flat = lambda pixels: np.moveaxis(pixels, 2, 0).ravel().tolist()  # [C, H, W]
    results = {f.__name__: flat(to_bytes(f(image / 255))) for f in (blur, contrast, brightness, pixelate)}
    json.dump({"height": HEIGHT, "width": WIDTH, "image": flat(image), "corrupted": results}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
