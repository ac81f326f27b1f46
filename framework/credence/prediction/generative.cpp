#include "credence/prediction/generative.h"

#include <cmath>
#include <numeric>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"
#include "credence/likelihoods/latent.h"
#include "credence/networks/vae.h"
#include "credence/prediction/pass.h"
#include "credence/prediction/training_elbo.h"

namespace credence {
namespace {

constexpr std::int64_t kReconstructions = 16;
constexpr std::int64_t kSamples = 64;

std::vector<double> on_host(const torch::Tensor& values) {
  const torch::Tensor host = values.to(torch::kCPU, torch::kFloat64).contiguous();
  return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
}

std::vector<float> pixels_of(const torch::Tensor& values) {
  const torch::Tensor host = values.to(torch::kCPU, torch::kFloat32).contiguous();
  return {host.data_ptr<float>(), host.data_ptr<float>() + host.numel()};
}

std::vector<double> gathered(const std::vector<double>& mine, const BlockShare& share, Communicator& communicator) {
  std::vector<double> all = gather(communicator, mine, share.first_row(), share.examples);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!std::isfinite(all[i]))
      throw NumericalError(fmt::format("the bound on example {} is {}: the network's output is not finite", i, all[i]));
  }
  return all;
}

/// Reconstructions of the first images of `source` and images drawn from the prior, under the weights that the network
/// is bound to; none where inputs are no images. The same on every rank.
std::optional<Gallery> make_gallery(const PassParts& parts, const DataSource& source) {
  auto* vae = dynamic_cast<VaeImpl*>(&parts.network.module());
  const std::vector<std::int64_t>& shape = source.spec().input_shape;
  if (vae == nullptr || shape.size() != 3) return std::nullopt;
  const torch::NoGradGuard no_grad;
  const auto& likelihood = std::get<VaeLikelihood>(parts.likelihood);
  Batch batch;
  std::vector<std::int64_t> first(static_cast<std::size_t>(std::min(kReconstructions, source.size())));
  std::iota(first.begin(), first.end(), 0);
  source.read(first, batch);
  const Examples examples =
      to_tensors(batch, source.spec(), parts.likelihood, parts.network.dtype(), parts.network.device());
  Gallery gallery{.shape = shape, .inputs = {}, .reconstructions = {}, .samples = {}};
  gallery.inputs = pixels_of(vae_pixels(likelihood, examples.targets));
  gallery.reconstructions = pixels_of(vae_mean(likelihood, vae->decode(vae->encode(examples.inputs).mean)));
  torch::Tensor z = torch::empty({kSamples, vae->latent()}, torch::kFloat32);
  const kernels::NoiseStream stream{.seed = parts.seed, .purpose = kernels::Purpose::prediction, .step = 2};
  for (std::int64_t i = 0; i < z.numel(); ++i) z.data_ptr<float>()[i] = kernels::standard_normal(stream, i);
  gallery.samples = pixels_of(vae_mean(likelihood, vae->decode(z.to(parts.network.device(), parts.network.dtype()))));
  return gallery;
}

}  // namespace

GenerativeSums::GenerativeSums(const Likelihood& likelihood, const BlockShare& share)
    : likelihood_(likelihood), share_(share), weight_(share.rows()), elbo_(share.rows()) {}

void GenerativeSums::add(const BlockOutputs& block) {
  const auto& vae = std::get<VaeLikelihood>(likelihood_);
  const torch::Tensor targets =
      target_tensor(likelihood_, block.batch, block.outputs.scalar_type()).to(block.outputs.device());
  const VaeBounds bounds = vae_bounds(vae, block.outputs, targets);
  std::int64_t row = block.row;
  for (const double value : on_host(bounds.log_weight)) weight_.add(row++, value);
  row = block.row;
  for (const double value : on_host(bounds.elbo)) elbo_.add(row++, block.draw, value);
}

GenerativeSums::Bounds GenerativeSums::bounds(int draws, Communicator& communicator) const {
  std::vector<double> elbo;
  std::vector<double> importance;
  for (std::int64_t row = 0; row < share_.rows(); ++row) {
    elbo.push_back(elbo_.mean(row));
    importance.push_back(weight_.result(row, draws));
  }
  return {gathered(elbo, share_, communicator), gathered(importance, share_, communicator)};
}

