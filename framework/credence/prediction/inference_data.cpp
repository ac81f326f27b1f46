#include "credence/prediction/inference_data.h"

#include <fmt/ranges.h>

#include <cmath>
#include <regex>
#include <vector>

#include "credence/base/errors.h"
#include "credence/prediction/blocks.h"
#include "credence/prediction/pass.h"
#include "credence/prediction/replicates.h"
#include "credence/priors/rules.h"

namespace credence {
namespace {

constexpr double kMebibyte = 1024.0 * 1024.0;

/// The network's slots whose draws are kept.
std::vector<int> choose_slots(const InferenceDataParts& parts, const InferenceDataOptions& options, int draws) {
  const auto& slots = parts.network.layout().slots;
  std::optional<std::regex> chosen;
  if (options.tensors) chosen = compile_rule(*options.tensors);
  std::vector<int> indices;
  double bytes = 0.0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (chosen && !std::regex_search(slots[i].name, *chosen)) continue;
    indices.push_back(static_cast<int>(i));
    bytes += static_cast<double>(slots[i].count) * draws * (parts.network.dtype() == torch::kFloat64 ? 8 : 4);
  }
  require(!indices.empty(), "--tensors '{}' matches no tensor of the network; its tensors are named like {}",
          options.tensors.value_or(""), slots.front().name);
  require(
      chosen.has_value() || bytes <= static_cast<double>(kMostPosteriorBytes),
      "{} draws of all weights would take {:.0f} MiB, more than {:.0f}: choose tensors with --tensors REGEX (.* for "
      "all), or fewer draws with --draws",
      draws, bytes / kMebibyte, static_cast<double>(kMostPosteriorBytes) / kMebibyte);
  return indices;
}

/// Of one draw: this rank's rows, then those of all.
struct Predictive {
  std::vector<double> replicated;      // [rows, D]
  std::vector<double> observed;        // [rows, D]
  std::vector<double> log_likelihood;  // [rows], nats
};

class InferenceDataWriter {
 public:
  InferenceDataWriter(const InferenceDataParts& parts, const InferenceDataOptions& options)
      : parts_(parts),
        options_(options),
        draws_(prediction_draws(parts.posterior, options.draws)),
        slots_(choose_slots(parts, options, draws_)),
        columns_(target_columns(parts.likelihood)),
        share_(parts.source.size(), options.block, parts.communicator) {}

  void write(const std::filesystem::path& file) {
    const bool writes = parts_.communicator.rank() == 0;
    std::optional<NetcdfFile> opened;
    collectively(parts_.communicator, [&] {
      if (!writes) return;
      opened.emplace(file);
      lay_out(*opened);
    });
    Predictive predictive;
    const PassParts through{parts_.network, parts_.likelihood, parts_.communicator, options_.seed};
    const auto take = [&](const BlockOutputs& block) { add(block, predictive); };
    Chunks chunks(through, {{parts_.source, share_, {take}}}, kKeptInputBytes);
    for (int draw = 0; draw < draws_; ++draw) {
      predictive = {};
      collectively(parts_.communicator, [&] {
        draw_for_prediction(parts_.network, parts_.posterior, options_.seed, draw);
        for (int chunk = 0; chunk < chunks.count(); ++chunk) chunks.pass(chunk, 0, draw);
      });
      predictive = gathered(predictive);
      check(predictive, draw);
      collectively(parts_.communicator, [&] {
        if (!writes) return;
        write_weights(*opened, draw);
        write_predictive(*opened, draw, predictive);
      });
    }
    collectively(parts_.communicator, [&] {
      if (writes) opened->publish();
    });
  }

 private:
  bool labels() const { return is_classification(parts_.likelihood); }
  const Slot& slot(int index) const { return parts_.network.layout().slots[static_cast<std::size_t>(index)]; }

  void lay_out(NetcdfFile& file) const {
    const NetcdfFile::Attributes library = {{"inference_library", std::string("credence")}};
    NetcdfFile::Attributes of_posterior = library;
    of_posterior.insert(of_posterior.end(), options_.attributes.begin(), options_.attributes.end());
    file.add_group("posterior", of_posterior);
    add_draws(file, "posterior");
    const DType weights = parts_.network.dtype() == torch::kFloat64 ? DType::float64 : DType::float32;
    for (const int index : slots_) {
      std::vector<std::string> dimensions = {"chain", "draw"};
      for (std::size_t i = 0; i < slot(index).shape.size(); ++i) {
        dimensions.push_back(fmt::format("{}_dim_{}", slot(index).name, i));
        file.add_dimension("posterior/" + dimensions.back(), slot(index).shape[i]);
      }
      file.add_variable("posterior/" + slot(index).name, weights, dimensions);
    }

    const DType targets = labels() ? DType::int64 : DType::float64;
    for (const char* group : {"posterior_predictive", "log_likelihood", "observed_data"}) {
      const std::string name = group;
      file.add_group(name, library);
      std::vector<std::string> dimensions;
      if (name != "observed_data") {
        add_draws(file, name);
        dimensions = {"chain", "draw"};
      }
      dimensions.emplace_back("y_dim_0");
      file.add_dimension(name + "/y_dim_0", share_.examples);
      if (columns_ > 1 && name != "log_likelihood") {
        dimensions.emplace_back("y_dim_1");
        file.add_dimension(name + "/y_dim_1", columns_);
      }
      file.add_variable(name + "/y", name == "log_likelihood" ? DType::float64 : targets, dimensions);
    }
  }

