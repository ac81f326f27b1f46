#include "credence/training/options.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

using enum OptionKind;

constexpr std::array kOptions = {
    OptionInfo{"data", "fashion-mnist", identity, false,
               "fashion-mnist[:DIR] | mnist:DIR | moons[:SEED] | csv:FILE | images:DIR | cifar10:DIR | cifar100:DIR | "
               "pack:FILE: what to train on"},
    OptionInfo{"augment", "none", identity, false,
               "none, or crop:PIXELS, flip, resized-crop[:LEAST_AREA], jitter:STRENGTH with commas between"},
    OptionInfo{"image-size", "", identity, false,
               "SIZE or SIZE/SHORT: pixels of a side, and of the short side before the middle is taken (default 8/7 "
               "SIZE); default: the size that all images of a pack have, else 224"},
    OptionInfo{"network", "lenet5", identity, false,
               "mlp:W1,W2,...[,relu|tanh][,nobias] | lenet5 | lenet5-caffe | resnet20 | "
               "resnet18 | resnet34 | resnet50 | resnet101 | resnet152, each [:cifar][,unit-scale] | "
               "wide-resnet:DEPTH,WIDTH | "
               "vit:PATCH,DEPTH,WIDTH,HEADS | torchscript:FILE | linear[:nobias] | constant | "
               "vae:LATENT[,W1,...] | adaptive-depth:L[,width=W][,prior=uniform|poisson:RATE|geometric:P][,input] | "
               "hierarchical-groups:G[,W1,...][,shared=K][,relu|tanh]"},
    OptionInfo{"norm", "", identity, false,
               "batch | sync | group | frn | none: normalisation layers of a residual network; default: batch"},
    OptionInfo{"likelihood", "", identity, false,
               "categorical[:smoothing=E][,mixup=ALPHA] | bernoulli | gaussian:STDDEV | gaussian:learned | "
               "heteroscedastic | poisson | "
               "student-t[:DOF[,SCALE]] | vae-bernoulli | vae-categorical[:LEVELS] | vae-gaussian[:STDDEV]; default: "
               "categorical for labels, gaussian:1 for real targets"},
    OptionInfo{
        "posterior", "mean-field", identity, true,
        "mean-field | point | sparse | spike-slab | dropout:P | dropconnect:P | gaussian-dropout:P | low-rank:K | "
        "full-rank | laplace[:last-layer] | swag[:K] | ensemble:K[,POSTERIOR]; also REGEX=POSTERIOR for the tensors "
        "whose name matches"},
    OptionInfo{"prior", "normal:1", identity, true,
               "normal:S | normal:fan-in | laplace:S | logistic:S | student-t:DOF,S | scale-mixture:P,S1,S2 | "
               "spike-slab:P,S | horseshoe:S[,unit] | log-uniform | hierarchical:A | empirical | "
               "checkpoint:FILE[,inflate=K] | weights:FILE[,skip=REGEX],scale=S[,delta=D] | none; also REGEX=PRIOR for "
               "the tensors whose name matches"},
    OptionInfo{"norm-parameters", "point", identity, false,
               "bayesian | point: scales and shifts of norm layers, where no REGEX=POSTERIOR names them"},
    OptionInfo{"biases", "bayesian", identity, false,
               "bayesian | point: biases of other layers; points have no prior and are outside the KL"},
    OptionInfo{
        "init", "", identity, false,
        "FILE[,skip=REGEX]: start at a checkpoint, or at a state dict (safetensors, or of torch.save), but for the "
        "tensors whose name matches; default: at the prior where that is a file"},
    OptionInfo{"initial-scale", "0.0067", identity, false,
               "standard deviation of every Gaussian weight at the start; ivon: see --hess-init"},
    OptionInfo{"estimator", "reparam", identity, false,
               "reparam | flipout | local-reparam | score: reparameterised weight noise, noise of its own for every "
               "example in linear layers and convolutions, or the score function of 2 --weight-samples and more"},
    OptionInfo{"noise", "shared", identity, false, "shared | shard | antithetic: who draws the same weights in a step"},
    OptionInfo{"weight-samples", "1", identity, false, "weight draws per shard and step"},
    OptionInfo{"kl-weight", "1", identity, false, "L in NLL + L * KL"},
    OptionInfo{"temperature", "1", identity, false, "T in NLL + E[-log p(w)] - T * H[q] (cold posterior below 1)"},
    OptionInfo{"kl-warmup", "0", identity, false, "fraction of the run over which the KL weight rises to its value"},
    OptionInfo{
        "laplace-precision", "evidence", identity, false,
        "evidence | prior: what laplace takes for the prior's precision: that of the largest evidence, or --prior's"},
    OptionInfo{"swag-start", "0.75", identity, false, "fraction of the run after which swag collects iterates"},
    OptionInfo{"swag-every", "", identity, false, "steps between the iterates of swag; default: an epoch"},
    OptionInfo{"optimizer", "adam", identity, false,
               "adam | sgd | ivon | lars: ivon learns scales by natural gradients, lars is for large batches"},
    OptionInfo{"lr", "", identity, false,
               "learning rate of the means; default: 5e-3 for adam, 0.1 for sgd, 0.5 for ivon, 5 for lars"},
    OptionInfo{"scale-lr", "", identity, false, "learning rate of the raw scales; default: that of the means"},
    OptionInfo{"lr-schedule", "cosine", identity, false, "cosine | constant | step:EPOCH,EPOCH,...[:FACTOR]"},
    OptionInfo{
        "lr-scaling", "none", identity, false,
        "none | linear:BATCH | sqrt:BATCH: learning rates are for that batch, and are multiplied by --batch over "
        "it, or by the square root of that; goes with --lr-warmup (Goyal et al. 2017)"},
    OptionInfo{"lr-warmup", "0", identity, false, "epochs over which the learning rate rises linearly"},
    OptionInfo{"beta1", "0.9", identity, false, "decay of the first moment of adam and of ivon's momentum"},
    OptionInfo{"beta2", "", identity, false,
               "decay of adam's second moment or ivon's Hessian; default: 0.999 for adam, 0.99999 for ivon"},
    OptionInfo{"epsilon", "1e-8", identity, false, "Adam's epsilon"},
    OptionInfo{"momentum", "0.9", identity, false, "momentum of sgd and lars"},
    OptionInfo{"hess-init", "0.1", identity, false,
               "ivon: Hessian of the mean NLL at the start, hence scales of sqrt(T / (N (H + 1 / (N prior_scale^2))))"},
    OptionInfo{"clip-radius", "0", identity, false,
               "ivon: largest step of a mean before the learning rate; 0: no clipping"},
    OptionInfo{"lars-trust", "1e-3", identity, false,
               "lars: relative change of a tensor per step of learning rate 1, eta of the paper"},
    OptionInfo{"clip-norm", "0", identity, false, "adam, sgd: largest global norm of the gradient; 0: no clipping"},
    OptionInfo{"batch", "256", identity, false, "global batch: examples per step, over all ranks"},
    OptionInfo{"shards", "", identity, false,
               "equal parts of the batch, which name data and noise; default: the number of ranks at the first start"},
    OptionInfo{"seed", "0", identity, false, "everything random follows from it"},
    OptionInfo{"precision", "float32", identity, false,
               "float32 | float64 | bf16: products and convolutions in bfloat16, all else in float32"},
    OptionInfo{
        "reduction", "", identity, false,
        "tree | fast: fixed order (same bits on any number of ranks) or the library's; default: tree over MPI, fast "
        "over NCCL"},
    OptionInfo{"epochs", "10", horizon, false, "passes over the training set"},
    OptionInfo{"steps", "", horizon, false, "steps in all, instead of epochs"},
    OptionInfo{"checkpoint-every", "0", setting, false, "steps between checkpoints; 0: every epoch"},
    OptionInfo{"keep", "3", setting, false, "newest checkpoints that are kept, at least 2"},
    OptionInfo{"log-every", "100", setting, false, "steps between progress lines"},
    OptionInfo{"threads", "", machine, false,
               "per rank; default: OMP_NUM_THREADS, else the cores that this rank may use shared among local ranks"},
    OptionInfo{"loader-threads", "", machine, false,
               "that decode images, per rank; default: cores that training leaves free, all but one with a GPU, at "
               "least 1"},
    OptionInfo{
        "max-bad-records", "0", setting, false,
        "unreadable images of a dataset that are named and left out; above 0 every image is decoded once at the start"},
    OptionInfo{"device", "auto", machine, false, "auto | cpu | cuda"},
    OptionInfo{"backend", "auto", machine, false, "auto | mpi | nccl"},
    OptionInfo{"timeout-seconds", "300", machine, false, "longest wait for another rank"},
    OptionInfo{"stop-after", "0", machine, false,
               "stop with a checkpoint (exit code 75) once so many steps of the run are completed; 0: never"},
    OptionInfo{"progress", "auto", machine, false, "auto | plain | none"},
};

