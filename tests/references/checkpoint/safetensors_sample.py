#!/usr/bin/env python3
"""Writes sample.safetensors with the format's own library (pip install safetensors==0.8.0 numpy), one tensor a type.

The values are such that a test can write them down: see tests/unit/checkpoint/safetensors_test.cpp.
"""

import pathlib

import numpy as np
import safetensors

TENSORS = {
    "half": ("float16", [3], np.array([1 / 3, -65504.0, 2.0**-24], np.float16)),
    "brain": ("bfloat16", [2], np.array([0x4049, 0xBF80], np.uint16)),  # 3.140625, -1
    "fc.weight": ("float32", [2, 3], np.arange(6, dtype=np.float32)),
    "fc.bias": ("float64", [2], np.array([0.1, -1e300])),
    "steps": ("int64", [], np.array(-7, np.int64)),
    "empty": ("float32", [0, 4], np.zeros((0, 4), np.float32)),
    "flags": ("bool", [3], np.array([True, False, True])),
}

if __name__ == "__main__":
    entries = {name: safetensors.TensorSpec(dtype=dtype, shape=shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
               for name, (dtype, shape, array) in TENSORS.items()}
    file = pathlib.Path(__file__).with_name("sample.safetensors")
    file.write_bytes(safetensors.serialize(entries, {"format": "pt", "note": "written by safetensors 0.8.0"}))
