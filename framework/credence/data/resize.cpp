// Compiled once for each instruction set, for the compiler to vectorise; the one to use is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "credence/data/resize.cpp"
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // no fixed size
#endif
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
void add_rows(const std::uint8_t* rows, std::int64_t row_bytes, const std::int16_t* weights, std::int64_t taps,
              std::int64_t elements, std::int32_t* sum, std::int16_t* to) {
  for (std::int64_t i = 0; i < elements; ++i) sum[i] = weights[0] * rows[i] + (1 << 7);
  std::int64_t k = 1;
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

template <int kChannels, int kWritten>
void add_columns(const ResizeColumns& columns, std::uint8_t* to) {
  std::int64_t x = columns.step > 0 ? 0 : columns.outputs - 1;
  for (std::int64_t i = 0; i < columns.outputs; ++i, x += columns.step, to += kWritten) {
    const std::int16_t* from = columns.row + static_cast<std::int64_t>(columns.first[x]) * kChannels;
    const std::int16_t* const weights = columns.weights + x * columns.taps;
    std::int32_t sum[kChannels];
    for (int c = 0; c < kChannels; ++c) sum[c] = 1 << 19;
    for (std::int64_t k = 0; k < columns.taps; ++k, from += kChannels)
      for (int c = 0; c < kChannels; ++c) sum[c] += weights[k] * from[c];
    for (int c = 0; c < kWritten; ++c) to[c] = static_cast<std::uint8_t>(sum[c] >> 20);
  }
}
void add_columns3(const ResizeColumns& columns, std::uint8_t* to) {
  add_columns<3, 3>(columns, to);
}
void add_columns1(const ResizeColumns& columns, std::uint8_t* to) {
  add_columns<1, 1>(columns, to);
}

#if HWY_MAX_BYTES >= 16
/// Of four channels, the last left out: two taps at a time.
void add_columns4(const ResizeColumns& columns, std::uint8_t* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Full128<std::int16_t> d16;
  const hn::Full128<std::int32_t> d32;
  std::int64_t x = columns.step > 0 ? 0 : columns.outputs - 1;
  for (std::int64_t i = 0; i < columns.outputs; ++i, x += columns.step, to += 3) {
    const std::int16_t* from = columns.row + static_cast<std::int64_t>(columns.first[x]) * 4;
    const std::int16_t* const weights = columns.weights + x * columns.taps;
    auto even = hn::Zero(d32);
    auto odd = hn::Zero(d32);
    for (std::int64_t k = 0; k < columns.taps; k += 2, from += 8) {
      std::int32_t pair;
      std::memcpy(&pair, weights + k, sizeof(pair));
      const auto both = hn::LoadU(d16, from);
      const auto mixed = hn::InterleaveLower(d16, both, hn::ShiftRightBytes<8>(d16, both));
      even = hn::ReorderWidenMulAccumulate(d32, mixed, hn::BitCast(d16, hn::Set(d32, pair)), even, odd);
    }
    const auto sum = hn::Add(hn::RearrangeToOddPlusEven(even, odd), hn::Set(d32, 1 << 19));
    const auto bytes = hn::DemoteTo(hn::Rebind<std::uint8_t, decltype(d32)>(), hn::ShiftRight<20>(sum));
    std::uint32_t pixel = hn::GetLane(hn::BitCast(hn::Rebind<std::uint32_t, hn::Full32<std::uint32_t>>(), bytes));
    if (i + 1 < columns.outputs) {
      std::memcpy(to, &pixel, 4);  // the fourth byte is written again by the next
    } else {
      std::memcpy(to, &pixel, 3);
    }
  }
}
#else
void add_columns4(const ResizeColumns& columns, std::uint8_t* to) {
  add_columns<4, 3>(columns, to);
}
#endif

}  // namespace credence::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace credence {

HWY_EXPORT(add_rows);
HWY_EXPORT(add_columns4);
HWY_EXPORT(add_columns3);
HWY_EXPORT(add_columns1);

namespace {

constexpr int kUnit = 1 << 14;  // the weights of one output sum to it

}  // namespace

void Resizer::plan(const ResizeAxis& axis, std::int64_t size, Taps& taps) {
  const double scale = axis.length / static_cast<double>(axis.outputs);
  const double support = std::max(scale, 1.0);
  taps.count = std::min(static_cast<std::int64_t>(std::floor(2.0 * support)) + 1, size);
  taps.stride = (taps.count + 1) / 2 * 2;
  taps.first.assign(static_cast<std::size_t>(axis.outputs), 0);
  taps.weights.assign(static_cast<std::size_t>(axis.outputs * taps.stride), 0);
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
    std::int16_t* const weights = taps.weights.data() + i * taps.stride + (low - first);
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
  sum_.resize(static_cast<std::size_t>(elements));
  row_.resize(static_cast<std::size_t>(elements + from.channels));  // a weight of zero may meet one pixel more
  const int channels = from.channels == 4 ? 3 : from.channels;
  const auto add = from.channels == 4   ? HWY_DYNAMIC_DISPATCH(add_columns4)
                   : from.channels == 3 ? HWY_DYNAMIC_DISPATCH(add_columns3)
                                        : HWY_DYNAMIC_DISPATCH(add_columns1);
  for (std::int64_t y = 0; y < vertical.outputs; ++y, to += horizontal.outputs * channels) {
    const std::int64_t first = rows_.first[static_cast<std::size_t>(y)];
    HWY_DYNAMIC_DISPATCH(add_rows)
    (from.data + first * from.row_bytes, from.row_bytes, rows_.weights.data() + y * rows_.stride, rows_.count, elements,
     sum_.data(), row_.data());
    add({.row = row_.data(),
         .first = columns_.first.data(),
         .weights = columns_.weights.data(),
         .taps = columns_.stride,
         .outputs = horizontal.outputs,
         .step = horizontal.mirrored ? -1 : 1},
        to);
  }
}

}  // namespace credence

#endif
