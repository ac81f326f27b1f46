#include "credence/likelihoods/likelihood.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/overloaded.h"
#include "credence/base/text.h"
#include "credence/kernels/kernel_set.h"
#include "credence/likelihoods/latent.h"

namespace credence {
namespace {

constexpr double kInitialNoise = 1.0;  // standard deviation
constexpr double kLargestDof = 1e6;

/// On a device in the order of its work, while the host goes on: where `host` is page-locked, out of its own memory.
torch::Tensor to_device(const torch::Tensor& host, torch::Device device) {
  return device.is_cpu() ? host : host.pin_memory().to(device, /*non_blocking=*/true);
}

/// Bytes [B, height, width, channels] as float32 [B, channels, height, width].
torch::Tensor image_tensor(const Batch& batch, const ExampleSpec& spec, torch::Device device) {
  const std::int64_t channels = spec.input_shape.at(0);
  const std::int64_t height = spec.input_shape.at(1);
  const std::int64_t width = spec.input_shape.at(2);
  if (device.is_cpu()) {
    const torch::Tensor images = torch::empty({batch.size, channels, height, width}, torch::kFloat32);
    normalize(spec, batch, images.data_ptr<float>());
    return images;
  }
  const torch::Tensor bytes = torch::from_blob(const_cast<std::uint8_t*>(batch.pixels.data()),
                                               {batch.size, height, width, channels}, torch::kUInt8);
  const torch::Tensor images =
      to_device(bytes, device).permute({0, 3, 1, 2}).to(torch::kFloat32).contiguous().div_(255.0);
  if (spec.normalization.empty()) return images;
  const auto of_channels = [&](const std::vector<double>& values) {
    return to_device(torch::tensor(values, torch::kFloat32).view({channels, 1, 1}), device);
  };
  return images.sub_(of_channels(spec.normalization.mean)).div_(of_channels(spec.normalization.deviation));
}

torch::Tensor real_targets(const Batch& batch, std::int64_t columns, torch::Dtype dtype) {
  if (!batch.labels.empty()) {
    return torch::tensor(batch.labels, torch::kInt64).to(dtype).unsqueeze(1);
  }
  const auto size = static_cast<std::int64_t>(batch.targets.size());
  ensure(size == batch.size * columns, "batch and likelihood differ in the number of targets");
  return torch::tensor(batch.targets, torch::kFloat32).to(dtype).view({batch.size, columns});
}

void require_no_arguments(const Spec& spec) {
  require(spec.arguments.empty(), "{} takes no arguments, not '{}'", spec.name, spec.arguments);
}

void require_real_targets(const Spec& spec, const ExampleSpec& examples) {
  require(examples.classes == 0,
          "the likelihood {} needs real targets, and these data have class labels; use categorical, or name the column "
          "of a csv file target_NAME where its whole numbers are not classes",
          spec.name);
}

double parse_positive(const std::string& text, std::string_view what) {
  const double value = parse_number(text, what);
  require(value > 0.0, "{} must be positive, not {}", what, text);
  return value;
}

Likelihood parse_categorical(const Spec& spec, const ExampleSpec& examples) {
  require(examples.classes >= 2,
          "the likelihood categorical needs class labels, and these data have real targets; use gaussian:STDDEV");
  CategoricalLikelihood likelihood{.classes = examples.classes};
  for (const std::string& part : split(spec.arguments, ',')) {
    const std::string name = part.substr(0, part.find('='));
    const std::vector<std::string> known = {"smoothing", "mixup"};
    if (std::find(known.begin(), known.end(), name) == known.end())
      refuse_unknown("argument of categorical", name, known);
    require(name.size() < part.size(), "categorical:{} lacks a value, as in categorical:smoothing=0.1,mixup=0.2", part);
    const double value = parse_number(part.substr(name.size() + 1), name);
    const bool smooths = name == known[0];
    require(value >= 0.0 && (smooths ? value < 1.0 : value <= 1.0), "categorical:{}: {}", part,
            smooths ? "smoothing is from 0 to below 1" : "mixup's alpha is from 0 (none) to 1");
    (smooths ? likelihood.smoothing : likelihood.mixup) = value;
  }
  return likelihood;
}

Likelihood parse_bernoulli(const Spec& spec, const ExampleSpec& examples) {
  require_no_arguments(spec);
  require(examples.classes == 0 || examples.classes == 2,
          "the likelihood bernoulli needs two classes, and these data have {}; use categorical", examples.classes);
  return BernoulliLikelihood{examples.classes == 2 ? 1 : examples.target_size};
}

Likelihood parse_gaussian(const Spec& spec, const ExampleSpec& examples) {
  require_real_targets(spec, examples);
  if (spec.arguments == "learned") return LearnedGaussianLikelihood{examples.target_size};
  const double scale =
      spec.arguments.empty() ? 1.0 : parse_positive(spec.arguments, "STDDEV in gaussian:STDDEV (or gaussian:learned)");
  return GaussianLikelihood{scale, examples.target_size};
}

Likelihood parse_heteroscedastic(const Spec& spec, const ExampleSpec& examples) {
  require_no_arguments(spec);
  require_real_targets(spec, examples);
  return HeteroscedasticLikelihood{examples.target_size};
}

Likelihood parse_poisson(const Spec& spec, const ExampleSpec& examples) {
  require_no_arguments(spec);
  require_real_targets(spec, examples);
  return PoissonLikelihood{examples.target_size};
}

Likelihood parse_student_t(const Spec& spec, const ExampleSpec& examples) {
  require_real_targets(spec, examples);
  const std::vector<std::string> parts = split(spec.arguments, ',');
  require(parts.size() <= 2, "student-t takes DOF and SCALE, not '{}'", spec.arguments);
  StudentTLikelihood likelihood{.columns = examples.target_size};
  if (!parts.empty()) likelihood.dof = parse_positive(parts[0], "DOF in student-t:DOF,SCALE");
  if (parts.size() > 1) likelihood.scale = parse_positive(parts[1], "SCALE in student-t:DOF,SCALE");
  require(likelihood.dof <= kLargestDof, "DOF in student-t:DOF,SCALE must be at most {}, not {}; use gaussian",
          kLargestDof, parts.empty() ? "" : parts[0]);
  return likelihood;
}

/// What the likelihood needs where the value is outside its support; else null.
const char* support_violated(const Likelihood& likelihood, float value) {
  if (std::holds_alternative<BernoulliLikelihood>(likelihood) && value != 0.0F && value != 1.0F) {
    return "the likelihood bernoulli needs targets 0 or 1";
  }
  if (std::holds_alternative<PoissonLikelihood>(likelihood) && !(value >= 0.0F && value == std::floor(value))) {
    return "the likelihood poisson needs counts (0, 1, 2, ...) as targets";
  }
  return nullptr;
}

}  // namespace

Likelihood parse_likelihood(const std::string& spec, const ExampleSpec& examples) {
  using Parse = Likelihood (*)(const Spec&, const ExampleSpec&);
  static constexpr std::pair<const char*, Parse> kParsers[] = {
      {"categorical", parse_categorical},         {"bernoulli", parse_bernoulli}, {"gaussian", parse_gaussian},
      {"heteroscedastic", parse_heteroscedastic}, {"poisson", parse_poisson},     {"student-t", parse_student_t}};
  const Spec parsed = parse_spec(spec);
  std::vector<std::string> known = {"vae-bernoulli", "vae-categorical", "vae-gaussian"};
  if (std::find(known.begin(), known.end(), parsed.name) != known.end()) return parse_vae_likelihood(spec, examples);
  for (const auto& [name, parse] : kParsers) {
    if (parsed.name == name) return parse(parsed, examples);
    known.emplace_back(name);
  }
  refuse_unknown("likelihood", parsed.name, known);
}

std::int64_t target_columns(const Likelihood& likelihood) {
  return std::visit(Overloaded{[](const CategoricalLikelihood&) { return std::int64_t{1}; },
                               [](const DepthLikelihood& l) { return target_columns(*l.inner); },
                               [](const auto& l) { return l.columns; }},
                    likelihood);
}

std::int64_t output_size(const Likelihood& likelihood) {
  return std::visit(Overloaded{[](const CategoricalLikelihood& l) { return l.classes; },
                               [](const HeteroscedasticLikelihood& l) { return 2 * l.columns; },
                               [](const VaeLikelihood& l) { return l.columns * l.levels; },
                               [](const DepthLikelihood& l) { return output_size(*l.inner); },
                               [](const auto& l) { return l.columns; }},
                    likelihood);
}

std::vector<double> initial_raw_scales(const Likelihood& likelihood) {
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) return initial_raw_scales(*depth->inner);
  const auto* learned = std::get_if<LearnedGaussianLikelihood>(&likelihood);
  if (learned == nullptr) return {};
  return std::vector<double>(static_cast<std::size_t>(learned->columns), kernels::inverse_softplus(kInitialNoise));
}

