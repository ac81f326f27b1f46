#!/usr/bin/env python3
"""Writes metrics.json: metrics of made-up predictions, computed by NumPy, SciPy and scikit-learn.

usage: metrics.py > metrics.json     (made with scikit-learn 1.9, SciPy 1.17, NumPy 2.4; needs 1.7 for Brier's classes)
"""

import json
import sys

import numpy as np
from scipy import special, stats
from sklearn import metrics

DRAWS, EXAMPLES, CLASSES, BINS = 5, 41, 4, 15


def classification(rng):
    labels = rng.integers(0, CLASSES, EXAMPLES)
    signal = 2.0 * (labels[:, None] == np.arange(CLASSES)) + rng.normal(0, 1, (EXAMPLES, CLASSES))
    logits = np.round(signal + rng.normal(0, 1.5, (DRAWS, EXAMPLES, CLASSES)), 3)
    logits[:, 0] *= 100.0  # probabilities that underflow beside the largest
    log_p = special.log_softmax(logits, axis=2)
    p = special.softmax(logits, axis=2).mean(axis=0)
    log_likelihood = special.logsumexp(log_p[:, np.arange(EXAMPLES), labels], axis=0) - np.log(DRAWS)
    predicted = p.argmax(axis=1)
    confidence = p.max(axis=1)
    assert np.abs(confidence * BINS - np.round(confidence * BINS))[confidence < 1].min() > 1e-9  # on no border

    counts = stats.binned_statistic(confidence, confidence, "count", BINS, (0, 1)).statistic
    with np.errstate(all="ignore"):
        mean_confidence = np.nan_to_num(stats.binned_statistic(confidence, confidence, "mean", BINS, (0, 1)).statistic)
        accuracy = np.nan_to_num(stats.binned_statistic(confidence, predicted == labels, "mean", BINS, (0, 1)).statistic)
    entropy = stats.entropy(p, axis=1)
    mutual_information = entropy - stats.entropy(special.softmax(logits, axis=2), axis=2).mean(axis=0)
    right = predicted == labels
    by_confidence = np.argsort(confidence, kind="stable")
    adaptive = sum(abs((right[part].astype(float) - confidence[part]).sum())
                   for part in (by_confidence[b * EXAMPLES // BINS:(b + 1) * EXAMPLES // BINS] for b in range(BINS)))
    classwise = 0.0
    for c in range(CLASSES):
        true, count = (stats.binned_statistic(p[:, c], values, "sum", BINS, (0, 1)).statistic
                       for values in (labels == c, p[:, c]))
        classwise += np.abs(true - count).sum() / EXAMPLES / CLASSES
    assert len(set(confidence)) == EXAMPLES
    risk = np.cumsum(~right[by_confidence[::-1]]) / np.arange(1, EXAMPLES + 1)
    return {
        "draws": DRAWS, "examples": EXAMPLES, "classes": CLASSES, "bins": BINS,
        "labels": labels.tolist(), "logits": logits.tolist(),
        "expected": {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "nll": -log_likelihood.mean(),
            "ece": np.sum(counts * np.abs(accuracy - mean_confidence)) / EXAMPLES,
            "adaptive_ece": adaptive / EXAMPLES,
            "classwise_ece": classwise,
            "aurc": risk.mean(),
            "brier": metrics.brier_score_loss(labels, p, labels=np.arange(CLASSES), scale_by_half=False),
            "entropy": entropy.mean(),
            "mutual_information": mutual_information.mean(),
        },
        "risk": risk.tolist(),
        "top2_accuracy": metrics.top_k_accuracy_score(labels, p, k=2, labels=np.arange(CLASSES)),
        "log_likelihood": log_likelihood.tolist(),
        "mutual_information": mutual_information.tolist(),
        "reliability": {"count": counts.astype(int).tolist(), "confidence": mean_confidence.tolist(),
                        "accuracy": accuracy.tolist()},
    }


def ranking(rng):
    """Scores with many ties within and between the two kinds."""
    negatives = np.round(rng.normal(0.0, 1.0, 57), 1)
    positives = np.round(rng.normal(0.7, 1.0, 43), 1)
    kinds = np.r_[np.zeros(len(negatives)), np.ones(len(positives))]
    return {"negatives": negatives.tolist(), "positives": positives.tolist(),
            "auroc": metrics.roc_auc_score(kinds, np.r_[negatives, positives])}


def log_mean_exp(rng):
    """Values whose exponentials overflow or underflow."""
    rows = []
    for offset in (0.0, -2000.0, 3000.0):
        values = np.round(offset + rng.normal(0, 20, 9), 6)
        rows.append({"values": values.tolist(), "result": special.logsumexp(values) - np.log(len(values))})
    return rows


def main():
    rng = np.random.default_rng(20240917)
    json.dump({"classification": classification(rng), "ranking": ranking(rng), "log_mean_exp": log_mean_exp(rng)},
              sys.stdout, default=float)
    print()


if __name__ == "__main__":
    main()
