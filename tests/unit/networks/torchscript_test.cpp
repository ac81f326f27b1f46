// TorchScript modules as networks, against the same operations by hand.
#include "credence/networks/torchscript.h"

#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/base/zip_archive.h"
#include "credence/networks/network.h"
#include "credence/networks/zoo.h"
#include "unit/checkpoint/mutations.h"
#include "unit/networks/uniform.h"

namespace credence {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double kMomentum = 0.25;

torch::Tensor waves(at::IntArrayRef shape, double rate) {
  return torch::sin(torch::arange(c10::multiply_integers(shape), torch::kFloat64) * rate + 0.3)
      .view(shape)
      .to(torch::kFloat32);
}

/// As torch.jit.script has a network of a convolution, batch norm and a linear layer, of 2 x 5 x 5 inputs and 3
/// outputs.
torch::jit::Module script() {
  torch::jit::Module norm("__torch__.torch.nn.modules.batchnorm.BatchNorm2d");
  norm.register_parameter("weight", torch::ones({4}).requires_grad_(), false);
  norm.register_parameter("bias", torch::zeros({4}).requires_grad_(), false);
  norm.register_buffer("running_mean", torch::zeros({4}));
  norm.register_buffer("running_var", torch::ones({4}));
  norm.register_attribute("momentum", c10::FloatType::get(), kMomentum);
  norm.register_attribute("training", c10::BoolType::get(), true);
  norm.define(R"(
    def forward(self, x):
        return torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.training,
                                self.momentum, 1e-5, False)
  )");
  torch::jit::Module network("__torch__.Network");
  network.register_parameter("kernel", waves({4, 2, 3, 3}, 0.9).requires_grad_(), false);
  network.register_parameter("head", waves({3, 36}, 1.7).requires_grad_(), false);
  network.register_attribute("training", c10::BoolType::get(), true);
  network.register_module("norm", norm);
  network.define(R"(
    def forward(self, x):
        y = torch.relu(self.norm.forward(torch.conv2d(x, self.kernel)))
        return torch.matmul(torch.flatten(y, 1), torch.t(self.head))
  )");
  return network;
}

class TorchScript : public ::testing::Test {
 protected:
  TorchScript() : file_((std::filesystem::temp_directory_path() / ("credence-" + std::to_string(::getpid()) + ".pt"))) {
    script().save(file_);
    spec_.input_shape = {2, 5, 5};
  }
  ~TorchScript() override { std::filesystem::remove(file_); }

  torch::nn::AnyModule module(std::int64_t outputs = 3) {
    return build_module("torchscript:" + file_, spec_, outputs, 1);
  }

  std::string file_;
  ExampleSpec spec_;
};

const Slot& slot_named(const Network& network, const std::string& name) {
  for (const Slot& slot : network.layout().slots) {
    if (slot.name == name) return slot;
  }
  throw std::runtime_error("no slot " + name);
}