std::int64_t columns_read(const Likelihood& likelihood) {
  const auto own = static_cast<std::int64_t>(initial_raw_scales(likelihood).size());
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) {
    return depth->depths * (output_size(likelihood) + 1) + 1 + own;  // log q and KL: see networks/adaptive_depth.h
  }
  return output_size(likelihood) + own + (is_generative(likelihood) ? 2 : 0);  // see networks/vae.h
}

torch::Tensor target_tensor(const Likelihood& likelihood, const Batch& batch, torch::Dtype dtype) {
  if (const auto* vae = std::get_if<VaeLikelihood>(&likelihood)) return vae_targets(*vae, batch, dtype);
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) return target_tensor(*depth->inner, batch, dtype);
  if (std::holds_alternative<CategoricalLikelihood>(likelihood)) return torch::tensor(batch.labels, torch::kInt64);
  for (const float value : batch.targets) {
    if (const char* needs = support_violated(likelihood, value)) {
      throw DataError(fmt::format("{}, and one is {}", needs, value));
    }
  }
  return real_targets(batch, target_columns(likelihood), dtype);
}

torch::Tensor input_tensor(const Batch& batch, const ExampleSpec& spec, torch::Dtype dtype, torch::Device device) {
  if (!batch.pixels.empty()) return image_tensor(batch, spec, device).to(dtype);
  std::vector<std::int64_t> shape = {batch.size};
  shape.insert(shape.end(), spec.input_shape.begin(), spec.input_shape.end());
  // from_blob wants a mutable pointer; nothing writes through it.
  const torch::Tensor view = torch::from_blob(const_cast<float*>(batch.inputs.data()), shape, torch::kFloat32);
  return view.to(device, dtype, /*non_blocking=*/false, /*copy=*/true);
}

