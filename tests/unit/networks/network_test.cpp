// Binding a user's module to an arena, and what the zoo's networks are made of.
#include "credence/networks/network.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <map>

#include "credence/base/errors.h"
#include "credence/kernels/noise.h"
#include "credence/networks/zoo.h"

namespace credence {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

ExampleSpec spec_of(std::vector<std::int64_t> input_shape) {
  ExampleSpec spec;
  spec.input_shape = std::move(input_shape);
  return spec;
}

/// What a user writes: two layers, a parameter that is used twice, a buffer, an integer buffer.
struct Custom : torch::nn::Module {
  torch::nn::Linear first = register_module("first", torch::nn::Linear(3, 4));
  torch::nn::Linear second = register_module("second", torch::nn::Linear(torch::nn::LinearOptions(4, 2).bias(false)));
  torch::Tensor gain = register_parameter("gain", torch::full({1}, 1.5));
  torch::Tensor shift = register_buffer("shift", torch::full({4}, 0.25));
  torch::Tensor calls = register_buffer("calls", torch::full({1}, (std::int64_t{1} << 40) + 1, torch::kInt64));

  torch::Tensor forward(torch::Tensor x) {
    calls.add_(1);
    return second(gain * torch::tanh(first(x) * gain + shift));
  }
};

torch::nn::AnyModule custom() {
  return torch::nn::AnyModule(std::make_shared<Custom>());
}

const Slot& slot_named(const Network& network, const std::string& name) {
  for (const Slot& slot : network.layout().slots) {
    if (slot.name == name) return slot;
  }
  throw std::runtime_error("no slot " + name);
}

torch::Tensor part_of(const Network& network, const torch::Tensor& arena, const std::string& name) {
  const Slot& slot = slot_named(network, name);
  return arena.narrow(0, slot.offset, slot.count).view(slot.shape);
}

torch::Tensor waves(std::vector<std::int64_t> shape, double rate) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return torch::sin(torch::arange(count, torch::kFloat64) * rate + 0.3).view(shape);
}

/// The module's formula, from the values that lie in the arena.
torch::Tensor expected_output(const Network& network, const torch::Tensor& arena, const torch::Tensor& x,
                              const torch::Tensor& shift) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor gain = part_of(network, arena, "gain");
  const torch::Tensor hidden =
      x.matmul(part_of(network, arena, "first.weight").t()) + part_of(network, arena, "first.bias");
  return (gain * torch::tanh(hidden * gain + shift)).matmul(part_of(network, arena, "second.weight").t());
}

TEST(Binding, ModuleSeesWhatIsWrittenToTheArena) {
  Network network(custom(), torch::kFloat64);
  const torch::Tensor arena = network.values();
  EXPECT_EQ(part_of(network, arena, "gain").item<double>(), 1.5);
  network.bind(arena);
  const torch::Tensor x = waves({5, 3}, 1.3);
  for (const double rate : {0.7, 2.9}) {
    arena.copy_(waves({network.layout().elements}, rate));
    const torch::Tensor shift = torch::full({4}, 0.25, torch::kFloat64);
    // A dozen operations of order one in double.
    EXPECT_LT((network.forward(x) - expected_output(network, arena, x, shift)).abs().max().item<double>(), 1e-13);
  }
  // Another arena takes over; the old one is let go.
  const torch::Tensor other = network.values().mul(0.5);
  network.bind(other);
  arena.zero_();
  EXPECT_LT((network.forward(x) - expected_output(network, other, x, torch::full({4}, 0.25, torch::kFloat64)))
                .abs()
                .max()
                .item<double>(),
            1e-13);
}

TEST(Binding, GradientsReachTheSinkOncePerBackwardWithTheRightValues) {
  Network network(custom(), torch::kFloat64);
  const torch::Tensor arena = waves({network.layout().elements}, 0.7);
  network.bind(arena);
  std::map<int, int> calls;
  torch::Tensor gradients = torch::zeros_like(arena);
  network.set_gradient_sink([&](int index, const torch::Tensor& gradient) {
    const Slot& slot = network.layout().slots[static_cast<std::size_t>(index)];
    ASSERT_EQ(gradient.sizes().vec(), slot.shape);
    ++calls[index];
    gradients.narrow(0, slot.offset, slot.count).copy_(gradient.reshape({-1}));
  });
  const torch::Tensor x = waves({5, 3}, 1.3);
  const auto loss = [&] { return network.forward(x).square().sum(); };
  for (int pass = 1; pass <= 2; ++pass) {
    loss().backward();
    for (int slot = 0; slot < static_cast<int>(network.layout().slots.size()); ++slot) EXPECT_EQ(calls[slot], pass);
  }
  for (const auto& parameter : network.module().parameters()) EXPECT_FALSE(parameter.grad().defined());

  // Central differences: truncation h^2 f''' / 6, rounding 1e-16 |f| / h; with h = 1e-5 and f of order ten, below 1e-8.
  const torch::NoGradGuard no_grad;
  const double h = 1e-5;
  for (const Slot& slot : network.layout().slots) {
    for (std::int64_t i = slot.offset; i < slot.offset + slot.count; ++i) {
      const double at = arena[i].item<double>();
      arena[i] = at + h;
      const double above = loss().item<double>();
      arena[i] = at - h;
      const double below = loss().item<double>();
      arena[i] = at;
      EXPECT_NEAR(gradients[i].item<double>(), (above - below) / (2 * h), 1e-7) << slot.name << " " << i - slot.offset;
    }
  }
}

