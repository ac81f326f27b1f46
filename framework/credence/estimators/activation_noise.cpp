#include "credence/estimators/activation_noise.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "credence/base/errors.h"

namespace credence {
namespace {

using Kind = ActivationNoise::Kind;

std::string name_of(Kind kind) {
  return kind == Kind::flipout ? "flipout" : "local-reparam";
}

bool is_gaussian(const Posterior& posterior, int slot) {
  return slot >= 0 && posterior.segments()[static_cast<std::size_t>(slot)].gaussian;
}

/// The slots of the posterior whose noise becomes noise on activations, over all members.
std::vector<bool> noisy_slots(const Estimator::Parts& parts, const std::string& name) {
  const PosteriorPlan& plan = parts.posterior.plan();
  for (std::size_t i = 0; i < plan.families.size(); ++i) {
    const Family& family = plan.families[i];
    require(family.kind == Family::Kind::mean_field || family.kind == Family::Kind::sparse ||
                family.kind == Family::Kind::point,
            "--estimator {} is for the posteriors mean-field, sparse and point, and that of {} is {}; use --estimator "
            "reparam",
            name, plan.layout.slots[i].name, describe(family));
  }
  std::vector<bool> noisy(plan.layout.slots.size());
  for (const Network::Noisy& place : parts.network.noisy_layers()) {
    for (int member = 0; member < plan.members; ++member) {
      for (const int slot : {place.weight, place.bias}) {
        const int of_member = member * plan.member_slots() + slot;
        if (slot < 0) continue;
        noisy[static_cast<std::size_t>(of_member)] = is_gaussian(parts.posterior, of_member);
        require(!place.layer->reads_rows() || !is_gaussian(parts.posterior, of_member),
                "--estimator {} needs one row of features an example, and {} reads many, the tokens of a transformer; "
                "use --estimator reparam, or make such layers point estimates",
                name, place.name);
      }
    }
  }
  require(
      std::find(noisy.begin(), noisy.end(), true) != noisy.end(),
      "--estimator {} needs linear layers or convolutions of Credence's own (credence::Linear, credence::Conv2d, as "
      "in the networks of the zoo) with Gaussian weights, and this network has none; use --estimator reparam",
      name);
  return noisy;
}

}  // namespace

ActivationNoiseEstimator::ActivationNoiseEstimator(const Parts& parts, const Options& options, Kind kind)
    : BackwardEstimator(parts, options, {.two = true, .apart = noisy_slots(parts, name_of(kind))}),
      noise_{kind, [this](int layer, at::IntArrayRef shape) { return draw_noise(layer, shape); }},
      second_(torch::zeros_like(parts.posterior.mean())) {
  require(options.noise != NoiseSharing::antithetic,
          "--noise antithetic pairs weight draws, and --estimator {} draws anew for every example; use --noise shared",
          name_of(kind));
  make_layers();
  parts.network.set_gradient_sink(
      [this](int slot, const torch::Tensor& gradient) { take(slot_of(slot, member_), gradient); });
}

ActivationNoiseEstimator::~ActivationNoiseEstimator() {
  parts().network.set_gradient_sink(nullptr);
  set_noise(false);
  parts().network.bind(parts().posterior.network_weights());
}

void ActivationNoiseEstimator::make_layers() {
  std::vector<std::string> convolutions;
  for (const Network::Noisy& place : parts().network.noisy_layers()) {
    bool noisy = false;
    for (int member = 0; member < parts().posterior.plan().members; ++member) {
      noisy = noisy || is_gaussian(parts().posterior, slot_of(place.weight, member)) ||
              (place.bias >= 0 && is_gaussian(parts().posterior, slot_of(place.bias, member)));
    }
    if (!noisy) continue;
    layers_.push_back({place, {make_leaf(place.weight), make_leaf(place.bias)}});
    if (place.layer->convolves()) convolutions.push_back(place.name);
  }
  std::string why;
  if (noise_.kind == Kind::local && !convolutions.empty()) {
    why = fmt::format("the positions of {} take independent noise", fmt::join(convolutions, ", "));
  } else if (normalizes_over_batch(parts().network.module())) {
    why = "batch statistics come of a draw for every example";
  }
  reports_apart_ = !why.empty();
  if (reports_apart_) {
    set_remark(
        fmt::format("{} minimises another objective than E_q[NLL] here, since {}; the ELBO is computed with "
                    "weight draws, in a forward pass more a step",
                    name_of(noise_.kind), why));
  }
}

torch::Tensor ActivationNoiseEstimator::make_leaf(int slot) {
  if (slot < 0) return {};
  torch::Tensor leaf = parts().posterior.view(second_, slot).detach().requires_grad_();
  on_gradient(leaf, [this, slot](const torch::Tensor& gradient) {
    take_scale(slot_of(slot, member_), gradient, noise_.kind == Kind::flipout);
  });
  return leaf;
}

/// Layers with noise see the means, everything else sees the draw.
void ActivationNoiseEstimator::bind(int member) {
  const Posterior& posterior = parts().posterior;
  parts().network.bind(posterior.network_weights(member));
  const auto bind_slot = [&](int slot, torch::Tensor second) {
    if (slot < 0) return;
    torch::Tensor parameter = parts().network.parameters()[static_cast<std::size_t>(slot)];
    parameter.set_data(posterior.view(posterior.mean(), slot_of(slot, member)));
    second.set_data(posterior.view(second_, slot_of(slot, member)));
    second.set_requires_grad(is_gaussian(posterior, slot_of(slot, member)));
  };
  for (const Layer& layer : layers_) {
    bind_slot(layer.place.weight, layer.second.weight);
    bind_slot(layer.place.bias, layer.second.bias);
  }
}

void ActivationNoiseEstimator::set_noise(bool on) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].place.layer->set_noise(on ? &noise_ : nullptr, static_cast<int>(i), layers_[i].second);
  }
}