/// Noise names a step by 32 bits.
constexpr double kMostSteps = 4294967295.0;

/// Numbers that not every run checks where it uses them. Bounds are allowed.
struct Range {
  std::string_view name;
  double low;
  double high;
  bool whole;
};
constexpr Range kRanges[] = {{"initial-scale", 1e-30, 1e6, false},
                             {"kl-weight", 0.0, 1e12, false},
                             {"temperature", 0.0, 1e12, false},
                             {"swag-start", 0.0, 0.999999999, false},
                             {"swag-every", 1.0, kMostSteps, true},
                             {"lr-warmup", 0.0, 1e9, false},
                             {"beta1", 0.0, 0.999999999, false},
                             {"momentum", 0.0, 0.999999999, false},
                             {"batch", 1.0, 1e9, true},
                             {"shards", 1.0, 1e9, true},
                             {"steps", 1.0, kMostSteps, true},
                             {"checkpoint-every", 0.0, kMostSteps, true},
                             {"keep", 2.0, 1e9, true},
                             {"log-every", 1.0, kMostSteps, true},
                             {"max-bad-records", 0.0, 1e9, true},
                             {"timeout-seconds", 1e-3, 1e9, false},
                             {"stop-after", 0.0, kMostSteps, true}};

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r") - first + 1));
}

