#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "credence/checkpoint/checkpoint.h"

namespace credence::testing {

/// A directory of the test's own, gone with this object.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "credence-checkpoint-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Checkpoint contents together with the memory that they show.
struct Sample {
  CheckpointContents contents;
  std::deque<std::vector<std::byte>> memory;

  template <class T>
  void add(const std::string& name, std::vector<std::int64_t> shape, const std::vector<T>& values) {
    memory.emplace_back(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(memory.back().data(), values.data(), memory.back().size());
    contents.arrays.push_back({name, dtype_of<T>, std::move(shape), memory.back().data()});
  }
};

/// A small run at `step`: every group of the format, every type, scalar and empty arrays. Different steps differ in
/// every array.
inline Sample make_sample(std::int64_t step = 1200) {
  Sample sample;
  auto& attributes = sample.contents.attributes;
  attributes["step"] = step;
  attributes["epoch"] = 2.5;
  attributes["seed"] = std::int64_t{-7};
  attributes["shards"] = std::int64_t{4};
  attributes["world_size"] = std::int64_t{2};
  attributes["dataset_size"] = std::int64_t{60000};
  attributes["network"] = std::string("lenet5 \xc3\xa9");
  sample.contents.config = "network = lenet5\nlr = 0.005\n";
  sample.contents.array_attributes["posterior/fc1.weight"]["prior"] = std::string("normal:1");
  sample.contents.array_attributes["optimizer/adam"]["updates"] = step;
  sample.contents.array_attributes["history/elbo"]["unit"] = std::string("nats");
  const auto s = static_cast<float>(step);
  sample.add<float>("posterior/fc1.weight/mean", {2, 3}, {0.5f + s, -1.f, 2.f, 3.f, -0.f, 1e-38f});
  sample.add<float>("posterior/fc1.weight/scale", {2, 3}, {s, .2f, .3f, .4f, .5f, .6f});
  sample.add<float>("posterior/fc1.weight/raw_scale", {2, 3}, {-s, -4.f, -3.f, -2.f, -1.f, 0.f});
  sample.add<double>("posterior/bias/mean", {}, {1.0 / 3.0 + s});
  sample.add<std::int64_t>("buffers/bn.num_batches_tracked", {}, {step});
  sample.add<std::uint8_t>("buffers/mask", {5}, {1, 0, 255, 7, static_cast<std::uint8_t>(step)});
  sample.add<float>("buffers/empty", {0, 4}, {});
  sample.add<float>("optimizer/first_moment/fc1.weight", {2, 3}, {1, 2, 3, 4, 5, s});
  sample.add<double>("history/step", {3}, {1, 2, 3});
  sample.add<double>("history/elbo", {3}, {-3.0 - s, -2.0, -1.0});
  return sample;
}

inline std::vector<char> bytes_of_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::filesystem::path& file, const std::vector<char>& bytes) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::vector<std::byte> read_array(const Checkpoint& checkpoint, ArrayView array) {
  std::vector<std::byte> bytes(array.bytes());
  array.data = bytes.data();
  checkpoint.read(array);
  return bytes;
}

/// Everything in the file equals the sample, bit for bit.
inline void expect_equal(const Checkpoint& checkpoint, const CheckpointContents& contents) {
  EXPECT_EQ(checkpoint.config(), contents.config);
  for (const auto& [name, value] : contents.attributes) EXPECT_EQ(checkpoint.attributes().at(name), value) << name;
  EXPECT_EQ(checkpoint.attributes().size(), contents.attributes.size() + 3);
  for (const auto& [path, attributes] : contents.array_attributes) {
    EXPECT_EQ(checkpoint.attributes_of(path), attributes) << path;
  }
  ASSERT_EQ(checkpoint.arrays().size(), contents.arrays.size());
  for (const ArrayView& array : contents.arrays) {
    ASSERT_TRUE(checkpoint.contains(array.name)) << array.name;
    const auto bytes = read_array(checkpoint, array);
    EXPECT_TRUE(bytes.empty() || std::memcmp(bytes.data(), array.data, bytes.size()) == 0) << array.name;
  }
}

/// The message of the error that `call` throws; fails the test where it throws none or another kind.
template <class Kind, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Kind& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace credence::testing
