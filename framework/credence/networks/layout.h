#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace credence {

/// One parameter tensor of a network and its place in the flat arenas.
struct Slot {
  std::string name;  // "fc1.weight"
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;  // first element in every arena, a multiple of kernels::kNoiseGroup
  std::int64_t count = 0;
  std::int64_t fan_in = 1;  // inputs of one unit of the layer; a bias has its layer's
  bool is_bias = false;
  bool is_norm = false;                       // scale or shift of a normalisation layer
  bool is_likelihood = false;                 // of the likelihood, not of the module: observation noise
  bool is_amortized = false;                  // of q of an example's own latent variables: an encoder
  bool is_deviation = false;                  // what groups add to shared weights
  std::vector<double> categorical_log_prior;  // where it holds the logits of q over a latent variable: log p, nats
  std::string array;  // which further array of the tensor `name` a posterior adds ("factor"); empty: the weights

  /// Point estimates without a prior unless a rule names them.
  bool point_by_default() const { return is_norm || is_likelihood || is_amortized; }
};

/// The one order of parameters: arenas, buckets, optimizer state and checkpoints follow it.
struct Layout {
  std::vector<Slot> slots;
  std::int64_t elements = 0;  // of an arena, padding included

  std::int64_t parameters() const;            // without padding
  std::vector<std::int64_t> offsets() const;  // of the slots
};

}  // namespace credence