std::vector<std::string> option_names() {
  std::vector<std::string> names;
  for (const OptionInfo& option : kOptions) names.emplace_back(option.name);
  return names;
}

/// Whether two values mean the same: "5e-3" and "0.005" do.
bool same_value(const std::string& a, const std::string& b) {
  if (a == b) return true;
  double x = 0.0;
  double y = 0.0;
  const auto whole = [](const std::string& text, double& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size() && !text.empty();
  };
  return whole(a, x) && whole(b, y) && x == y;
}

bool same_values(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_value);
}

}  // namespace

std::span<const OptionInfo> training_options() {
  return kOptions;
}

const OptionInfo* find_option(std::string_view name) {
  for (const OptionInfo& option : kOptions) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

std::string OptionValues::text(const std::string& name) const {
  const auto values = texts(name);
  return values.empty() ? std::string() : values.back();
}

std::vector<std::string> OptionValues::texts(const std::string& name) const {
  if (const auto found = values_.find(name); found != values_.end()) return found->second;
  const OptionInfo* info = find_option(name);
  ensure(info != nullptr, "an option that does not exist was asked for");
  if (info->fallback.empty()) return {};
  return {std::string(info->fallback)};
}

double OptionValues::number(const std::string& name) const {
  return parse_number(text(name), "--" + name);
}

std::int64_t OptionValues::integer(const std::string& name) const {
  return parse_integer(text(name), "--" + name);
}

void require_in_range(const OptionValues& given) {
  for (const auto& [name, low, high, whole] : kRanges) {
    const std::string option(name);
    if (!given.given(option) || given.text(option).empty()) continue;
    const double value = whole ? static_cast<double>(given.integer(option)) : given.number(option);
    require(value >= low && value <= high, "--{} must be between {} and {}, not {}", name, low, high, value);
  }
}

std::string to_ini(const OptionValues& values, bool machine_options) {
  std::string ini;
  for (const OptionInfo& option : kOptions) {
    if (option.kind == OptionKind::machine && !machine_options) continue;
    if (option.name == "epochs" && !values.text("steps").empty()) continue;  // steps say it
    // Some posteriors have a prior of their own in the place of the default, and take no other: it must not read as
    // given.
    const char* const remark = option.name == "prior" && !values.given("prior") ? "# " : "";
    for (const std::string& value : values.texts(std::string(option.name))) {
      ini += fmt::format("{}{} = {}\n", remark, option.name, value);
    }
  }
  return ini;
}

std::vector<IniLine> read_ini(const std::string& text, const std::string& origin) {
  std::vector<IniLine> found;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const std::string content = trimmed(line);
    if (content.empty() || content.front() == '#' || content.front() == '[') continue;
    const auto equals = content.find('=');
    require(equals != std::string::npos, "{}, line {}: expected 'name = value', not '{}'", origin, number, content);
    const std::string_view view(content);
    found.push_back({number, trimmed(view.substr(0, equals)), trimmed(view.substr(equals + 1))});
  }
  return found;
}

OptionValues from_ini(const std::string& text, const std::string& origin) {
  std::map<std::string, std::vector<std::string>> values;
  for (const auto& [number, name, value] : read_ini(text, origin)) {
    const OptionInfo* info = find_option(name);
    if (info == nullptr) refuse_unknown(fmt::format("option in {}, line {}:", origin, number), name, option_names());
    require(info->repeated || !values.contains(name), "{}, line {}: option {} is given twice", origin, number, name);
    values[name].push_back(value);
  }
  OptionValues result;
  for (auto& [name, list] : values) result.set(name, std::move(list));
  return result;
}

std::vector<std::string> changed_options(const OptionValues& a, const OptionValues& b) {
  std::vector<std::string> changed;
  for (const OptionInfo& option : kOptions) {
    const std::string name(option.name);
    if (option.kind == OptionKind::identity && !same_values(a.texts(name), b.texts(name))) changed.push_back(name);
  }
  return changed;
}

OptionValues merge_for_resume(const OptionValues& recorded, const OptionValues& given) {
  OptionValues merged = recorded;
  for (const auto& [name, values] : given.all()) merged.set(name, values);
  std::vector<std::string> differences;
  for (const std::string& name : changed_options(recorded, merged)) {
    differences.push_back(fmt::format("--{} is {} here and was {} in the run", name, fmt::join(merged.texts(name), " "),
                                      fmt::join(recorded.texts(name), " ")));
  }
  require(differences.empty(),
          "this run was started with other options: {}; leave them out to continue it, or start anew "
          "with --overwrite or another --out",
          fmt::join(differences, "; "));
  if (given.given("epochs") && !given.given("steps")) merged.set("steps", {});
  return merged;
}

}  // namespace credence
