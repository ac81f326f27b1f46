#include "credence/networks/zoo.h"

#include <map>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

struct Entry {
  torch::nn::AnyModule (*make)(const ModuleRequest&);
  bool has_norm = false;  // layers of norm.h
};

const std::map<std::string, Entry>& zoo() {
  static const std::map<std::string, Entry> table = {{"mlp", {make_mlp}},
                                                     {"lenet5", {make_lenet5}},
                                                     {"lenet5-caffe", {make_lenet5_caffe}},
                                                     {"resnet20", {make_resnet20, true}},
                                                     {"resnet18", {make_resnet18, true}},
                                                     {"resnet34", {make_resnet34, true}},
                                                     {"resnet50", {make_resnet50, true}},
                                                     {"resnet101", {make_resnet101, true}},
                                                     {"resnet152", {make_resnet152, true}},
                                                     {"wide-resnet", {make_wide_resnet, true}},
                                                     {"vit", {make_vit}},
                                                     {"torchscript", {make_torchscript}},
                                                     {"linear", {make_linear}},
                                                     {"constant", {make_constant}},
                                                     {"vae", {make_vae}},
                                                     {"adaptive-depth", {make_adaptive_depth}},
                                                     {"hierarchical-groups", {make_hierarchical_groups}}};
  return table;
}

}  // namespace

torch::nn::AnyModule build_module(const NetworkChoice& network, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed) {
  const Spec parsed = parse_spec(network.spec);
  const auto entry = zoo().find(parsed.name);
  if (entry == zoo().end()) {
    std::vector<std::string> known;
    for (const auto& [name, unused] : zoo()) known.push_back(name);
    refuse_unknown("network", parsed.name, known);
  }
  const std::optional<Norm> norm = parse_norm(network.norm);
  require(!norm || entry->second.has_norm,
          "the network {} has no normalisation layers to choose; leave --norm {} out, or use a residual network",
          parsed.name, network.norm);
  return entry->second.make({parsed.arguments, examples, outputs, seed, norm});
}

torch::nn::AnyModule build_module(const std::string& spec, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed) {
  return build_module(NetworkChoice{spec, {}}, examples, outputs, seed);
}

void require_images(const std::string& network, const ExampleSpec& examples, std::int64_t pixels) {
  const auto& shape = examples.input_shape;
  require(shape.size() == 3 && shape[1] >= pixels && shape[2] >= pixels,
          "the network {} needs images of {} pixels or more, and these examples are not; use mlp:... or other data",
          network, pixels);
}

}  // namespace credence
