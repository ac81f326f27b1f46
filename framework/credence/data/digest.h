#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "credence/data/data_source.h"

struct XXH3_state_s;

namespace credence {

/// XXH3-128 of a dataset: kind and number of the examples, then whatever bytes they are kept in.
class ContentDigest {
 public:
  ContentDigest(const ExampleSpec& spec, std::int64_t examples);
  ~ContentDigest();
  ContentDigest(const ContentDigest&) = delete;
  ContentDigest& operator=(const ContentDigest&) = delete;

  template <class T>
  void add(std::span<const T> values) {
    static_assert(std::is_arithmetic_v<T>);
    add_bytes(values.data(), values.size_bytes());
  }
  std::string hexadecimal() const;  // 32 digits

 private:
  void add_bytes(const void* data, std::size_t bytes);
  XXH3_state_s* state_;
};

}  // namespace credence
