"""What the figures of several experiments share: reading a run's history, and the look."""

import pathlib

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

# Okabe and Ito's palette: told apart with every kind of colour vision.
BLUE, ORANGE, VERMILION, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#666666"

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


def newest_checkpoint(path):
    """`path` itself, or the newest checkpoint of a run directory."""
    path = pathlib.Path(path)
    if path.is_file():
        return path
    checkpoints = sorted(path.glob("checkpoint-*.h5"), key=lambda file: int(file.stem.split("-")[1]))
    if not checkpoints:
        raise SystemExit(f"{path}: no checkpoint here; give a checkpoint file or a run directory")
    return checkpoints[-1]


class Run:
    """Configuration, attributes and history (nats for the whole dataset) of a checkpoint."""

    def __init__(self, path):
        with h5py.File(newest_checkpoint(path), "r") as file:
            text = file["config"][()]
            self.attributes = dict(file.attrs)
            self.history = {name: values[:] for name, values in file["history"].items()}
        lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
        pairs = [line.split("=", 1) for line in lines if "=" in line]
        self.config = {name.strip(): value.strip() for name, value in pairs}

    def title(self):
        ranks = int(self.attributes["world_size"])
        return (f"{self.config.get('network', 'network')} on {self.config.get('data', 'data')}, "
                f"{self.config.get('posterior', '?')} posterior, {self.attributes['epoch']:.4g} epochs on "
                f"{ranks} rank{'s' if ranks > 1 else ''}")


def smoothed(values, window):
    """Mean over a centred window, which is shorter at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low = np.maximum(centre - window // 2, 0)
    high = np.minimum(centre + window // 2 + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def draw_history(axes, run):
    """ELBO per training example over epochs, with the two terms that it is the sum of."""
    history = run.history
    examples = float(run.attributes["dataset_size"])
    epochs = history["epoch"]
    window = max(1, len(epochs) // 50)
    lines = [("expected log likelihood", history["expected_log_likelihood"], GREEN, "--"),
             ("minus KL", -history["kl"], ORANGE, ":"), ("ELBO", history["elbo"], BLUE, "-")]
    lowest, highest = [], [0.0]
    for name, values, colour, style in lines:
        if not np.isfinite(values).any():
            continue  # a point estimate has no KL and no bound
        values = values / examples
        mean = smoothed(values, window)
        if window > 1 and name == "ELBO":
            axes.plot(epochs, values, color=colour, alpha=0.2, linewidth=0.5)
        axes.plot(epochs, mean, color=colour, linestyle=style, linewidth=2, label=f"{name}: {mean[-1]:.3f} at the end")
        lowest.append(mean.min())
        highest.append(mean.max())
    span = max(highest) - min(lowest)
    axes.set_ylim(min(lowest) - 0.05 * span, max(highest) + 0.05 * span)
    axes.set_xlim(0, epochs[-1])
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per training example")
    axes.set_title("Evidence lower bound" + (f" (mean over {window} steps)" if window > 1 else ""))
    axes.grid(alpha=0.3)
    # Below the axes: no corner is free in every run.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=1, handlelength=3)


def save(figure, path):
    figure.savefig(path)
    plt.close(figure)
    print(f"{path}: written")
