#include "credence/networks/torchscript.h"

#include <ATen/EmptyTensor.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <span>
#include <utility>
#include <vector>

#include "credence/base/digest.h"
#include "credence/base/errors.h"
#include "credence/base/limited_child.h"
#include "credence/base/zip_archive.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

constexpr std::uint64_t kMostInflatedBytes = 256U << 20;  // of code
constexpr double kLoadSeconds = 60.0;
constexpr double kLoadBytesPerSecond = 20e6;

/// "BatchNorm2d" of "__torch__.torch.nn.modules.batchnorm.___torch_mangle_3.BatchNorm2d".
std::string class_name(const torch::jit::Module& script) {
  const auto name = script.type()->name();
  return name ? name->name() : std::string();
}

bool is_class_of(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem)) return false;
  const std::string_view rest = name.substr(stem.size());
  return rest.empty() || rest == "1d" || rest == "2d" || rest == "3d";
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

std::string last_line(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

std::string digest_of_file(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  Hasher hasher;
  std::vector<char> piece(1 << 20);
  while (stream.read(piece.data(), static_cast<std::streamsize>(piece.size())) || stream.gcount() > 0) {
    hasher.update(std::as_bytes(std::span(piece).first(static_cast<std::size_t>(stream.gcount()))));
  }
  return hexadecimal(hasher.digest());
}

/// LibTorch puts a tensor where the file says, also beyond its storage.
void check_extent(const std::string& name, const torch::Tensor& tensor) {
  if (tensor.layout() != torch::kStrided || !tensor.has_storage()) return;
  const std::size_t end = at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize(),
                                                           static_cast<std::size_t>(tensor.storage_offset()));
  if (end > tensor.storage().nbytes()) throw DataError(fmt::format("the tensor '{}' is larger than its storage", name));
}

/// LibTorch compares no checksums, and damaged sizes lead it out of its memory. The checksums find what is damaged;
/// what was made to harm is loaded in another process first. Nothing comes back where all is well.
void check_file(const std::string& file) {
  const ZipArchive archive(file);
  std::uint64_t inflated = 0, stored = 0;
  for (const auto& [name, entry] : archive.entries()) {
    inflated += entry.deflated ? entry.bytes : 0;
    stored += entry.stored_bytes;
    if (inflated > kMostInflatedBytes || stored > std::filesystem::file_size(file))
      throw DataError(fmt::format("{}: its entries are larger than it", file));
    archive.read(name, entry.bytes);
  }
  ChildLimits limits{.seconds = kLoadSeconds + static_cast<double>(stored) / kLoadBytesPerSecond};
  limits.memory_bytes += 4 * stored;
  run_in_limited_child(
      file,
      [&] {
        at::set_num_threads(1);  // a forked process has no others to wait for
        ScriptModule(torch::jit::load(file, torch::kCPU));
        return std::string();
      },
      limits);
}

}  // namespace

ScriptPart::ScriptPart(torch::jit::Module script) : script_(std::move(script)) {
  const std::string name = class_name(script_);
  normalizes_over_batch = is_class_of(name, "BatchNorm") || is_class_of(name, "SyncBatchNorm");
  is_norm = normalizes_over_batch || is_class_of(name, "LayerNorm") || is_class_of(name, "GroupNorm") ||
            is_class_of(name, "InstanceNorm") || is_class_of(name, "RMSNorm");
  for (const auto& item : script_.named_parameters(/*recurse=*/false)) {
    register_parameter(item.name, item.value, item.value.requires_grad());
  }
  for (const auto& item : script_.named_buffers(/*recurse=*/false)) register_buffer(item.name, item.value);
  for (const auto& item : script_.named_children())
    register_module(item.name, std::make_shared<ScriptPart>(item.value));
}

ScriptModuleImpl::ScriptModuleImpl(torch::jit::Module script) : ScriptPart(std::move(script)) {}

torch::Tensor ScriptModuleImpl::forward(const torch::Tensor& inputs) {
  const torch::jit::GraphOptimizerEnabledGuard as_it_stands(false);
  torch::jit::IValue outputs;
  try {
    outputs = script_.forward({inputs});
  } catch (const std::exception& error) {  // a stack of the script, the cause last
    require(false, "the TorchScript module fails on inputs [{}]: {}", fmt::join(inputs.sizes(), ", "),
            last_line(error.what()));
  }
  require(outputs.isTensor(),
          "the TorchScript module gives a {} where one tensor [examples, outputs] is needed; export a module whose "
          "forward returns that",
          outputs.tagKind());
  return outputs.toTensor();
}

void ScriptPart::train(bool on) {
  torch::nn::Module::train(on);
  if (script_.hasattr("training")) script_.setattr("training", on);
}

double ScriptPart::momentum() const {
  if (script_.hasattr("momentum")) {
    const torch::jit::IValue value = script_.attr("momentum");
    return value.isNone() ? 1.0 : value.toDouble();
  }
  const auto constant = script_.type()->findConstant("momentum");
  require(constant.has_value(),
          "this TorchScript module does not tell the momentum of its batch normalisation; export it by "
          "torch.jit.script in the place of torch.jit.trace, or use --norm-statistics running");
  return constant->isNone() ? 1.0 : constant->toDouble();
}

std::string script_digest(const torch::nn::Module& network) {
  const auto* const script = dynamic_cast<const ScriptModuleImpl*>(&network);
  return script == nullptr ? std::string() : script->file_digest;
}

ScriptModule load_script(const std::string& file) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(file, none)) throw DataError(fmt::format("{}: there is no such file", file));
  try {
    check_file(file);
    ScriptModule network(torch::jit::load(file, torch::kCPU));
    for (const auto& item : network->named_parameters()) check_extent(item.key(), item.value());
    for (const auto& item : network->named_buffers()) check_extent(item.key(), item.value());
    network->file_digest = digest_of_file(file);
    return network;
  } catch (const StorageError&) {
    throw;
  } catch (const std::exception& error) {
    const std::string why = first_line(error.what());
    throw DataError(fmt::format("{} is no TorchScript module, as torch.jit.script(network).save(FILE) makes them: {}",
                                file, why.substr(why.starts_with(file + ": ") ? file.size() + 2 : 0)));
  }
}

torch::nn::AnyModule make_torchscript(const ModuleRequest& request) {
  require(!request.arguments.empty(), "torchscript needs a file, as in torchscript:FILE");
  ScriptModule network = load_script(request.arguments);
  require(!network->parameters().empty(),
          "{} has no parameters to be uncertain about: it was frozen (torch.jit.freeze); save it before that",
          request.arguments);
  const torch::NoGradGuard no_grad;
  std::vector<std::int64_t> shape = {2};
  shape.insert(shape.end(), request.examples.input_shape.begin(), request.examples.input_shape.end());
  network->eval();
  const torch::Tensor outputs = network->forward(torch::zeros(shape, network->parameters().front().options()));
  network->train();
  require(outputs.dim() == 2 && outputs.size(0) == 2 && outputs.size(1) == request.outputs,
          "{} gives outputs [{}] for two examples, and [2, {}] is needed; replace its last layer before it is exported",
          request.arguments, fmt::join(outputs.sizes(), ", "), request.outputs);
  return torch::nn::AnyModule(network);
}

}  // namespace credence