  void add_draws(NetcdfFile& file, const std::string& group) const {
    file.add_dimension(group + "/chain", 1);
    file.add_dimension(group + "/draw", draws_);
  }

  void add(const BlockOutputs& block, Predictive& to) const {
    const auto append = [](std::vector<double>& all, const std::vector<double>& values) {
      all.insert(all.end(), values.begin(), values.end());
    };
    const Batch& batch = block.batch;
    append(to.replicated,
           replicate_targets(parts_.likelihood, block.outputs,
                             {.seed = options_.seed, .replicate = block.draw, .example = share_.begin(block.block)}));
    if (batch.labels.empty()) {
      append(to.observed, {batch.targets.begin(), batch.targets.end()});
    } else {
      append(to.observed, {batch.labels.begin(), batch.labels.end()});
    }
    const torch::Tensor targets = target_tensor(parts_.likelihood, batch, block.outputs.scalar_type());
    const torch::Tensor nats =
        log_likelihoods(parts_.likelihood, block.outputs, targets.to(block.outputs.device())).cpu().contiguous();
    append(to.log_likelihood, {nats.data_ptr<double>(), nats.data_ptr<double>() + nats.numel()});
  }

  Predictive gathered(const Predictive& mine) const {
    const auto all = [&](const std::vector<double>& values, std::int64_t width) {
      return gather(parts_.communicator, values, share_.first_row() * width, share_.examples * width);
    };
    return {all(mine.replicated, columns_), all(mine.observed, columns_), all(mine.log_likelihood, 1)};
  }

  void check(const Predictive& predictive, int draw) const {
    for (std::size_t i = 0; i < predictive.log_likelihood.size(); ++i) {
      if (!std::isnan(predictive.log_likelihood[i])) continue;
      throw NumericalError(fmt::format(
          "the log likelihood of example {} under draw {} is not a number: the network's output is not finite", i,
          draw));
    }
  }

  void write_weights(NetcdfFile& file, int draw) const {
    for (const int index : slots_) {
      const torch::Tensor& drawn = parts_.network.parameters()[static_cast<std::size_t>(index)];
      const torch::Tensor weights = drawn.detach().cpu().contiguous();
      file.write_draw("posterior/" + slot(index).name, draw, weights.data_ptr());
    }
  }

  void write_predictive(NetcdfFile& file, int draw, const Predictive& predictive) const {
    const auto write = [&](const std::string& path, const std::vector<double>& values, bool of_draw) {
      std::vector<std::int64_t> whole;
      if (labels()) whole.assign(values.begin(), values.end());
      const void* data = labels() ? static_cast<const void*>(whole.data()) : values.data();
      of_draw ? file.write_draw(path, draw, data) : file.write(path, data);
    };
    write("posterior_predictive/y", predictive.replicated, true);
    if (draw == 0) write("observed_data/y", predictive.observed, false);
    file.write_draw("log_likelihood/y", draw, predictive.log_likelihood.data());
  }

  const InferenceDataParts& parts_;
  const InferenceDataOptions& options_;
  int draws_;
  std::vector<int> slots_;
  std::int64_t columns_;  // D
  BlockShare share_;
};

}  // namespace

void write_inference_data(const std::filesystem::path& file, const InferenceDataParts& parts,
                          const InferenceDataOptions& options) {
  require(options.draws >= 1, "--draws must be at least 1, not {}", options.draws);
  require(parts.source.size() > 0, "there are no examples to replicate");
  require(
      !is_generative(parts.likelihood),
      "a vae describes its inputs and has no targets to replicate; export its weights to safetensors, or see evaluate "
      "--predictions FILE");
  const torch::NoGradGuard no_grad;
  const EvaluationMode mode(parts.network, parts.posterior);
  InferenceDataWriter(parts, options).write(file);
}

}  // namespace credence
