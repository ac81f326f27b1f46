#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "credence/prediction/metrics.h"
#include "credence/prediction/statistics.h"

namespace credence {

/// The ELBO of a dataset by weight draws, nats for the whole dataset.
struct ElboEstimate {
  double expected_log_likelihood = 0.0;  // mean over draws of the dataset's sum
  std::optional<double> standard_error;  // of the ELBO, whose terms are means over draws; none for one of each member
  std::optional<double> kl;              // over tensors that have a distribution; none where none has
  std::optional<double> elbo;            // expected_log_likelihood - kl
};

/// Two-class predictions on a grid over the plane of two inputs. The variance of a predicted label is
/// p (1 - p) = E[p_s (1 - p_s)] + Var[p_s] over draws s: probability_stddev is the part that the posterior explains.
struct Surface {
  std::vector<double> x, y;                // [W] and [H], the grid's coordinates in the data's units
  std::vector<double> probability;         // [H, W] of class 1
  std::vector<double> label_stddev;        // [H, W] sqrt(p (1 - p))
  std::vector<double> probability_stddev;  // [H, W] of p_s over draws, divisor S
};

/// What a network whose depth is a latent variable says at each depth 1 ... L.
struct DepthReport {
  std::vector<double> probability;  // [L] of q, mean over examples (where q depends on them)
  double mean_depth = 0.0;          // of q, mean over examples
  double mean_mode = 0.0;           // where it halts, mean over examples
  std::vector<Metrics> metrics;     // [L], were it to halt there
};

/// Images of a generative network, pixels 0 to 1.
struct Gallery {
  std::vector<std::int64_t> shape;     // [channels, height, width]
  std::vector<float> inputs;           // [n, shape...], as the likelihood sees them
  std::vector<float> reconstructions;  // the same, through the mean of q(z | x)
  std::vector<float> samples;          // [m, shape...], mean given a draw of z from its prior
};

/// Lower bounds on log p(x) of each example, nats.
struct GenerativePredictions {
  std::vector<double> elbo, importance;  // [N]
  std::vector<double> ood_importance;    // [M], of the out-of-distribution examples
  std::optional<Gallery> gallery;
};

/// What credence evaluate reports, the same bits on every rank. Of the per-example results the one that fits the
/// likelihood is filled: classes, regression, generative, or (Bernoulli of several columns) none.
struct Evaluation {
  std::int64_t examples = 0;
  Metrics predictive;  // over draws
  Metrics mean;        // of the one network with the posterior's mean weights
  std::optional<ElboEstimate> elbo;

  std::optional<ClassPredictions> classes;
  std::optional<RegressionPredictions> regression;
  std::vector<double> ood_entropy;  // nats, of the out-of-distribution examples; empty without
  Reliability reliability;          // of `classes`
  std::optional<Surface> surface;   // two classes of two-dimensional inputs
  std::vector<PredictiveCheck> checks;
  std::optional<DepthReport> depth;
  std::optional<GenerativePredictions> generative;
};

/// Stable names: accuracy, top5_accuracy, nll, ece, adaptive_ece, classwise_ece, aurc, brier, entropy,
/// mutual_information, ood_auroc, rmse, scale, aleatoric_scale, epistemic_scale, coverage_90, interval_width_90,
/// elbo_per_example, importance_bound, samples, examples; the same at the posterior mean under "mean"; "depth":
/// {probability, mean, mean_mode, and a list over depths of each metric}; "elbo": {elbo, elbo_standard_error,
/// expected_log_likelihood, kl}; and "checks": [{statistic, column, observed, replicated_mean, replicated_stddev,
/// tail_probability}]. What is not defined is absent.
nlohmann::json to_json(const Evaluation& evaluation);

}  // namespace credence
