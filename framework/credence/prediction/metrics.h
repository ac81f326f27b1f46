#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace credence {

/// Numbers about predictions on a whole dataset. What is not defined for the likelihood is empty.
struct Metrics {
  int samples = 0;                           // draws behind each prediction
  std::optional<double> nll;                 // nats per example: -log of the mean likelihood over draws
  std::optional<double> accuracy;            // fraction
  std::optional<double> top5_accuracy;       // fraction whose label is among the five most probable classes, C > 5
  std::optional<double> ece;                 // fraction: expected calibration error of the top label
  std::optional<double> adaptive_ece;        // the same in bins of equally many examples
  std::optional<double> classwise_ece;       // of every class's probability, mean over classes
  std::optional<double> aurc;                // fraction: selective risk, mean over coverages
  std::optional<double> brier;               // squared error of the probabilities, summed over classes
  std::optional<double> entropy;             // nats, of the mean probabilities: total uncertainty
  std::optional<double> mutual_information;  // nats, of label and weights: what more data could remove
  std::optional<double> ood_auroc;           // of telling out-of-distribution data by their entropy
  std::optional<double> rmse;                // of the predictive mean, in the targets' units
  std::optional<double> scale;               // root mean square predictive standard deviation, noise included
  // The two parts of scale^2, as standard deviations again: noise that remains with known weights (mean of variances),
  // and what more data could remove (variance of means).
  std::optional<double> aleatoric_scale, epistemic_scale;
  std::optional<double> coverage_90;        // fraction of targets inside their central 90 % predictive interval
  std::optional<double> interval_width_90;  // mean width of that interval, in the targets' units
  std::optional<double> elbo_per_example;   // nats: of a network that describes its inputs, mean over examples
  std::optional<double> importance_bound;   // nats: the importance-weighted one with `samples` samples; -nll

  /// Name and value of those that are defined; names as in JSON and files.
  std::vector<std::pair<std::string, double>> defined() const;
};

/// Predictive results of every example of a classification dataset, by index.
struct ClassPredictions {
  std::int64_t classes = 0;                // C
  std::vector<std::int64_t> labels;        // [N]
  std::vector<std::int64_t> predicted;     // [N], the first of the most probable classes
  std::vector<double> confidence;          // [N], probability of the predicted class
  std::vector<double> log_likelihood;      // [N], nats: log of the mean probability of the label
  std::vector<double> brier;               // [N]
  std::vector<double> entropy;             // [N], nats
  std::vector<double> mutual_information;  // [N], nats
  std::vector<std::int64_t> label_rank;    // [N], how many classes are more probable than the label; or empty
  std::optional<double> classwise_ece;     // of all examples; their probabilities are not kept
  std::vector<double> probabilities;       // [N, C], or empty where not asked for

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  bool correct(std::int64_t example) const;
};

/// Predictive results of every example of a regression dataset, by index.
struct RegressionPredictions {
  std::int64_t columns = 1;            // D
  std::vector<double> targets;         // [N, D]
  std::vector<double> mean;            // [N, D]
  std::vector<double> scale;           // [N, D] predictive standard deviation, observation noise included
  std::vector<double> log_likelihood;  // [N], nats
  std::vector<double> aleatoric_scale, epistemic_scale;  // [N, D], scale^2 is the sum of their squares
  std::vector<double> lower, upper;                      // [N, D] ends of the central predictive interval
};

/// Of the predictive intervals that are reported.
inline constexpr double kIntervalProbability = 0.9;

/// Examples by confidence, in equal-width bins ((b / B, (b + 1) / B]).
struct Reliability {
  std::vector<std::int64_t> count;  // [B]
  std::vector<double> confidence;   // [B], mean over the bin's examples; 0 for an empty bin
  std::vector<double> accuracy;     // [B], fraction; 0 for an empty bin
};

/// -sum p log p, nats.
double entropy_nats(std::span<const double> probabilities);
/// Mean in one fixed order: sums of 1,024 values, then their sum.
double ordered_mean(std::span<const double> values);

/// The bin of a probability, as in Reliability.
std::size_t confidence_bin(double confidence, std::size_t bins);
Reliability reliability(const ClassPredictions& predictions, int bins);
/// Weighted mean over bins of |accuracy - confidence| (Naeini et al. 2015; Guo et al. 2017, sec. 2).
double expected_calibration_error(const Reliability& reliability);

/// Probability that a positive's score exceeds a negative's, ties counted half; exact, O(n log n). Neither may be
/// empty.
double area_under_roc(std::span<const double> negatives, std::span<const double> positives);

/// All but ood_auroc; `bins` for the calibration error. `samples` is left to the caller.
Metrics classification_metrics(const ClassPredictions& predictions, int bins);
/// What is infinite (the scale of Student's t with dof <= 2) stays empty.
Metrics regression_metrics(const RegressionPredictions& predictions);

}  // namespace credence
