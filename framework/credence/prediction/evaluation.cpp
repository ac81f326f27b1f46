#include "credence/prediction/evaluation.h"

#include <nlohmann/json.hpp>

namespace credence {
namespace {

nlohmann::json metrics_json(const Metrics& metrics) {
  nlohmann::json json = {{"samples", metrics.samples}};
  for (const auto& [name, value] : metrics.defined()) json[name] = value;
  return json;
}

nlohmann::json depth_json(const DepthReport& report) {
  nlohmann::json json = {
      {"probability", report.probability}, {"mean", report.mean_depth}, {"mean_mode", report.mean_mode}};
  for (const Metrics& metrics : report.metrics) {
    for (const auto& [name, value] : metrics.defined()) json[name].push_back(value);
  }
  return json;
}

}  // namespace

nlohmann::json to_json(const Evaluation& evaluation) {
  nlohmann::json json = metrics_json(evaluation.predictive);
  json["examples"] = evaluation.examples;
  json["mean"] = metrics_json(evaluation.mean);
  if (const auto& estimate = evaluation.elbo) {
    nlohmann::json& elbo = json["elbo"] = {{"expected_log_likelihood", estimate->expected_log_likelihood}};
    if (estimate->standard_error) elbo["elbo_standard_error"] = *estimate->standard_error;
    if (estimate->kl) elbo["kl"] = *estimate->kl;
    if (estimate->elbo) elbo["elbo"] = *estimate->elbo;
  }
  if (evaluation.depth) json["depth"] = depth_json(*evaluation.depth);
  for (const PredictiveCheck& check : evaluation.checks) {
    nlohmann::json& entry = json["checks"].emplace_back();
    entry = {{"statistic", name_of(check.statistic)},
             {"observed", check.observed},
             {"replicated_mean", check.replicated_mean},
             {"tail_probability", check.tail_probability}};
    if (check.column) entry["column"] = *check.column;
    if (check.replicated_stddev) entry["replicated_stddev"] = *check.replicated_stddev;
  }
  return json;
}

}  // namespace credence
