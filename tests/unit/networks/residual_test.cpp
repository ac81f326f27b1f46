// Networks for images against torchvision's numbers, and normalisation layers.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "credence/base/errors.h"
#include "credence/networks/layers.h"
#include "credence/networks/network.h"
#include "credence/networks/sync_norm.h"
#include "credence/networks/zoo.h"
#include "unit/networks/uniform.h"

namespace credence {
namespace {

using test::uniform;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::int64_t kExamples = 2;
constexpr std::int64_t kClasses = 10;

ExampleSpec images(std::int64_t channels, std::int64_t pixels) {
  ExampleSpec spec;
  spec.input_shape = {channels, pixels, pixels};
  spec.classes = kClasses;
  return spec;
}

const nlohmann::json& references() {
  static const nlohmann::json values =
      nlohmann::json::parse(std::ifstream(CREDENCE_REFERENCES "/networks/networks.json"));
  return values;
}

void fill(Network& network) {
  const torch::NoGradGuard no_grad;
  const auto fill_one = [](const std::string& name, torch::Tensor tensor) {
    torch::Tensor u = uniform(name, tensor.numel()).view(tensor.sizes());
    if (tensor.dim() > 1) {
      u = u * std::sqrt(24.0 / static_cast<double>(tensor.numel() / tensor.size(0)));
    } else if (name.ends_with("running_var")) {
      u = u + 1.0;
    } else if (name.ends_with("weight")) {
      u = u * 0.5 + 1.0;
    }
    tensor.copy_(u);
  };
  for (auto& item : network.module().named_parameters()) fill_one(item.key(), item.value());
  for (const auto& [name, buffer] : network.float_buffers()) fill_one(name, buffer);
}

std::int64_t pixels_of(const std::string& name) {
  return references()[name]["pixels"];
}

torch::Tensor input_of(const std::string& name) {
  const std::int64_t pixels = pixels_of(name);
  return uniform("input", kExamples * 3 * pixels * pixels).view({kExamples, 3, pixels, pixels}) * 4.0;
}

torch::Tensor table(const nlohmann::json& rows) {
  std::vector<double> values;
  for (const auto& row : rows) {
    for (const double value : row.get<std::vector<double>>()) values.push_back(value);
  }
  return torch::tensor(values, torch::kFloat64).view({static_cast<std::int64_t>(rows.size()), -1});
}

/// Largest difference over the largest value.
double relative_error(const torch::Tensor& values, const torch::Tensor& expected) {
  return ((values.to(torch::kFloat64) - expected).abs().max() / expected.abs().max()).item<double>();
}

// A convolution's sum of n terms is rounded to about sqrt(n) eps of itself and passes on what its input has; 152 layers
// of up to 4,608 terms, each error spread over the following layers with a gain near one.
double tolerance(double epsilon) {
  return 152.0 * std::sqrt(4608.0) * epsilon;
}

TEST(TorchvisionsNetworks, EvaluateAsTheirs) {
  for (const auto& [name, expected] : references().items()) {
    Network network(build_module(name, images(3, pixels_of(name)), kClasses, 1), torch::kFloat64);
    EXPECT_EQ(network.layout().parameters(), expected["parameters"].get<std::int64_t>()) << name;
    fill(network);
    network.module().eval();
    const torch::NoGradGuard no_grad;
    EXPECT_LT(relative_error(network.forward(input_of(name)), table(expected["evaluation"])), tolerance(0x1p-53))
        << name;
  }
}

TEST(TorchvisionsNetworks, EvaluateAsTheirsInFloat) {
  for (const std::string name : {"resnet18", "resnet50", "vit:4,2,24,3"}) {
    Network network(build_module(name, images(3, pixels_of(name)), kClasses, 1));
    fill(network);
    network.module().eval();
    const torch::NoGradGuard no_grad;
    EXPECT_LT(
        relative_error(network.forward(input_of(name).to(torch::kFloat32)), table(references()[name]["evaluation"])),
        tolerance(0x1p-24))
        << name;
  }
}

TEST(TorchvisionsNetworks, TrainAsTheirs) {
  // Backward multiplies the error of a layer by the gradient's own growth: three more digits are allowed.
  constexpr double kBackward = 1e3;
  for (const std::string name : {"resnet18", "resnet50", "vit:4,2,24,3"}) {
    const nlohmann::json& expected = references()[name];
    Network network(build_module(name, images(3, pixels_of(name)), kClasses, 1), torch::kFloat64);
    fill(network);
    const torch::Tensor logits = network.forward(input_of(name));
    EXPECT_LT(relative_error(logits, table(expected["training"])), tolerance(0x1p-53)) << name;
    double squares = 0.0;
    torch::Tensor first;  // of the first convolution
    int first_slot = 1 << 20;
    network.set_gradient_sink([&](int slot, const torch::Tensor& gradient) {
      squares += gradient.square().sum().item<double>();
      if (network.layout().slots[static_cast<std::size_t>(slot)].shape.size() == 4 && slot <= first_slot) {
        first = gradient;
        first_slot = slot;
      }
    });
    torch::nn::functional::cross_entropy(logits, torch::arange(kExamples)).backward();
    EXPECT_LT(relative_error(first.flatten().narrow(0, 0, 8), table(nlohmann::json::array({expected["gradient"]}))[0]),
              kBackward * tolerance(0x1p-53))
        << name;
    EXPECT_NEAR(std::sqrt(squares) / expected["gradient_norm"].get<double>(), 1.0, kBackward * tolerance(0x1p-53));
    for (const auto& [buffer_name, buffer] : network.float_buffers()) {
      if (buffer_name != "bn1.running_var") continue;
      EXPECT_LT(relative_error(buffer.narrow(0, 0, 4), table(nlohmann::json::array({expected["running_var"]}))[0]),
                tolerance(0x1p-53));
    }
  }
}

TEST(ResidualNetworks, HaveTheirPublishedSizes) {
  struct Size {
    std::string spec;
    std::int64_t pixels, outputs, parameters;
  };
  // torchvision's documentation for 1,000 classes; wide-resnet: 36.5 M in Zagoruyko and Komodakis 2016, counted by
  // layer 36,479,194. The small stem of resnet18 has 7,680 weights fewer.
  const Size sizes[] = {{"resnet50", 224, 1000, 25557032},
                        {"wide-resnet:28,10", 32, 10, 36479194},
                        {"resnet18:cifar", 32, 1000, 11689512 - 7680}};
  for (const Size& size : sizes) {
    const Network network(build_module(size.spec, images(3, size.pixels), size.outputs, 1));
    EXPECT_EQ(network.layout().parameters(), size.parameters) << size.spec;
  }
}

TEST(ResidualNetworks, TakeSmallImagesAndEveryNorm) {
  for (const std::string spec :
       {"resnet20", "resnet18:cifar", "resnet50:cifar", "wide-resnet:10,2", "wide-resnet:10,1"}) {
    for (const std::string norm : {"batch", "sync", "group", "frn", "none"}) {
      Network network(build_module(NetworkChoice{spec, norm}, images(3, 32), kClasses, 1));
      const torch::Tensor logits = network.forward(torch::sin(torch::arange(2 * 3072)).view({2, 3, 32, 32}));
      EXPECT_EQ(logits.sizes().vec(), (std::vector<std::int64_t>{2, kClasses})) << spec << norm;
      // Signals neither vanish nor explode where training begins.
      const double size = logits.detach().square().mean().sqrt().item<double>();
      EXPECT_TRUE(size > 1e-2 && size < 1e2) << spec << " " << norm << " " << size;
      std::size_t gradients = 0;
      network.set_gradient_sink([&](int, const torch::Tensor&) { ++gradients; });
      logits.square().sum().backward();
      EXPECT_EQ(gradients, network.layout().slots.size()) << spec << norm;
      for (const Slot& slot : network.layout().slots) {
        const bool of_norm =
            slot.name.find("bn") != std::string::npos || slot.name.find("downsample.1") != std::string::npos;
        EXPECT_EQ(slot.is_norm, of_norm) << slot.name;
      }
    }
  }
}

TEST(ResidualNetworks, BeginAsTheirShortcuts) {
  // With a zero scale at the end of every block, only stem, shortcuts and head matter: other weights may be anything.
  for (const std::string norm : {"batch", "sync", "group", "frn", "none"}) {
    Network network(build_module(NetworkChoice{"resnet18:cifar", norm}, images(3, 32), kClasses, 1));
    const torch::NoGradGuard no_grad;
    network.module().eval();
    const torch::Tensor x = torch::sin(torch::arange(3072)).view({1, 3, 32, 32});
    const torch::Tensor before = network.forward(x).clone();
    for (auto& item : network.module().named_parameters()) {
      if (item.key().find("conv1.weight") != std::string::npos && item.key() != "conv1.weight") item.value().mul_(-3.0);
    }
    EXPECT_TRUE(torch::equal(network.forward(x), before)) << norm;
    Network other(build_module(NetworkChoice{"resnet18:cifar,unit-scale", norm}, images(3, 32), kClasses, 1));
    other.module().eval();
    EXPECT_FALSE(torch::equal(other.forward(x), before)) << norm;
  }
}

TEST(ResidualNetworks, TheShortcutOfResnet20HasEverySecondPixelAndZerosOnBothSides) {
  Network network(build_module(NetworkChoice{"resnet20", "none"}, images(3, 32), kClasses, 1));
  const torch::NoGradGuard no_grad;
  for (auto& item : network.module().named_parameters()) {
    if (item.key().starts_with("layer2.")) item.value().zero_();
  }
  const torch::Tensor x = torch::rand({2, 16, 8, 8});
  auto* const stage = network.module().named_modules()["layer2"]->as<torch::nn::Sequential>();
  ASSERT_NE(stage, nullptr);
  const torch::Tensor y = stage->forward(x);
  ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{2, 32, 4, 4}));
  using torch::indexing::None;
  using torch::indexing::Slice;
  EXPECT_TRUE(
      torch::equal(y.narrow(1, 8, 16), x.index({Slice(), Slice(), Slice(None, None, 2), Slice(None, None, 2)})));
  EXPECT_EQ(y.narrow(1, 0, 8).abs().sum().item<float>() + y.narrow(1, 24, 8).abs().sum().item<float>(), 0.0F);
}