TEST(Binding, SilentSinkIsNotCalled) {
  Network network(custom(), torch::kFloat64);
  int calls = 0;
  network.set_gradient_sink([&](int, const torch::Tensor&) { ++calls; });
  network.set_gradient_sink(nullptr);
  network.forward(waves({5, 3}, 1.3)).sum().backward();
  EXPECT_EQ(calls, 0);
}

TEST(Binding, BuffersKeepTheirTypes) {
  Network network(custom(), torch::kFloat64);
  ASSERT_EQ(network.float_buffers().size(), 1U);
  ASSERT_EQ(network.integer_buffers().size(), 1U);
  EXPECT_EQ(network.float_buffers()[0].first, "shift");
  EXPECT_EQ(network.float_buffers()[0].second.scalar_type(), torch::kFloat64);
  EXPECT_EQ(network.integer_buffers()[0].first, "calls");
  EXPECT_EQ(network.integer_buffers()[0].second.scalar_type(), torch::kInt64);
  const torch::Tensor x = waves({5, 3}, 1.3);
  network.forward(x);
  EXPECT_EQ(network.integer_buffers()[0].second.item<std::int64_t>(), (std::int64_t{1} << 40) + 2);

  // The module reads the arena.
  const torch::Tensor arena = network.values();
  network.bind(arena);
  const torch::Tensor buffers = network.buffer_arena();
  buffers.fill_(-0.75);
  EXPECT_LT((network.forward(x) - expected_output(network, arena, x, torch::full({4}, -0.75, torch::kFloat64)))
                .abs()
                .max()
                .item<double>(),
            1e-13);
}

TEST(Binding, BuffersOfComplexNumbersAreRefused) {
  auto module = std::make_shared<torch::nn::LinearImpl>(3, 2);
  module->register_buffer("waves", torch::zeros({2}, torch::kComplexFloat));
  EXPECT_THAT([&] { Network{torch::nn::AnyModule(module)}; },
              testing::ThrowsMessage<UserError>(HasSubstr("buffer waves holds ComplexFloat")));
}

TEST(Binding, BatchCountersStayIntegers) {
  const ExampleSpec images = spec_of({3, 32, 32});
  Network network(build_module("resnet20", images, 10, 1));
  EXPECT_EQ(network.float_buffers().size(), 2U * 19U);
  ASSERT_EQ(network.integer_buffers().size(), 19U);
  for (const auto& [name, buffer] : network.integer_buffers()) EXPECT_THAT(name, HasSubstr("num_batches_tracked"));
}

TEST(Layout, NamesShapesAndPlaces) {
  Network network(custom());
  const Layout& layout = network.layout();
  std::vector<std::string> names;
  std::int64_t end = 0;
  for (const Slot& slot : layout.slots) {
    names.push_back(slot.name);
    EXPECT_EQ(slot.offset % kernels::kNoiseGroup, 0) << slot.name;
    EXPECT_GE(slot.offset, end) << slot.name;
    end = slot.offset + slot.count;
  }
  EXPECT_THAT(names, ElementsAre("gain", "first.weight", "first.bias", "second.weight"));
  EXPECT_GE(layout.elements, end);
  EXPECT_EQ(layout.parameters(), 1 + 12 + 4 + 8);
  EXPECT_EQ(layout.offsets().size(), 4U);
  EXPECT_EQ(slot_named(network, "first.weight").fan_in, 3);
  EXPECT_EQ(slot_named(network, "first.bias").fan_in, 3);
  EXPECT_TRUE(slot_named(network, "first.bias").is_bias);
  EXPECT_FALSE(slot_named(network, "first.weight").is_bias);
  EXPECT_EQ(slot_named(network, "second.weight").shape, (std::vector<std::int64_t>{2, 4}));
  // Padding is zero, so that sums over an arena are sums over parameters.
  const torch::Tensor arena = network.values();
  for (std::size_t i = 0; i < layout.slots.size(); ++i) {
    const std::int64_t from = layout.slots[i].offset + layout.slots[i].count;
    const std::int64_t to = i + 1 < layout.slots.size() ? layout.slots[i + 1].offset : layout.elements;
    EXPECT_EQ(arena.narrow(0, from, to - from).abs().sum().item<double>(), 0.0);
  }
}

