#!/usr/bin/env python3
"""Checks what the files of framework/ include against the layout's rules.

usage: check_includes.py [ROOT]   prints one line per violation; exit code 1 if there is any

Rules: a folder includes only itself and folders above it in FOLDERS (training and prediction include all); LibTorch
stays out of the folders that build without it; mpi.h, nccl.h and hdf5.h appear in no header but the backend's own;
Boost belongs to launchers/; every header has `#pragma once`.
"""

import pathlib
import re
import sys

# Dataflow order, as in framework/README.md.
FOLDERS = ["base", "kernels", "communication", "data", "networks", "likelihoods", "priors", "posteriors", "estimators",
           "optimizers", "checkpoint", "training", "prediction"]
INCLUDE_ALL = {"training", "prediction"}
WITHOUT_TORCH = {"base", "kernels", "communication", "data", "checkpoint"}
# A header of the backend has the backend's name in its own.
BACKENDS = {"mpi.h": "mpi", "nccl.h": "nccl", "hdf5.h": "hdf5"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def include_violation(folder, path, included):
    """Why `path` of `folder` must not include `included`, or None."""
    parts = included.split("/")
    if parts[0] == "credence":
        if len(parts) < 3 or parts[1] not in FOLDERS:
            return f"includes {included}, which is in no folder of the layout"
        if folder not in INCLUDE_ALL and FOLDERS.index(parts[1]) > FOLDERS.index(folder):
            return f"{folder} must not include {parts[1]} ({included}): it comes later in the order of folders"
    if parts[0] in ("torch", "ATen", "c10") and folder in WITHOUT_TORCH:
        return f"includes {included}, but {folder} builds without LibTorch"
    if parts[0] == "boost":
        return f"includes {included}, but only launchers/ uses Boost"
    backend = BACKENDS.get(included)
    if backend and path.suffix in (".h", ".cuh") and backend not in path.stem:
        return f"is a header and includes {included}, which belongs to headers named *{backend}* only"
    if included.startswith(".."):
        return f"includes {included}: include from the root, \"credence/FOLDER/FILE.h\""
    return None


def violations(root):
    """(files read, messages)"""
    library = root / "framework" / "credence"
    files = sorted(p for p in library.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
    messages = []
    for path in files:
        name = path.relative_to(root)
        folder = path.relative_to(library).parts[0]
        if folder not in FOLDERS:
            messages.append(f"{name}: {folder} is no folder of the layout")
            continue
        text = path.read_text()
        for match in INCLUDE.finditer(text):
            reason = include_violation(folder, path, match.group(1))
            if reason:
                line = text.count("\n", 0, match.start(1)) + 1
                messages.append(f"{name}:{line}: {reason}")
        # Highway compiles *_inl.h once per target, through its own guard.
        if path.suffix == ".h" and not path.stem.endswith("_inl") and "#pragma once" not in text:
            messages.append(f"{name}: no #pragma once")
    return files, messages


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    files, messages = violations(root)
    for message in messages:
        print(message)
    if not files:
        print(f"no source files below {root}/framework/credence")
        return 1
    print(f"{len(files)} files, {len(messages)} violations")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