TEST(ResidualNetworks, RunWithChannelsLast) {
  for (const std::int64_t channels : {1, 3}) {
    const torch::Tensor given = torch::rand({2, channels, 8, 8});
    const torch::Tensor images = with_channels_last(given);
    EXPECT_TRUE(torch::equal(images, given));
    EXPECT_EQ(images.stride(1), 1);
    EXPECT_EQ(images.stride(3), channels);
    EXPECT_EQ(images.suggest_memory_format(), torch::MemoryFormat::ChannelsLast);
    EXPECT_EQ(with_channels_last(images).data_ptr(), images.data_ptr()) << "nothing to copy";
    EXPECT_TRUE(with_channels_last(torch::rand({2, channels, 16, 8}).slice(2, 0, 8))
                    .is_contiguous(torch::MemoryFormat::ChannelsLast));
  }
}

TEST(ResidualNetworks, RefuseWhatTheyCannotBe) {
  for (const std::string spec :
       {"resnet50:zero", "wide-resnet", "wide-resnet:28", "wide-resnet:27,10", "wide-resnet:28,0", "vit", "vit:4,6,192",
        "vit:4,6,192,5", "vit:5,6,192,3", "torchscript"})
    EXPECT_THROW(build_module(spec, images(3, 32), 10, 1), UserError) << spec;
  EXPECT_THAT(
      [] {
        build_module(NetworkChoice{"lenet5", "group"}, images(1, 28), 10, 1);
      },
      ThrowsMessage<UserError>(HasSubstr("leave --norm group out")));
  EXPECT_THAT(
      [] {
        build_module(NetworkChoice{"resnet20", "layer"}, images(3, 32), 10, 1);
      },
      ThrowsMessage<UserError>(HasSubstr("batch, sync, group, frn, none")));
}

