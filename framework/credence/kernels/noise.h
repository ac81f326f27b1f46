#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace credence::kernels {

/// What a random number is for. Part of the meaning of a seed: never renumber.
enum class Purpose : std::uint8_t {
  weights = 1,         // eps of a weight draw while training
  data_order = 2,      // permutation of the examples
  augmentation = 3,    // how an example is augmented
  initialization = 4,  // initial weights
  module = 5,          // seed of a module's own generator (dropout layers of a user's network)
  prediction = 6,      // eps of a posterior draw in evaluation
  data = 7,            // generated datasets
  structure = 8,       // masks of a posterior's draw; of one in evaluation too, told apart by step
  signs = 9,           // of Flipout, per example and layer
  activations = 10,    // eps of local reparameterisation, per example and layer
  corruption = 11,     // noise on the pixels of shifted data
  mixing = 12,         // how much of another example mixup adds
  factors = 13         // of a draw's low-rank parts; of one in evaluation too, told apart by step
};

using Counter = std::array<std::uint32_t, 4>;
using Key = std::array<std::uint32_t, 2>;

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
Counter philox4x32_10(Counter counter, Key key);

/// Names one stream of noise. Noise is a pure function of it and of the element's index.
/// Counter = (element, step, shard, sample); key = (seed, purpose): no two streams share a block.
struct NoiseStream {
  std::uint64_t seed = 0;  // below 2^56
  Purpose purpose = Purpose::weights;
  std::uint32_t step = 0;
  std::uint32_t shard = 0;
  std::uint32_t sample = 0;
  bool negate = false;  // the antithetic partner: minus eps

  bool operator==(const NoiseStream&) const = default;

  Key key() const;
};

/// Elements are dealt in groups of 64: element 64 g + 16 w + l is word w of the Philox block whose
/// element counter is 16 g + l. A slot of an arena starts at a multiple of this.
inline constexpr std::int64_t kNoiseGroup = 64;

/// Standard normal number of one element: Box-Muller from correctly rounded operations only, so that
/// plain C++, SIMD and CUDA give the same bits. |eps| < 6.7.
float standard_normal(const NoiseStream& stream, std::int64_t element);

/// Uniform 32-bit word of one element, same dealing as standard_normal.
std::uint32_t random_word(const NoiseStream& stream, std::int64_t element);

/// The words of elements 0, 1, ..., at the price of one Philox block for four.
void random_words(const NoiseStream& stream, std::span<std::uint32_t> words);

}  // namespace credence::kernels