struct Tied : torch::nn::Module {
  torch::nn::Linear layer = register_module("encoder", torch::nn::Linear(3, 3));
  torch::nn::Linear again = register_module("decoder", layer);
  torch::Tensor forward(torch::Tensor x) { return again(torch::tanh(layer(x))); }
};

TEST(Layout, SharedParametersHaveOneSlot) {
  Network network(torch::nn::AnyModule(std::make_shared<Tied>()));
  EXPECT_EQ(network.layout().slots.size(), 2U);
  EXPECT_EQ(network.layout().parameters(), 12);
  int calls = 0;
  network.set_gradient_sink([&](int, const torch::Tensor&) { ++calls; });
  network.forward(torch::ones({2, 3})).sum().backward();
  EXPECT_EQ(calls, 2);
}

TEST(LikelihoodParameter, IsTheLastOfTheLayoutAndFollowsTheOutputs) {
  const Network plain(custom(), torch::kFloat64);
  Network network(custom(), torch::kFloat64, torch::kCPU, {-0.5, 1.25});
  const auto& slots = network.layout().slots;
  ASSERT_EQ(slots.size(), plain.layout().slots.size() + 1);
  for (std::size_t i = 0; i + 1 < slots.size(); ++i) {
    EXPECT_EQ(slots[i].name, plain.layout().slots[i].name);
    EXPECT_EQ(slots[i].offset, plain.layout().slots[i].offset);
    EXPECT_FALSE(slots[i].point_by_default()) << slots[i].name;
  }
  const Slot& slot = slots.back();
  EXPECT_EQ(slot.name, "likelihood.raw_scale");
  EXPECT_EQ(slot.shape, (std::vector<std::int64_t>{2}));
  EXPECT_TRUE(slot.point_by_default());
  EXPECT_EQ(slot.offset, plain.layout().elements);

  const torch::Tensor x = waves({5, 3}, 1.3);
  const torch::Tensor arena = network.values();
  EXPECT_EQ(arena[slot.offset + 1].item<double>(), 1.25);
  network.bind(arena);
  arena.narrow(0, slot.offset, 2).copy_(torch::tensor({3.0, -4.0}, torch::kFloat64));
  const torch::Tensor outputs = network.forward(x);
  EXPECT_EQ(outputs.sizes().vec(), (std::vector<std::int64_t>{5, 4}));
  for (std::int64_t row = 0; row < 5; ++row) {
    EXPECT_EQ(outputs[row][2].item<double>(), 3.0);
    EXPECT_EQ(outputs[row][3].item<double>(), -4.0);
  }
  torch::Tensor received;
  network.set_gradient_sink([&](int index, const torch::Tensor& gradient) {
    if (index + 1 == static_cast<int>(slots.size())) received = gradient.clone();
  });
  const torch::Tensor weights = waves({5, 4}, 0.9);
  (outputs * weights).sum().backward();
  ASSERT_TRUE(received.defined());
  EXPECT_LT((received - weights.narrow(1, 2, 2).sum(0)).abs().max().item<double>(), 1e-14);
}

struct Nothing : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) { return x; }
};

TEST(Layout, ModuleWithoutParametersIsRefused) {
  EXPECT_THROW(Network(torch::nn::AnyModule(std::make_shared<Nothing>())), UserError);
}

struct Count {
  const char* spec;
  std::vector<std::int64_t> input_shape;
  std::int64_t outputs;
  std::int64_t parameters;  // counted by hand from the papers' tables
};