/// One layer on given values, in double.
torch::Tensor normalized(Norm norm, const torch::Tensor& x, double scale, double shift, double threshold) {
  torch::nn::Module parent;
  NormLayer* const layer = add_norm(parent, "norm", norm, x.size(1));
  parent.to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  for (auto& item : parent.named_parameters()) {
    const bool is_scale = item.key() == "norm.weight";
    item.value().fill_(is_scale ? scale : item.key() == "norm.threshold" ? threshold : shift);
  }
  return layer->normalize_and_activate(x);
}

TEST(Norms, ComputeTheirFormulas) {
  const torch::Tensor x = torch::sin(torch::arange(2 * 6 * 3 * 4, torch::kFloat64) * 1.7).view({2, 6, 3, 4}) + 0.3;
  const torch::NoGradGuard no_grad;
  // Singh and Krishnan 2020, eq. 1 to 3 and the thresholded linear unit, one channel after the other.
  const torch::Tensor frn = normalized(Norm::frn, x, 1.5, -0.2, 0.1);
  for (std::int64_t example = 0; example < 2; ++example) {
    for (std::int64_t channel = 0; channel < 6; ++channel) {
      const torch::Tensor of_channel = x[example][channel];
      const double response = of_channel.square().sum().item<double>() / 12.0;
      const torch::Tensor expected = (of_channel / std::sqrt(response + 1e-6) * 1.5 - 0.2).clamp_min(0.1);
      EXPECT_LT((frn[example][channel] - expected).abs().max().item<double>(), 1e-14);
    }
  }
  // Six channels: three groups of two. Mean and variance of a group, epsilon 1e-5 (Wu and He 2018, eq. 1 to 4).
  const torch::Tensor group = normalized(Norm::group, x, 1.5, -0.2, 0.0);
  for (std::int64_t g = 0; g < 3; ++g) {
    const torch::Tensor of_group = x[1].narrow(0, 2 * g, 2);
    const double mean = of_group.mean().item<double>();
    const double variance = (of_group - mean).square().mean().item<double>();
    const torch::Tensor expected = ((of_group - mean) / std::sqrt(variance + 1e-5) * 1.5 - 0.2).clamp_min(0.0);
    EXPECT_LT((group[1].narrow(0, 2 * g, 2) - expected).abs().max().item<double>(), 1e-14);
  }
  // Of a hundred and twenty-eight there are thirty-two.
  const torch::Tensor wide = torch::sin(torch::arange(2 * 128 * 3 * 4, torch::kFloat64) * 1.7).view({2, 128, 3, 4});
  const torch::Tensor expected = torch::group_norm(wide, 32).mul(1.5).sub(0.2).clamp_min(0.0);
  EXPECT_LT((normalized(Norm::group, wide, 1.5, -0.2, 0.0) - expected).abs().max().item<double>(), 1e-14);
  EXPECT_TRUE(torch::equal(normalized(Norm::none, x, 1.5, -0.2, 0.0), x.clamp_min(0.0)));
}

