"""Opens an exported file with the libraries that it is meant for; run by the Python of tests/prepare.

usage: open_with_libraries.py netcdf FILE FOLDER | safetensors FILE
Prints what the library made of it as JSON; `netcdf` draws FOLDER/trace.png.
"""

import json
import pathlib
import sys
import warnings

import numpy as np


def netcdf(file, folder):
    import matplotlib

    matplotlib.use("Agg")
    warnings.simplefilter("ignore")
    import arviz as az
    import netCDF4

    data = az.from_netcdf(file)
    summary = az.summary(data, round_to="none")
    axes = az.plot_trace(data, var_names=["fc1.bias"])
    axes[0, 0].figure.savefig(pathlib.Path(folder) / "trace.png")
    loo = az.loo(data)
    other = az.from_netcdf(file, engine="netcdf4")
    for group in data.groups():
        assert data[group].equals(other[group]), f"{group} differs between h5netcdf and netCDF4"
    with netCDF4.Dataset(file) as opened:
        dimensions = {name: {key: len(value) for key, value in group.dimensions.items()}
                      for name, group in opened.groups.items()}
    return {"groups": data.groups(),
            "dimensions": dimensions,
            "attributes": {key: value if isinstance(value, str) else value.item()
                           for key, value in data.posterior.attrs.items()},
            "variables": {group: {name: [list(variable.dims), list(variable.shape), str(variable.dtype)]
                                  for name, variable in data[group].data_vars.items()} for group in data.groups()},
            "coordinates": {name: values.values.tolist() for name, values in data.posterior.coords.items()},
            "summary": {name: [row["mean"], row["sd"]] for name, row in summary.iterrows()},
            "observed_mean": float(data.observed_data["y"].mean()),
            "elpd_loo": float(loo.elpd_loo)}


def safetensors(file):
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        metadata = opened.metadata()
    return {"metadata": metadata,
            "tensors": {name: {"dtype": str(values.dtype), "shape": list(values.shape),
                               "values": np.float64(values).ravel().tolist()} for name, values in tensors.items()}}


if __name__ == "__main__":
    print(json.dumps({"netcdf": netcdf, "safetensors": safetensors}[sys.argv[1]](*sys.argv[2:])))