TEST(Zoo, ParameterCountsAndOutputs) {
  const Count counts[] = {{"lenet5", {1, 28, 28}, 10, 61706},
                          {"lenet5", {3, 32, 32}, 10, 83126},
                          {"lenet5-caffe", {1, 28, 28}, 10, 431080},  // 520 + 25050 + 400500 + 5010, as Caffe counts
                          // Option A of He et al. 2016: 432 + 13,824 + 50,688 + 202,752 convolution weights, 650 of the
                          // last layer, 1,376 of the normalisation.
                          {"resnet20", {3, 32, 32}, 10, 269722},
                          {"resnet20", {1, 28, 28}, 10, 269434},
                          {"mlp:400,400", {1, 28, 28}, 10, 478410},
                          {"mlp:5,5,tanh", {2}, 1, 51},
                          {"mlp:5,5,tanh,nobias", {2}, 1, 40},
                          {"linear", {3}, 2, 8},
                          {"linear:nobias", {3}, 2, 6},
                          {"constant", {3}, 2, 2}};
  for (const Count& count : counts) {
    const ExampleSpec spec = spec_of(count.input_shape);
    Network network(build_module(count.spec, spec, count.outputs, 1));
    EXPECT_EQ(network.layout().parameters(), count.parameters) << count.spec;
    std::vector<std::int64_t> shape = count.input_shape;
    shape.insert(shape.begin(), 3);
    EXPECT_EQ(network.forward(torch::ones(shape)).sizes().vec(), (std::vector<std::int64_t>{3, count.outputs}))
        << count.spec;
  }
}

TEST(Zoo, NormParametersOfResnetAreMarked) {
  Network network(build_module("resnet20", spec_of({3, 32, 32}), 10, 1));
  int norms = 0;
  for (const Slot& slot : network.layout().slots) {
    norms += slot.is_norm ? 1 : 0;
    EXPECT_EQ(slot.is_norm, slot.name.find("bn") != std::string::npos) << slot.name;
  }
  EXPECT_EQ(norms, 2 * 19);
}

TEST(Zoo, MlpsComputeWhatTheirSpecSays) {
  for (const bool tanh : {false, true}) {
    for (const bool bias : {false, true}) {
      const std::string spec = std::string("mlp:4,3") + (tanh ? ",tanh" : ",relu") + (bias ? "" : ",nobias");
      Network network(build_module(spec, spec_of({2}), 2, 1), torch::kFloat64);
      const torch::NoGradGuard no_grad;
      const torch::Tensor arena = waves({network.layout().elements}, 0.7);
      network.bind(arena);
      const torch::Tensor x = waves({6, 2}, 1.9);
      torch::Tensor expected = x;
      for (const char* layer : {"fc1", "fc2", "fc3"}) {
        expected = expected.matmul(part_of(network, arena, std::string(layer) + ".weight").t());
        if (bias) expected = expected + part_of(network, arena, std::string(layer) + ".bias");
        if (std::strcmp(layer, "fc3") != 0) expected = tanh ? torch::tanh(expected) : torch::clamp_min(expected, 0.0);
      }
      EXPECT_LT((network.forward(x) - expected).abs().max().item<double>(), 1e-13) << spec;
    }
  }
}

/// Sample variance of n normal numbers over its expectation has standard deviation sqrt(2 / n); five of them.
void expect_weights(const Network& network, const torch::Tensor& arena, const std::string& name, double variance) {
  const Slot& slot = slot_named(network, name);
  const torch::Tensor values = arena.narrow(0, slot.offset, slot.count).to(torch::kFloat64);
  const auto n = static_cast<double>(slot.count);
  EXPECT_NEAR(values.square().mean().item<double>() / variance, 1.0, 5.0 * std::sqrt(2.0 / n)) << name;
  EXPECT_NEAR(values.mean().item<double>(), 0.0, 5.0 * std::sqrt(variance / n)) << name;
}

TEST(Initialization, VariancesFollowTheRule) {
  const ExampleSpec images = spec_of({1, 28, 28});
  {
    const Network network(build_module("mlp:300,200", images, 10, 5));
    const torch::Tensor arena = network.values();
    expect_weights(network, arena, "fc1.weight", 1.0 / (3.0 * 784));
    expect_weights(network, arena, "fc2.weight", 1.0 / (3.0 * 300));
    expect_weights(network, arena, "fc3.weight", 1.0 / 200);  // nothing follows it
  }
  {
    const Network network(build_module("mlp:300,200,tanh", images, 10, 5));
    const torch::Tensor arena = network.values();
    expect_weights(network, arena, "fc1.weight", 25.0 / 9.0 / 784);
    expect_weights(network, arena, "fc2.weight", 25.0 / 9.0 / 300);
    expect_weights(network, arena, "fc3.weight", 1.0 / 200);
  }
  {
    const Network network(build_module("lenet5", images, 10, 5));
    const torch::Tensor arena = network.values();
    expect_weights(network, arena, "conv1.weight", 1.0 / (3.0 * 25));
    expect_weights(network, arena, "conv2.weight", 1.0 / (3.0 * 150));
    expect_weights(network, arena, "fc1.weight", 1.0 / (3.0 * 400));
  }
}