TEST_F(TorchScript, ParametersAreThoseOfTheArena) {
  for (const torch::Dtype dtype : {torch::kFloat32, torch::kFloat64}) {
    Network network(module(), dtype);
    ASSERT_EQ(network.layout().slots.size(), 4U);
    EXPECT_TRUE(slot_named(network, "norm.weight").is_norm);
    EXPECT_TRUE(slot_named(network, "norm.bias").is_norm && slot_named(network, "norm.bias").is_bias);
    EXPECT_FALSE(slot_named(network, "kernel").is_norm);
    EXPECT_TRUE(normalizes_over_batch(network.module()));
    torch::Tensor arena = network.values();
    network.bind(arena);
    const auto part = [&](const std::string& name) {
      const Slot& slot = slot_named(network, name);
      return arena.narrow(0, slot.offset, slot.count).view(slot.shape);
    };
    EXPECT_TRUE(torch::equal(part("head"), waves({3, 36}, 1.7).to(dtype)));
    arena.mul_(-1.5);  // seen by the script, or its outputs are others
    const torch::Tensor x = waves({6, 2, 5, 5}, 1.3).to(dtype);
    const torch::Tensor kernel = part("kernel").clone().requires_grad_();
    const torch::Tensor head = part("head").clone().requires_grad_();
    torch::Tensor gradient;
    network.set_gradient_sink([&](int slot, const torch::Tensor& value) {
      if (network.layout().slots[static_cast<std::size_t>(slot)].name == "kernel") gradient = value;
    });
    for (int pass = 0; pass < 4; ++pass) {  // optimised executors take over after the first
      const torch::Tensor mean = torch::zeros({4}, dtype), variance = torch::ones({4}, dtype);
      const torch::Tensor y = torch::batch_norm(torch::conv2d(x, kernel), part("norm.weight"), part("norm.bias"), mean,
                                                variance, true, kMomentum, 1e-5, false);
      const torch::Tensor expected = torch::relu(y).flatten(1).matmul(head.t());
      const torch::Tensor outputs = network.forward(x);
      EXPECT_TRUE(torch::equal(outputs, expected)) << pass;
      kernel.mutable_grad() = torch::Tensor();
      expected.square().sum().backward();
      outputs.square().sum().backward();
      EXPECT_TRUE(torch::equal(gradient, kernel.grad())) << pass;
      if (pass > 0) continue;
      for (const auto& [name, buffer] : network.float_buffers()) {
        EXPECT_TRUE(torch::equal(buffer, name == "norm.running_mean" ? mean : variance)) << name;
      }
    }
  }
}

TEST_F(TorchScript, EvaluationUsesTheRunningStatistics) {
  Network network(module(), torch::kFloat64);
  network.module().eval();
  const torch::NoGradGuard no_grad;
  torch::Tensor buffers = network.buffer_arena();
  buffers.fill_(4.0);  // mean and variance
  const torch::Tensor x = waves({2, 2, 5, 5}, 1.3).to(torch::kFloat64);
  const torch::Tensor y =
      (torch::conv2d(x, waves({4, 2, 3, 3}, 0.9).to(torch::kFloat64)) - 4.0) / std::sqrt(4.0 + 1e-5);
  const torch::Tensor expected = y.clamp_min(0).flatten(1).matmul(waves({3, 36}, 1.7).to(torch::kFloat64).t());
  EXPECT_LT((network.forward(x) - expected).abs().max().item<double>(), 1e-12);
  EXPECT_LT((network.forward(x.narrow(0, 1, 1)) - expected.narrow(0, 1, 1)).abs().max().item<double>(), 1e-12);
}

/// A network that torchvision made and a script exported, and what it computed there.
TEST(ExportedByTorchvision, ComputesTheSameNumbers) {
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(CREDENCE_REFERENCES "/networks/shufflenet.json"));
  ExampleSpec spec;
  spec.input_shape = {3, 32, 32};
  Network network(build_module("torchscript:" CREDENCE_REFERENCES "/networks/shufflenet.pt", spec, 2, 1),
                  torch::kFloat64);
  EXPECT_EQ(network.layout().parameters(), expected["parameters"].get<std::int64_t>());
  std::set<std::string> names;
  for (const Slot& slot : network.layout().slots) names.insert(slot.name);
  EXPECT_EQ(names, expected["names"].get<std::set<std::string>>());
  const auto near = [&](const torch::Tensor& values, const std::string& what) {
    const torch::Tensor numbers = torch::tensor(expected[what].get<std::vector<double>>(), torch::kFloat64);
    const torch::Tensor error = (values.flatten() - numbers).abs().max() / numbers.abs().max();
    EXPECT_LT(error.item<double>(), 1e-10) << what;  // 20 layers, of which each may lose a digit in the next one's norm
  };
  const torch::Tensor x = test::uniform("input", 2 * 3 * 32 * 32).view({2, 3, 32, 32});
  network.module().eval();
  near(network.forward(x), "evaluated");
  network.module().train();
  torch::Tensor first;
  network.set_gradient_sink([&](int slot, const torch::Tensor& gradient) {
    if (network.layout().slots[static_cast<std::size_t>(slot)].name == "conv1.0.weight") first = gradient;
  });
  const torch::Tensor logits = network.forward(x);
  near(logits, "trained");
  torch::nn::functional::cross_entropy(logits, torch::tensor({0, 1})).backward();
  near(first.flatten().narrow(0, 0, 8), "first_gradient");
  for (const auto& [name, buffer] : network.float_buffers()) {
    if (name == "conv1.1.running_mean") near(buffer, "running_mean");
  }
}

