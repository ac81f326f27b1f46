#include "credence/networks/zoo.h"

#include <map>

#include "credence/base/errors.h"
#include "credence/base/text.h"

namespace credence {
namespace {

using Maker = torch::nn::AnyModule (*)(const std::string&, const ExampleSpec&, std::int64_t, std::uint64_t);

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {{"mlp", make_mlp},
                                                     {"lenet5", make_lenet5},
                                                     {"lenet5-caffe", make_lenet5_caffe},
                                                     {"resnet20", make_resnet20},
                                                     {"linear", make_linear},
                                                     {"constant", make_constant},
                                                     {"vae", make_vae},
                                                     {"adaptive-depth", make_adaptive_depth},
                                                     {"hierarchical-groups", make_hierarchical_groups}};
  return table;
}

}  // namespace

torch::nn::AnyModule build_module(const std::string& spec, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed) {
  const Spec parsed = parse_spec(spec);
  const auto maker = makers().find(parsed.name);
  if (maker == makers().end()) {
    std::vector<std::string> known;
    for (const auto& [name, unused] : makers()) known.push_back(name);
    refuse_unknown("network", parsed.name, known);
  }
  return maker->second(parsed.arguments, examples, outputs, seed);
}

void require_images(const std::string& network, const ExampleSpec& examples, std::int64_t pixels) {
  const auto& shape = examples.input_shape;
  require(shape.size() == 3 && shape[1] >= pixels && shape[2] >= pixels,
          "the network {} needs images of {} pixels or more, and these examples are not; use mlp:... or other data",
          network, pixels);
}

}  // namespace credence