/// Half of the last of bfloat16's 8 bits, relative to what it rounds.
constexpr double kBfloat16Rounding = 0x1p-8;

TEST(NormsInBfloat16, ComputeInFloat32AndGiveBfloat16Back) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = (uniform("x", 4 * 8 * 6 * 6).view({4, 8, 6, 6}) * 3.0 + 0.5).to(torch::kBFloat16);
  const auto expect_rounded_once = [&](NormLayer& layer, const std::string& name) {
    const torch::Tensor rounded = layer.normalize_and_activate(x);
    const torch::Tensor exact = layer.normalize_and_activate(x.to(torch::kFloat32));
    EXPECT_EQ(rounded.scalar_type(), torch::kBFloat16) << name;
    // Sums in another order, of 144 terms, differ by less than 1e-5.
    EXPECT_TRUE(torch::allclose(rounded.to(torch::kFloat32), exact, kBfloat16Rounding, 1e-5)) << name;
  };
  for (const char* name : {"batch", "sync", "group", "frn", "none"}) {
    torch::nn::Module parent;
    NormLayer* const layer = add_norm(parent, "norm", *parse_norm(name), x.size(1));
    for (auto& item : parent.named_parameters()) item.value().add_(uniform(item.key(), 8));
    expect_rounded_once(*layer, name);
  }
  SyncBatchNorm over_shards(x.size(1));
  over_shards.set_sums({2, [](const torch::Tensor& mine) { torch::Tensor(mine).mul_(2.0); }});
  expect_rounded_once(over_shards, "sync over two equal shards");
}

TEST(NormsInBfloat16, LeaveResnet20InBfloat16NearItsFloat32) {
  for (const char* name : {"batch", "sync", "group", "frn", "none"}) {
    Network network(build_module(NetworkChoice{"resnet20", name}, images(3, 32), kClasses, 1));
    network.bind(network.values());
    const torch::NoGradGuard no_grad;
    const torch::Tensor x = (uniform("x", 8 * 3 * 32 * 32).view({8, 3, 32, 32}) * 4.0).to(torch::kFloat32);
    const torch::Tensor exact = network.forward(x);
    network.compute_in_bfloat16();
    const torch::Tensor rounded = network.forward(x);
    // Each of 20 layers rounds its input, its weights, its sums and what the norm gives: 80 independent roundings,
    // whose relative errors add up in the mean square.
    const double error = ((rounded - exact).norm() / exact.norm()).item<double>();
    EXPECT_GT(error, 0.0) << name;
    EXPECT_LT(error, std::sqrt(80.0) * kBfloat16Rounding) << name;

    auto* const stage = network.module().named_children()["layer2"]->as<torch::nn::SequentialImpl>();
    at::autocast::set_autocast_enabled(torch::kCPU, true);
    const torch::Tensor y = stage->forward(torch::ones({2, 16, 8, 8}, torch::kBFloat16));
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16) << name;
  }
}

}  // namespace
}  // namespace credence