TEST(Initialization, BiasesAreZeroAndNormsOneAndZero) {
  const Network network(build_module("resnet20", spec_of({3, 32, 32}), 10, 5));
  const torch::Tensor arena = network.values();
  for (const Slot& slot : network.layout().slots) {
    const torch::Tensor values = arena.narrow(0, slot.offset, slot.count);
    if (slot.is_bias) {
      EXPECT_TRUE(values.eq(0).all().item<bool>()) << slot.name;
    } else if (slot.is_norm) {
      EXPECT_TRUE(values.eq(1).all().item<bool>()) << slot.name;
    } else if (slot.name != "fc.weight") {
      expect_weights(network, arena, slot.name, 1.0 / (3.0 * static_cast<double>(slot.fan_in)));
    }
  }
}

TEST(Initialization, IsAFunctionOfTheSeedAlone) {
  const ExampleSpec images = spec_of({1, 28, 28});
  const auto values = [&](std::uint64_t seed, std::uint64_t torch_seed) {
    torch::manual_seed(torch_seed);
    return Network(build_module("lenet5", images, 10, seed)).values();
  };
  const torch::Tensor first = values(7, 1);
  EXPECT_TRUE(torch::equal(first, values(7, 2)));
  const torch::Tensor other = values(8, 1);
  EXPECT_GT((first - other).abs().sum().item<double>(), 0.0);
  // Two tensors of one network do not share their noise.
  const Network mlp(build_module("mlp:8,8,8", spec_of({8}), 8, 3));
  const torch::Tensor arena = mlp.values();
  EXPECT_FALSE(torch::equal(part_of(mlp, arena, "fc1.weight"), part_of(mlp, arena, "fc2.weight")));
}

TEST(Zoo, BadSpecsAreRefused) {
  const ExampleSpec images = spec_of({1, 28, 28});
  for (const char* spec : {"mlp", "mlp:", "mlp:0", "mlp:-3", "mlp:a", "mlp:4.5", "mlp:400,gelu", "mlp:4,", "mlp:tanh",
                           "lenet5:3", "resnet20:x", "linear:bias", "constant:1", "", "resnet-20"}) {
    EXPECT_THROW(build_module(spec, images, 10, 1), UserError) << spec;
  }
  EXPECT_THAT([&] { build_module("lenet", images, 10, 1); }, ThrowsMessage<UserError>(HasSubstr("lenet5")));
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{2}, {28, 28}, {1, 27, 28}, {1, 28, 20}}) {
    for (const char* spec : {"lenet5", "lenet5-caffe", "resnet20"}) {
      EXPECT_THROW(build_module(spec, spec_of(shape), 10, 1), UserError) << spec;
    }
  }
}

TEST(Bfloat16, RoundsProductsAndLeavesEverythingElseInFloat32) {
  torch::manual_seed(1);
  Network network(build_module("mlp:32,tanh", spec_of({64}), 4, 1));
  torch::Tensor arena = network.values();
  network.bind(arena);
  const torch::Tensor inputs = torch::randn({16, 64});
  const torch::Tensor exact = network.forward(inputs).detach();
  network.compute_in_bfloat16();
  std::vector<torch::Tensor> gradients;
  network.set_gradient_sink([&](int, torch::Tensor gradient) { gradients.push_back(std::move(gradient)); });
  const torch::Tensor rounded = network.forward(inputs);
  rounded.square().sum().backward();
  EXPECT_EQ(rounded.scalar_type(), torch::kFloat32);
  ASSERT_EQ(gradients.size(), 4U);
  for (const torch::Tensor& gradient : gradients) EXPECT_EQ(gradient.scalar_type(), torch::kFloat32);
  // Outputs of order one from sums of 64 and 32 terms whose factors have 8 bits, half of 2^-8 of error each.
  const double error = (rounded - exact).abs().max().item<double>();
  EXPECT_GT(error, 1e-6);
  EXPECT_LT(error, 4 * 0x1p-8);
  // Every draw is new: no cast of a parameter may outlive its pass.
  arena.mul_(2.0);
  EXPECT_GT((network.forward(inputs) - rounded).abs().max().item<double>(), 0.1);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(torch::kCPU));
}

TEST(Bfloat16, IsNotForFloat64) {
  Network network(torch::nn::AnyModule(torch::nn::Linear(2, 1)), torch::kFloat64);
  EXPECT_THAT([&] { network.compute_in_bfloat16(); }, ThrowsMessage<UserError>(HasSubstr("float64")));
}

}  // namespace
}  // namespace credence
