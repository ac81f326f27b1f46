#!/usr/bin/env python3
"""Draws a run on two-dimensional inputs: what it predicts over the plane, how sure it is and why, and its ELBO.

usage: draw.py RUN PREDICTIONS.h5 FIGURE.png

RUN: run directory or checkpoint. PREDICTIONS.h5: what `credence evaluate --predictions FILE` wrote.
"""

import argparse
import pathlib
import sys

import h5py

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import drawing  # noqa: E402
from drawing import BLUE, plt  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402

DARK_ORANGE = "#B85C00"
# Paler than the points that lie on it.
PROBABILITIES = LinearSegmentedColormap.from_list("probabilities", ["#86C1E8", "#FAFAFA", "#F4CB7C"])


def draw_surface(figure, axes, file, values, look):
    """One value over the plane with the evaluated points. `look`: title, label of the colour bar, colours, limits."""
    title, label, colours, limits = look
    x, y = file["surface/x"][:], file["surface/y"][:]
    mesh = axes.pcolormesh(x, y, values, cmap=colours, vmin=limits[0], vmax=limits[1], shading="nearest",
                           rasterized=True)
    axes.contour(x, y, file["surface/probability"][:], levels=[0.5], colors="black", linewidths=1.2)
    points, labels = file["surface/points"][:], file["labels"][:]
    for kind, colour, marker in ((0, BLUE, "o"), (1, DARK_ORANGE, "^")):
        chosen = points[labels == kind]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=16, c=colour, marker=marker, edgecolors="white", linewidths=0.5,
                     label=f"class {kind}")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_xlabel("first input")
    axes.set_ylabel("second input")
    axes.set_title(title)
    figure.colorbar(mesh, ax=axes, label=label, pad=0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("predictions")
    parser.add_argument("figure")
    arguments = parser.parse_args()
    run = drawing.Run(arguments.run)
    plt.rcParams.update(drawing.STYLE)
    with h5py.File(arguments.predictions, "r") as file:
        if "surface" not in file:
            raise SystemExit(f"{arguments.predictions}: no surface, which needs two inputs and two classes")
        figure, axes = plt.subplots(2, 2, figsize=(13, 10.4), constrained_layout=True)
        figure.set_constrained_layout_pads(w_pad=0.12, h_pad=0.1)
        metrics = file.attrs
        figure.suptitle(f"{run.title()}\n{int(metrics['samples'])} draws, {int(metrics['examples'])} test points: "
                        f"accuracy {100 * metrics['accuracy']:.1f} %, NLL {metrics['nll']:.3f} nats, "
                        f"ECE {metrics['ece']:.3f}", fontsize=13)
        spread = file["surface/probability_stddev"][:]
        looks = [("probability", ("Probability of class 1 (line: one half)", "probability", PROBABILITIES, (0, 1))),
                 ("label_stddev", ("Uncertainty of a label: sqrt(p (1 - p))", "standard deviation of the label",
                                   "cividis", (0, 0.5))),
                 ("probability_stddev", ("Part due to the weights: deviation of p over draws",
                                         "standard deviation of p", "cividis", (0, max(spread.max(), 1e-12))))]
        for place, (name, look) in zip(axes.flat, looks):
            draw_surface(figure, place, file, file[f"surface/{name}"][:], look)
        axes[0, 0].legend(loc="upper right", frameon=True, framealpha=1.0, markerscale=1.5)
        drawing.draw_history(axes[1, 1], run)
        drawing.save(figure, arguments.figure)


if __name__ == "__main__":
    main()