Examples to_tensors(const Batch& batch, const ExampleSpec& spec, const Likelihood& likelihood, torch::Dtype dtype,
                    torch::Device device) {
  if (is_generative(likelihood) && !batch.pixels.empty()) {  // its targets are its inputs, as numbers
    Batch numbers = batch;
    normalize(spec, numbers);
    return to_tensors(numbers, spec, likelihood, dtype, device);
  }
  return {input_tensor(batch, spec, dtype, device), to_device(target_tensor(likelihood, batch, dtype), device)};
}

bool is_classification(const Likelihood& likelihood) {
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) return is_classification(*depth->inner);
  if (const auto* bernoulli = std::get_if<BernoulliLikelihood>(&likelihood)) return bernoulli->columns == 1;
  return std::holds_alternative<CategoricalLikelihood>(likelihood);
}

bool is_regression(const Likelihood& likelihood) {
  if (const auto* depth = std::get_if<DepthLikelihood>(&likelihood)) return is_regression(*depth->inner);
  return !std::holds_alternative<CategoricalLikelihood>(likelihood) &&
         !std::holds_alternative<BernoulliLikelihood>(likelihood) && !is_generative(likelihood);
}

bool is_generative(const Likelihood& likelihood) {
  return std::holds_alternative<VaeLikelihood>(likelihood);
}

}  // namespace credence
