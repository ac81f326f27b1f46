#!/usr/bin/env python3
"""Draws a run on images: ELBO history, reliability diagram, the images it is least and most sure of.

usage: draw.py RUN PREDICTIONS.h5 FIGURE.png

RUN: run directory or checkpoint. PREDICTIONS.h5: what `credence evaluate --predictions FILE` wrote.
"""

import argparse
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import drawing  # noqa: E402
from drawing import BLUE, GREY, VERMILION, plt  # noqa: E402

IMAGES_A_ROW = 8


def draw_reliability(axes, below, file):
    """Accuracy over confidence in the bins of the calibration error, and how many images each bin holds."""
    count = file["reliability/count"][:]
    accuracy = file["reliability/accuracy"][:]
    edges = np.linspace(0.0, 1.0, len(count) + 1)
    width = edges[1]
    centres = edges[:-1] + width / 2
    filled = count > 0
    axes.bar(centres[filled], accuracy[filled], width * 0.94, color=BLUE, alpha=0.85, label="accuracy in the bin")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfect calibration")
    axes.plot(file["reliability/confidence"][:][filled], accuracy[filled], "o", color=VERMILION, markersize=4,
              label="at its mean confidence")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy (fraction)")
    axes.tick_params(labelbottom=False)
    axes.set_title("Reliability")
    axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")

    below.bar(centres[filled], count[filled] / count.sum(), width * 0.94, color=GREY)
    below.set_xlim(0, 1)
    below.set_yscale("log")
    below.set_ylim(0.5 / count.sum(), 1)
    below.set_ylabel("fraction\nof images")
    below.set_xlabel("confidence: probability of the predicted class")


def summary(metrics):
    text = (f"{int(metrics['samples'])} draws, {int(metrics['examples']):,} images: "
            f"accuracy {100 * metrics['accuracy']:.2f} %, NLL {metrics['nll']:.3f} nats, ECE {metrics['ece']:.4f}, "
            f"Brier score {metrics['brier']:.3f}")
    if "ood_auroc" in metrics:
        text += f", AUROC of out-of-distribution images {metrics['ood_auroc']:.3f}"
    return text


def displayed(pixels):
    """[C, H, W] in 0 to 1 as imshow wants it."""
    pixels = np.clip(pixels, 0.0, 1.0)
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def draw_images(figure, grid, file, kind, names):
    group = file[f"inputs/{kind}"]
    labels, predicted, confidence = (file[name][:] for name in ("labels", "predicted", "confidence"))
    for place, (index, pixels) in enumerate(zip(group["index"][:], group["pixels"][:])):
        axes = figure.add_subplot(grid[place // IMAGES_A_ROW, place % IMAGES_A_ROW])
        axes.imshow(displayed(pixels), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        right = labels[index] == predicted[index]
        colour = BLUE if right else VERMILION
        for spine in axes.spines.values():
            spine.set(visible=True, color=colour, linewidth=2)
        verdict = f"{names[predicted[index]]} {100 * confidence[index]:.0f} %"
        caption = f"{verdict}\nright" if right else f"{verdict}\nis: {names[labels[index]]}"
        axes.set_xlabel(caption, fontsize=8, color=colour, labelpad=3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("predictions")
    parser.add_argument("figure")
    arguments = parser.parse_args()
    run = drawing.Run(arguments.run)
    plt.rcParams.update(drawing.STYLE)
    with h5py.File(arguments.predictions, "r") as file:
        if "inputs" not in file:
            raise SystemExit(f"{arguments.predictions}: no images with classes, which this figure shows")
        if "class_names" in file.attrs:
            names = file.attrs["class_names"].split("\n")
        else:
            names = [f"class {i}" for i in range(int(file.attrs["classes"]))]
        figure = plt.figure(figsize=(13, 14.4))
        figure.text(0.06, 0.978, run.title(), fontsize=14, fontweight="bold")
        figure.text(0.06, 0.96, summary(file.attrs), fontsize=11)
        top = figure.add_gridspec(2, 2, left=0.06, right=0.985, top=0.925, bottom=0.6, height_ratios=[3, 1],
                                  hspace=0.08, wspace=0.18)
        # Room for the legend below the history.
        history = top[:, 0].subgridspec(2, 1, height_ratios=[3.4, 1], hspace=0.0)
        drawing.draw_history(figure.add_subplot(history[0]), run)
        draw_reliability(figure.add_subplot(top[0, 1]), figure.add_subplot(top[1, 1]), file)
        for kind, title, edge in (("least_sure", "The images it is least sure of: highest predictive entropy", 0.51),
                                  ("most_sure", "The images it is most sure of: lowest predictive entropy", 0.235)):
            figure.text(0.06, edge + 0.014, title, fontsize=11, fontweight="bold")
            grid = figure.add_gridspec(2, IMAGES_A_ROW, left=0.06, right=0.985, top=edge, bottom=edge - 0.2,
                                       hspace=0.42, wspace=0.12)
            draw_images(figure, grid, file, kind, names)
        drawing.save(figure, arguments.figure)


if __name__ == "__main__":
    main()
