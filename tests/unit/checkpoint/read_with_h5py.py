"""Reads a checkpoint with h5py, which shares no code with ours, and compares it with FORMAT.md and with known values.

Usage: read_with_h5py.py FILE, a file that write_sample made.
"""
import struct
import sys

import h5py
import numpy as np

ATTRIBUTES = {
    "format": "credence checkpoint", "format_version": 1, "complete": 1, "step": 1200, "epoch": 2.5, "seed": -7,
    "shards": 4, "world_size": 2, "dataset_size": 60000, "network": "lenet5 é",
}
ARRAYS = {
    "posterior/fc1.weight/mean": np.array([[1200.5, -1, 2], [3, -0.0, 1e-38]], "<f4"),
    "posterior/fc1.weight/scale": np.array([[1200, .2, .3], [.4, .5, .6]], "<f4"),
    "posterior/fc1.weight/raw_scale": np.array([[-1200, -4, -3], [-2, -1, 0]], "<f4"),
    "posterior/bias/mean": np.array(1 / 3 + 1200, "<f8"),
    "buffers/bn.num_batches_tracked": np.array(1200, "<i8"),
    "buffers/mask": np.array([1, 0, 255, 7, 1200 % 256], "u1"),
    "buffers/empty": np.zeros((0, 4), "<f4"),
    "optimizer/first_moment/fc1.weight": np.array([[1, 2, 3], [4, 5, 1200]], "<f4"),
    "history/step": np.array([1, 2, 3], "<f8"),
    "history/elbo": np.array([-1203, -2, -1], "<f8"),
}


def main(path):
    with h5py.File(path, "r") as file:
        assert file.userblock_size == 512
        assert dict(file.attrs) == ATTRIBUTES, dict(file.attrs)
        for name in ("format", "network"):
            assert isinstance(file.attrs[name], str)
        assert file["config"][()].decode() == "network = lenet5\nlr = 0.005\n"

        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        assert set(found) == set(ARRAYS) | {"config"}, sorted(found)
        for name, expected in ARRAYS.items():
            dataset = found[name]
            assert dataset.dtype == expected.dtype and dataset.shape == expected.shape, (name, dataset)
            assert dataset[...].tobytes() == expected.tobytes(), name
            assert dataset.chunks is None and dataset.compression is None and dataset.external is None, name
            assert dataset.maxshape == dataset.shape, name
        for name, dataset in found.items():
            digest = dataset.attrs["xxh3_128"]
            assert isinstance(digest, str) and len(digest) == 32 and int(digest, 16) >= 0, (name, digest)
            # Equal bytes have equal digests and others have others.
            for other in found.values():
                equal = dataset[()].tobytes() == other[()].tobytes() if name != "config" else dataset == other
                if name != "config" and other.name != "/config":
                    assert (digest == other.attrs["xxh3_128"]) == equal, (name, other.name)
        assert file["posterior/fc1.weight"].attrs["prior"] == "normal:1"
        assert file["optimizer/adam"].attrs["updates"] == 1200
        assert file["history/elbo"].attrs["unit"] == "nats"

    with open(path, "rb") as raw:
        content = raw.read()
    magic, version, block, length = struct.unpack("<8sIIQ", content[:24])
    assert (magic, version, block, length) == (b"CREDENCE", 1, 512, len(content))
    assert content[40:496] == bytes(456)
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"
    verify_digests(path, content)
    print("h5py reads", len(ARRAYS), "arrays as FORMAT.md says")


def verify_digests(path, content):
    """By another implementation of XXH3 than the one linked into Credence, where there is one."""
    try:
        import xxhash
    except ImportError:
        print("no Python package xxhash: digests were not recomputed")
        return
    assert xxhash.xxh3_128_digest(content[512:]) == content[24:40]
    assert xxhash.xxh3_128_digest(content[:496]) == content[496:512]
    with h5py.File(path, "r") as file:
        for name, expected in ARRAYS.items():
            assert file[name].attrs["xxh3_128"] == xxhash.xxh3_128_hexdigest(expected.tobytes()), name


main(sys.argv[1])
