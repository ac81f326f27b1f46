"""Networks of the zoo in NumPy, float64, and the state dicts that `credence export` writes: what tests compute again."""

import json
import pathlib

import numpy as np

DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}


def read_safetensors(file):
    """(tensors by name, metadata), by the format's description alone."""
    data = pathlib.Path(file).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + size + begin:8 + size + end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def mlp(weights, inputs, nonlinearity=np.tanh):
    """Outputs [N, outputs] of fc1, fc2, ..., with weights by name."""
    layers = sum(name.endswith(".weight") for name in weights)
    x = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    for i in range(1, layers + 1):
        x = x @ np.float64(weights[f"fc{i}.weight"]).T + np.float64(weights[f"fc{i}.bias"])
        if i < layers:
            x = nonlinearity(x)
    return x


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def entropy(p):
    return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0), axis=-1)