TEST_F(TorchScript, RefusesWhatDoesNotFit) {
  EXPECT_THAT([&] { module(10); },
              ThrowsMessage<UserError>(HasSubstr("[2, 3] for two examples, and [2, 10] is needed")));
  spec_.input_shape = {1, 5, 5};
  EXPECT_THAT([&] { module(); }, ThrowsMessage<UserError>(HasSubstr("fails on inputs [2, 1, 5, 5]")));
  EXPECT_THAT([&] { build_module("torchscript:/none.pt", spec_, 3, 1); },
              ThrowsMessage<DataError>(HasSubstr("no such file")));
  std::ofstream(file_, std::ios::trunc) << "no archive";
  EXPECT_THAT([&] { module(); }, ThrowsMessage<DataError>(HasSubstr("is no TorchScript module")));
}

/// Files that are damaged or made to harm: the result is the network that was saved, or a DataError of one line.
class DamagedTorchScript : public TorchScript {
 protected:
  using Bytes = std::vector<char>;
  DamagedTorchScript() : good_(content_of(file_)) {}

  static Bytes content_of(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  Bytes entry(const std::string& name) const {
    std::ofstream(file_, std::ios::binary).write(good_.data(), static_cast<std::streamsize>(good_.size()));
    const ZipArchive archive(file_);
    for (const auto& [full, entry] : archive.entries()) {
      if (!full.ends_with("/" + name)) continue;
      const auto bytes = archive.read(full, entry.bytes);
      const auto* const begin = reinterpret_cast<const char*>(bytes.data());
      return {begin, begin + bytes.size()};
    }
    throw std::runtime_error("no entry " + name);
  }
  /// What the file loads as; empty where it is refused.
  std::optional<ScriptModule> load(const Bytes& bytes) {
    std::ofstream(file_, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const Stopwatch watch;
    std::optional<ScriptModule> network;
    try {
      network = load_script(file_);
    } catch (const DataError& error) {
      last_refusal_ = error.what();
      EXPECT_THAT(last_refusal_, HasSubstr("is no TorchScript module"));
      EXPECT_THAT(last_refusal_, ::testing::Not(HasSubstr("\n")));
    }
    EXPECT_LT(watch.seconds(), 30.0);
    return network;
  }
  /// The file with another content of an entry, its checksum right.
  std::optional<ScriptModule> load_with(const std::string& name, const Bytes& bytes) {
    std::map<std::string, Bytes> entries;
    {
      std::ofstream(file_, std::ios::binary | std::ios::trunc)
          .write(good_.data(), static_cast<std::streamsize>(good_.size()));
      caffe2::serialize::PyTorchStreamReader reader(file_);
      for (const std::string& record : reader.getAllRecords()) {
        const auto [data, size] = reader.getRecord(record);
        const auto* const begin = static_cast<const char*>(data.get());
        entries[record] = {begin, begin + size};
      }
    }
    entries.at(name) = bytes;
    {
      caffe2::serialize::PyTorchStreamWriter writer(file_);
      for (const auto& [record, content] : entries) {
        if (record == "version" || record == "byteorder" || record.starts_with(".")) continue;  // its own
        writer.writeRecord(record, content.data(), content.size());
      }
      writer.writeEndOfFile();
    }
    return load(content_of(file_));
  }

  Bytes good_;
  std::string last_refusal_;
};

TEST_F(DamagedTorchScript, FlippedBitsAndCutsAreFound) {
  const auto parameters = [](ScriptModule& network) { return network->named_parameters(); };
  std::optional<ScriptModule> whole = load(good_);
  ASSERT_TRUE(whole);
  const auto expected = parameters(*whole);
  int refused = 0;
  constexpr std::size_t kFlips = 400;
  for (std::size_t i = 0; i < kFlips; ++i) {
    Bytes bytes = good_;
    bytes[i * bytes.size() / kFlips] ^= static_cast<char>(1 << i % 8);
    std::optional<ScriptModule> network = load(bytes);
    refused += network ? 0 : 1;
    if (!network) continue;  // else it was in what nobody reads
    for (const auto& item : parameters(*network)) EXPECT_TRUE(torch::equal(item.value(), expected[item.key()])) << i;
  }
  EXPECT_GT(refused, static_cast<int>(kFlips) / 4);
  for (std::size_t i = 0; i < 100; ++i) {
    const std::size_t size = i * good_.size() / 100;
    EXPECT_FALSE(load(Bytes(good_.begin(), good_.begin() + static_cast<std::ptrdiff_t>(size)))) << size;
  }
}

TEST_F(DamagedTorchScript, WhatLeadsLibTorchAstrayIsRefused) {
  const auto pickle = [](const std::string& text) { return Bytes(text.begin(), text.end()); };
  const std::string begin = "\x80\x02";
  // A list in a list in a list ...: nobody can take it apart again by recursion.
  EXPECT_FALSE(load_with("data.pkl", pickle(begin + std::string(1'000'000, ']') + std::string(999'999, 'a') + ".")));
  EXPECT_FALSE(load_with("data.pkl", pickle(begin)));
  EXPECT_FALSE(load_with("data.pkl", pickle(begin + "]."))) << "no module";
  EXPECT_FALSE(load_with("data.pkl", pickle(begin + "X\xff\xff\xff\x7f."))) << "a text of 2 GiB";
  EXPECT_FALSE(load_with("data.pkl", pickle(begin + "j\xff\xff\xff\x7f."))) << "a memory far behind the last";
  EXPECT_FALSE(load_with("constants.pkl", pickle(begin + "t.")));
  const Bytes original = entry("data.pkl");
  std::string wide(original.begin(), original.end());
  const std::size_t head = wide.find("K\x03K\x24");  // its shape, 3 x 36
  ASSERT_NE(head, std::string::npos);
  wide[head + 3] = '\xf0';
  EXPECT_FALSE(load_with("data.pkl", pickle(wide)));
  EXPECT_THAT(last_refusal_, HasSubstr("the tensor 'head' is larger than its storage"));
}

TEST_F(DamagedTorchScript, MutatedPicklesNeverCrash) {
  // CREDENCE_FUZZ_SECONDS=600 tries for longer, with other mutations.
  const char* const given = std::getenv("CREDENCE_FUZZ_SECONDS");
  const double seconds = given != nullptr ? std::atof(given) : 0.0;
  const Bytes original = entry("data.pkl");
  testing::Mutations mutations(original, given != nullptr ? std::random_device()() : 1);
  const Stopwatch watch;
  int tried = 0, refused = 0, died = 0;
  for (; seconds > 0.0 ? watch.seconds() < seconds : tried < 200; ++tried) {
    if (load_with("data.pkl", mutations.next())) continue;
    ++refused;
    died += last_refusal_.find("process died") != std::string::npos ? 1 : 0;
  }
  EXPECT_GT(refused, tried / 4);
  RecordProperty("tried", tried);
  RecordProperty("refused", refused);
  RecordProperty("died", died);
}

}  // namespace
}  // namespace credence