void ActivationNoiseEstimator::run_pass(const Pass& pass) {
  Posterior& posterior = parts().posterior;
  posterior.draw(pass.noise);
  if (noise_.kind == Kind::flipout) {
    torch::sub_out(second_, posterior.weights(), posterior.mean());
  } else if (pass.local_shard + pass.sample == 0) {
    second_.copy_(posterior.scales());
  }
  sums().begin_pass(pass.noise);
  const auto [first, last] = posterior.worked_on();
  for (int member = first; member < last; ++member) run_member(pass, member);
  end_pass();
}

void ActivationNoiseEstimator::run_member(const Pass& pass, int member) {
  member_ = member;
  seed_module(pass, member);
  Loss loss;
  torch::Tensor outputs;
  if (reports_apart_) {
    loss.reported = reported_loss(pass, member, outputs);
    restore_buffers();
  }
  stream_ = {.seed = options().seed,
             .purpose = noise_.kind == Kind::flipout ? kernels::Purpose::signs : kernels::Purpose::activations,
             .step = static_cast<std::uint32_t>(pass.step),
             .shard = static_cast<std::uint32_t>(pass.shard),
             .sample = static_cast<std::uint32_t>(pass.sample * parts().posterior.plan().members + member)};
  bind(member);
  set_noise(true);
  const torch::Tensor noisy = parts().network.forward(pass.examples.inputs);
  set_noise(false);
  loss.minimised = mean_negative_log_likelihood(parts().likelihood, noisy, pass.examples.targets);
  charge_priors(pass, loss.minimised, drawn_weights(pass, member), member).backward();
  if (!reports_apart_) {
    loss.reported = loss.minimised;
    outputs = noisy;
  }
  note(pass, loss, outputs, member);
}

torch::Tensor ActivationNoiseEstimator::reported_loss(const Pass& pass, int member, torch::Tensor& outputs) {
  const torch::NoGradGuard no_grad;
  parts().network.bind(parts().posterior.network_weights(member));
  outputs = parts().network.forward(pass.examples.inputs);
  return mean_negative_log_likelihood(parts().likelihood, outputs, pass.examples.targets);
}

/// The weights of this pass's draw as functions of the leaves, for priors that are charged at draws.
std::vector<torch::Tensor> ActivationNoiseEstimator::drawn_weights(const Pass& pass, int member) {
  std::vector<torch::Tensor> weights = parts().network.parameters();
  if (monte_carlo_slots(parts().posterior.plan()).empty()) return weights;
  const auto draw = [&](int slot, const torch::Tensor& second) {
    if (slot < 0 || !second.requires_grad()) return;
    torch::Tensor& weight = weights[static_cast<std::size_t>(slot)];
    weight = noise_.kind == Kind::flipout
                 ? weight + second
                 : weight + second * parts().posterior.normals(slot_of(slot, member), pass.noise);
  };
  for (const Layer& layer : layers_) {
    draw(layer.place.weight, layer.second.weight);
    draw(layer.place.bias, layer.second.bias);
  }
  return weights;
}

torch::Tensor ActivationNoiseEstimator::draw_noise(int layer, at::IntArrayRef shape) {
  kernels::NoiseStream noise = stream_;
  noise.sample = noise.sample * static_cast<std::uint32_t>(layers_.size()) + static_cast<std::uint32_t>(layer);
  return noise_.kind == Kind::flipout ? draw_signs(noise, shape) : draw_normals(noise, shape);
}

/// One bit for each unit, in as many words for each example as they fill. [B, units]
torch::Tensor ActivationNoiseEstimator::draw_signs(const kernels::NoiseStream& noise, at::IntArrayRef shape) const {
  constexpr std::size_t kBits = 32;
  const auto examples = static_cast<std::size_t>(shape[0]);
  const auto units = static_cast<std::size_t>(shape[1]);
  const std::size_t words_of_example = (units + kBits - 1) / kBits;
  std::vector<std::uint32_t> words(examples * words_of_example);
  kernels::random_words(noise, words);
  torch::Tensor signs = torch::empty(shape, torch::kFloat32);
  float* sign = signs.data_ptr<float>();
  for (std::size_t example = 0; example < examples; ++example) {
    const std::uint32_t* const own = words.data() + example * words_of_example;
    for (std::size_t unit = 0; unit < units; ++unit)
      *sign++ = 1.0F - 2.0F * static_cast<float>(own[unit / kBits] >> unit % kBits & 1U);
  }
  return signs.to(parts().network.device(), parts().network.dtype());
}

torch::Tensor ActivationNoiseEstimator::draw_normals(const kernels::NoiseStream& noise, at::IntArrayRef shape) {
  const torch::Tensor& arena = parts().posterior.mean();
  torch::Tensor normals = torch::empty(shape, arena.options());
  if (!ones_.defined() || ones_.numel() < normals.numel()) {
    ones_ = torch::ones({normals.numel()}, arena.options());
    scratch_ = torch::empty_like(ones_);
  }
  const kernels::Segment all{.offset = 0, .count = normals.numel(), .gaussian = true};
  parts().posterior.kernels().accumulate(all, ones_, noise, false, scratch_, normals);  // eps times one
  return normals;
}

}  // namespace credence
