// Compiled once for each instruction set, for the compiler to vectorise; the one to use is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "credence/data/resize.cpp"
#include "credence/data/resize.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "credence/base/errors.h"

HWY_BEFORE_NAMESPACE();
namespace credence::HWY_NAMESPACE {

/// to[i] = sum over k of weights[k] * rows[k][i], 14 bits before the point and 6 behind kept.
void AddRows(const std::uint8_t* rows, std::int64_t row_bytes, const std::int16_t* weights, int taps,
             std::int64_t elements, std::int32_t* sum, std::int16_t* to) {
  for (std::int64_t i = 0; i < elements; ++i) sum[i] = weights[0] * rows[i] + (1 << 7);
  int k = 1;
  for (; k + 1 < taps; k += 2) {
    const std::uint8_t* const a = rows + k * row_bytes;
    const std::uint8_t* const b = a + row_bytes;
    const std::int32_t wa = weights[k];
    const std::int32_t wb = weights[k + 1];
    for (std::int64_t i = 0; i < elements; ++i) sum[i] += wa * a[i] + wb * b[i];
  }
  if (k < taps) {
    const std::uint8_t* const a = rows + k * row_bytes;
    const std::int32_t wa = weights[k];
    for (std::int64_t i = 0; i < elements; ++i) sum[i] += wa * a[i];
  }
  for (std::int64_t i = 0; i < elements; ++i) to[i] = static_cast<std::int16_t>(sum[i] >> 8);
}

template <int kFrom, int kTo>
void AddColumns(const std::int16_t* row, const std::int32_t* first, const std::int16_t* weights, int taps,
                std::int64_t outputs, std::uint8_t* to) {
  for (std::int64_t x = 0; x < outputs; ++x, weights += taps, to += kTo) {
    const std::int16_t* from = row + static_cast<std::int64_t>(first[x]) * kFrom;
    std::int32_t sum[kFrom];
    for (int c = 0; c < kFrom; ++c) sum[c] = 1 << 19;
    for (int k = 0; k < taps; ++k, from += kFrom)
      for (int c = 0; c < kFrom; ++c) sum[c] += weights[k] * from[c];
    for (int c = 0; c < kTo; ++c) to[c] = static_cast<std::uint8_t>(sum[c] >> 20);
  }
}

void AddColumns4(const std::int16_t* row, const std::int32_t* first, const std::int16_t* weights, int taps,
                 std::int64_t outputs, std::uint8_t* to) {
  AddColumns<4, 3>(row, first, weights, taps, outputs, to);
}
void AddColumns3(const std::int16_t* row, const std::int32_t* first, const std::int16_t* weights, int taps,
                 std::int64_t outputs, std::uint8_t* to) {
  AddColumns<3, 3>(row, first, weights, taps, outputs, to);
}
void AddColumns1(const std::int16_t* row, const std::int32_t* first, const std::int16_t* weights, int taps,
                 std::int64_t outputs, std::uint8_t* to) {
  AddColumns<1, 1>(row, first, weights, taps, outputs, to);
}

}  // namespace credence::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace credence {

HWY_EXPORT(AddRows);
HWY_EXPORT(AddColumns4);
HWY_EXPORT(AddColumns3);
HWY_EXPORT(AddColumns1);

namespace {

constexpr int kUnit = 1 << 14;  // the weights of one output sum to it

}  // namespace

void Resizer::plan(const ResizeAxis& axis, std::int64_t size, Taps& taps) {
  const double scale = axis.length / static_cast<double>(axis.outputs);
  const double support = std::max(scale, 1.0);
  taps.count = static_cast<int>(std::min<std::int64_t>(static_cast<std::int64_t>(std::floor(2.0 * support)) + 1, size));
  taps.first.assign(static_cast<std::size_t>(axis.outputs), 0);
  taps.weights.assign(static_cast<std::size_t>(axis.outputs * taps.count), 0);
  std::vector<double> exact(static_cast<std::size_t>(taps.count));
  for (std::int64_t i = 0; i < axis.outputs; ++i) {
    const double center = axis.begin + (static_cast<double>(i) + 0.5) * scale;
    auto low = std::max(static_cast<std::int64_t>(std::floor(center - support + 0.5)), axis.low);
    const auto high = std::min(static_cast<std::int64_t>(std::floor(center + support + 0.5)), axis.high);
    low = std::clamp<std::int64_t>(low, axis.low, axis.high - 1);
    const auto used = std::clamp<std::int64_t>(high - low, 1, taps.count);
    double total = 0.0;
    for (std::int64_t k = 0; k < used; ++k) {
      const double distance = std::abs(static_cast<double>(low + k) + 0.5 - center) / support;
      exact[static_cast<std::size_t>(k)] = std::max(1.0 - distance, used == 1 ? 1.0 : 0.0);
      total += exact[static_cast<std::size_t>(k)];
    }
    // So that the padding with zeros stays inside the source, too.
    const std::int64_t first = std::clamp<std::int64_t>(low, 0, size - taps.count);
    std::int16_t* const weights = taps.weights.data() + i * taps.count + (low - first);
    std::int64_t largest = 0;
    int left = kUnit;
    for (std::int64_t k = 0; k < used; ++k) {
      weights[k] = static_cast<std::int16_t>(std::nearbyint(exact[static_cast<std::size_t>(k)] / total * kUnit));
      left -= weights[k];
      if (weights[k] > weights[largest]) largest = k;
    }
    weights[largest] = static_cast<std::int16_t>(weights[largest] + left);
    taps.first[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(first);
  }
}

void Resizer::resize(const PixelView& from, const ResizeAxis& vertical, const ResizeAxis& horizontal,
                     std::uint8_t* to) {
  ensure(vertical.low >= 0 && vertical.low < vertical.high && vertical.high <= from.height, "rows to read are missing");
  ensure(horizontal.low >= 0 && horizontal.low < horizontal.high && horizontal.high <= from.width,
         "columns to read are missing");
  plan(vertical, from.height, rows_);
  plan(horizontal, from.width, columns_);
  const std::int64_t elements = from.width * from.channels;
  row_.resize(static_cast<std::size_t>(elements));
  sum_.resize(static_cast<std::size_t>(elements));
  const int channels = from.channels == 4 ? 3 : from.channels;
  for (std::int64_t y = 0; y < vertical.outputs; ++y, to += horizontal.outputs * channels) {
    HWY_DYNAMIC_DISPATCH(AddRows)
    (from.data + rows_.first[static_cast<std::size_t>(y)] * from.row_bytes, from.row_bytes,
     rows_.weights.data() + y * rows_.count, rows_.count, elements, sum_.data(), row_.data());
    const auto add = from.channels == 4   ? HWY_DYNAMIC_DISPATCH(AddColumns4)
                     : from.channels == 3 ? HWY_DYNAMIC_DISPATCH(AddColumns3)
                                          : HWY_DYNAMIC_DISPATCH(AddColumns1);
    add(row_.data(), columns_.first.data(), columns_.weights.data(), columns_.count, horizontal.outputs, to);
  }
}

}  // namespace credence

#endif
