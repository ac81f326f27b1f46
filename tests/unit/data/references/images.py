#!/usr/bin/env python3
"""Writes images.inc: encoded images made by Pillow with the pixels that Pillow decodes, torch's antialiased bilinear
resizing, and torchvision's colour changes, all of pixels that tests make by the same formula.

usage: images.py > images.inc      (Pillow 9.4.0, torch 2.11.0, torchvision 0.26.0)
"""
import io

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F


def pixels(height, width, channels=3):
    """As test::pattern() in C++."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    return ((x * 11 + y * 7 + c * 50 + (x * y) // 3) % 256).astype(np.uint8)


def smooth(height, width):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return (40 + 6 * x + 4 * y + 20 * c).astype(np.uint8)


def array(name, kind, values):
    flat = np.asarray(values).reshape(-1)
    text = ", ".join(repr(float(v)) if kind == "double" else str(int(v)) for v in flat)
    lines, line = [], "   "
    for word in text.split(", "):
        if len(line) + len(word) > 116:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    print(f"const std::vector<{kind}> {name} = {{\n" + "\n".join(lines) + "\n};")


def encoded(name, image, form, **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    array(name + "_file", "std::uint8_t", list(data.getvalue()))
    decoded = Image.open(io.BytesIO(data.getvalue()))
    array(name + "_pixels", "std::uint8_t", np.asarray(decoded.convert("RGB")))


print("// Made by references/images.py. clang-format off")
color = Image.fromarray(smooth(20, 24))
encoded("jpeg_color", color, "JPEG", quality=92, subsampling=0)
encoded("jpeg_progressive", color, "JPEG", quality=92, subsampling=0, progressive=True)
encoded("jpeg_gray", color.convert("L"), "JPEG", quality=92)
encoded("jpeg_cmyk", color.convert("CMYK"), "JPEG", quality=92, subsampling=0)
encoded("png_palette", color.quantize(16), "PNG")
encoded("png_gray", color.convert("L"), "PNG")
encoded("png_alpha", Image.merge("RGBA", [*color.split(), color.convert("L")]), "PNG")
for height, width in ((5, 7), (20, 9), (13, 17), (3, 40)):
    source = torch.from_numpy(pixels(13, 17).astype(np.float64)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(source, size=(height, width), mode="bilinear", antialias=True)
    array(f"resized_{height}_{width}", "double", resized[0].permute(1, 2, 0).numpy().round(6))
image = torch.from_numpy(pixels(6, 9)).permute(2, 0, 1)
for name, change in (("brightness", lambda t: F.adjust_brightness(t, 1.37)), ("contrast", lambda t: F.adjust_contrast(t, 0.64)),
                     ("saturation", lambda t: F.adjust_saturation(t, 1.8)), ("hue", lambda t: F.adjust_hue(t, -0.21))):
    array("jitter_" + name, "std::uint8_t", change(image).permute(1, 2, 0).numpy())