namespace {

BlockShare share_of(const DataSource& data, const EvaluationParts& parts, const EvaluationOptions& options) {
  return {data.size(), options.block, parts.communicator};
}

std::function<void(const BlockOutputs&)> into(GenerativeSums& sums) {
  return [&sums](const BlockOutputs& outputs) { sums.add(outputs); };
}

/// The data to evaluate and those out of distribution, under one kind of weights.
struct Bounds {
  GenerativeSums source;
  std::optional<GenerativeSums> ood;

  Bounds(const EvaluationParts& parts, const EvaluationOptions& options)
      : source(parts.likelihood, share_of(parts.source, parts, options)) {
    if (parts.ood != nullptr) ood.emplace(parts.likelihood, share_of(*parts.ood, parts, options));
  }

  Metrics report(int draws, GenerativePredictions& into, Communicator& communicator) const {
    GenerativeSums::Bounds bounds = source.bounds(draws, communicator);
    Metrics metrics;
    metrics.samples = draws;
    metrics.elbo_per_example = ordered_mean(bounds.elbo);
    metrics.importance_bound = ordered_mean(bounds.importance);
    metrics.nll = -*metrics.importance_bound;
    into.elbo = std::move(bounds.elbo);
    into.importance = std::move(bounds.importance);
    if (!ood) return metrics;
    into.ood_importance = ood->bounds(draws, communicator).importance;
    const auto improbability = [](std::vector<double> log_p) {
      for (double& value : log_p) value = -value;
      return log_p;
    };
    metrics.ood_auroc = area_under_roc(improbability(into.importance), improbability(into.ood_importance));
    return metrics;
  }
};

}  // namespace

Evaluation evaluate_generative(const EvaluationParts& parts, const EvaluationOptions& options) {
  const int members = parts.posterior.plan().members;
  const int draws = (options.samples + members - 1) / members * members;
  const PassParts through{parts.network, parts.likelihood, parts.communicator, options.seed};
  Bounds at_draws(parts, options);
  Bounds at_mean(parts, options);
  TrainingElbo training(parts, options.block, draws);
  std::vector<Subject> subjects = {
      {parts.source, share_of(parts.source, parts, options), {into(at_draws.source), into(at_mean.source)}}};
  if (parts.ood != nullptr) {
    subjects.push_back({*parts.ood, share_of(*parts.ood, parts, options), {into(*at_draws.ood), into(*at_mean.ood)}});
  }
  if (parts.training != nullptr) {
    subjects.push_back({*parts.training, share_of(*parts.training, parts, options), {[&](const BlockOutputs& outputs) {
                          training.add(outputs);
                        }}});
  }
  Evaluation evaluation;
  evaluation.examples = parts.source.size();
  evaluation.generative.emplace();
  const bool random = parts.posterior.is_random();
  collectively(parts.communicator, [&] {
    const auto bind_draw = [&](int draw) {
      draw_for_prediction(parts.network, parts.posterior, options.seed, draw);
      training.charge_priors(draw);
    };
    const torch::Tensor mean_weights = parts.posterior.mean_weights();
    const auto bind_mean = [&](int draw) {
      parts.network.bind(parts.posterior.member_part(mean_weights, draw % members));
    };
    const WeightSeries weights[] = {{draws, bind_draw}, {random ? draws : 0, bind_mean}};
    pass(through, weights, subjects, options.kept_bytes);
    parts.network.bind(parts.posterior.member_part(mean_weights, 0));
    if (options.keep_probabilities) evaluation.generative->gallery = make_gallery(through, parts.source);
    parts.network.bind(parts.posterior.network_weights());
  });
  GenerativePredictions unused;
  if (random) evaluation.mean = at_mean.report(draws, unused, parts.communicator);
  evaluation.predictive = at_draws.report(draws, *evaluation.generative, parts.communicator);
  if (!random) evaluation.mean = evaluation.predictive;
  evaluation.elbo = training.estimate();
  return evaluation;
}

}  // namespace credence
