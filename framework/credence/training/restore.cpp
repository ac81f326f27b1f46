#include <algorithm>
#include <initializer_list>
#include <set>
#include <string_view>
#include <variant>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/torchscript.h"
#include "credence/training/run_arrays.h"
#include "credence/training/run_state.h"

namespace credence {
namespace {

void fill_arena_part(const Checkpoint& checkpoint, const ArenaPart& part) {
  require(checkpoint.contains(part.name), "{} holds no {}: it was made with another network, posterior or optimizer",
          checkpoint.file().string(), part.name);
  torch::Tensor host = torch::empty(part.slot->shape, part.arena.options().device(torch::kCPU));
  const ArrayView target = view_of(part.name, host, part.slot->shape, 0);
  for (const ArrayView& stored : checkpoint.arrays()) {
    if (stored.name == part.name) {
      require(stored.shape == target.shape && stored.dtype == target.dtype,
              "{} in {} has another shape or type than the network: it was made with another network or precision",
              part.name, checkpoint.file().string());
    }
  }
  checkpoint.read(target);
  torch::Tensor arena = part.arena;
  arena.narrow(0, part.slot->offset, part.slot->count).copy_(host.flatten());
}

void restore_collected(const Checkpoint& checkpoint, Posterior& posterior) {
  if (posterior.kept().defined()) posterior.set_collected(checkpoint.integer("collected"));
  posterior.set_drawn(std::nullopt);
}

void restore_buffers(const Checkpoint& checkpoint, Network& network) {
  const auto fill = [&](const std::string& name, torch::Tensor buffer) {
    const std::string path = "buffers/" + name;
    require(checkpoint.contains(path), "{} holds no {}: it was made with another network", checkpoint.file().string(),
            path);
    const torch::Tensor host = torch::empty_like(stored_tensor(buffer));
    checkpoint.read(view_of(path, host, buffer.sizes().vec(), 0));
    buffer.copy_(host);
  };
  for (const auto& [name, buffer] : network.float_buffers()) fill(name, buffer);
  for (const auto& [name, buffer] : network.integer_buffers()) fill(name, buffer);
}

/// UserError where the network is a file of other content than the one that was trained.
void require_same_script(const Checkpoint& checkpoint, Network& network) {
  const auto recorded = checkpoint.attributes().find("network_digest");
  if (recorded == checkpoint.attributes().end()) return;
  const auto* const digest = std::get_if<std::string>(&recorded->second);
  require(digest != nullptr && *digest == script_digest(network.module()),
          "{} is of a network from a file of other content than that of its --network now; put back the one that was "
          "trained",
          checkpoint.file().string());
}

/// UserError where the file holds more than was asked of it: tensors of a deeper network or of another posterior.
void refuse_other_tensors(const Checkpoint& checkpoint, const std::vector<ArenaPart>& parts,
                          std::initializer_list<std::string_view> folders) {
  std::set<std::string> known;
  for (const ArenaPart& part : parts) {
    known.insert(part.name);
    if (part.name.ends_with("/raw_scale")) known.insert("posterior/" + part.slot->name + "/scale");
  }
  for (const ArrayView& stored : checkpoint.arrays()) {
    const bool read = std::any_of(folders.begin(), folders.end(),
                                  [&](std::string_view folder) { return stored.name.starts_with(folder); });
    if (!read) continue;
    require(known.contains(stored.name),
            "{} holds {}, which has no place here: it was made with another network, "
            "posterior or optimizer",
            checkpoint.file().string(), stored.name);
  }
}

std::vector<double> split_numbers(const std::string& text) {
  std::vector<double> numbers;
  for (const std::string& part : split(text, ',')) numbers.push_back(parse_number(part, "a recorded number"));
  return numbers;
}

std::string text_attribute(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.attributes().find(name);
  if (found == checkpoint.attributes().end() || !std::holds_alternative<std::string>(found->second)) {
    throw DataError(fmt::format("{} lacks the attribute {}", checkpoint.file().string(), name));
  }
  return std::get<std::string>(found->second);
}

}  // namespace

ExampleSpec examples_of(const Checkpoint& checkpoint) {
  ExampleSpec examples;
  for (const double size : split_numbers(text_attribute(checkpoint, "input_shape"))) {
    examples.input_shape.push_back(static_cast<std::int64_t>(size));
  }
  examples.classes = checkpoint.integer("classes");
  examples.target_size = checkpoint.integer("target_size");
  examples.class_names = split(text_attribute(checkpoint, "class_names"), '\n');
  if (checkpoint.attributes().contains("feature_names"))
    examples.feature_names = split(text_attribute(checkpoint, "feature_names"), '\n');
  examples.normalization = {split_numbers(text_attribute(checkpoint, "normalization_mean")),
                            split_numbers(text_attribute(checkpoint, "normalization_deviation"))};
  return examples;
}

void broadcast_state(RunState& state, Communicator& communicator) {
  if (communicator.size() == 1) return;
  const torch::NoGradGuard no_grad;
  const auto send = [&](const torch::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return;
    const torch::Tensor host = stored_tensor(tensor);
    communicator.broadcast({host.data_ptr(), host.numel(), dtype_of_tensor(host), Device::cpu}, 0).wait();
    torch::Tensor target = tensor;
    if (target.data_ptr() != host.data_ptr()) target.copy_(host);
  };
  send(state.posterior.mean());
  send(state.posterior.raw_scale());
  send(state.posterior.kept());
  for (const auto& [name, arena] : state.optimizer.state()) send(arena);
  for (const PriorTensor& tensor : prior_tensors(state.posterior.plan())) send(tensor.values);
  send(state.network.buffer_arena());
  for (const auto& [name, buffer] : state.network.integer_buffers()) send(buffer);

  std::int64_t counts[] = {state.step, state.history.size(), state.posterior.collected()};
  communicator.broadcast({counts, 3, DType::int64, Device::cpu}, 0).wait();
  for (History::Column& column : state.history.columns()) {
    column.values.resize(static_cast<std::size_t>(counts[1]));
    if (counts[1] == 0) continue;
    communicator.broadcast({column.values.data(), counts[1], DType::float64, Device::cpu}, 0).wait();
  }
  state.step = counts[0];
  state.posterior.set_collected(counts[2]);
  state.epoch = counts[1] > 0 ? state.history.column("history/epoch").back() : 0.0;
  state.posterior.set_drawn(std::nullopt);
}

void restore_posterior(const Checkpoint& checkpoint, Network& network, Posterior& posterior) {
  require_same_script(checkpoint, network);
  const torch::NoGradGuard no_grad;
  const std::vector<ArenaPart> parts = arena_parts(posterior, nullptr);
  for (const ArenaPart& part : parts) fill_arena_part(checkpoint, part);
  refuse_other_tensors(checkpoint, parts, {"posterior/"});
  restore_collected(checkpoint, posterior);
  restore_buffers(checkpoint, network);
}

void restore(const Checkpoint& checkpoint, const RunIdentity& identity, RunState& state) {
  const std::string file = checkpoint.file().string();
  const std::int64_t size = checkpoint.integer("dataset_size");
  require(size == identity.dataset_size,
          "{} was trained on {} examples, and these data have {}; where images were left out as bad, give the "
          "--max-bad-records of then",
          file, size, identity.dataset_size);
  require(text_attribute(checkpoint, "dataset_digest") == identity.dataset_digest,
          "{} was trained on data of other content than these", file);
  require_same_script(checkpoint, state.network);
  const torch::NoGradGuard no_grad;
  const std::vector<ArenaPart> parts = arena_parts(state.posterior, &state.optimizer);
  for (const ArenaPart& part : parts) fill_arena_part(checkpoint, part);
  refuse_other_tensors(checkpoint, parts, {"posterior/", "optimizer/"});
  restore_collected(checkpoint, state.posterior);
  restore_buffers(checkpoint, state.network);
  for (History::Column& column : state.history.columns()) {
    column.values = checkpoint.read_doubles(column.path);
  }
  state.step = checkpoint.integer("step");
  state.epoch = state.history.size() > 0 ? state.history.column("history/epoch").back() : 0.0;
}

}  // namespace credence
