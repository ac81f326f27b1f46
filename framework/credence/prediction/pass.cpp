#include "credence/prediction/pass.h"

#include <numeric>
#include <vector>

#include "credence/base/errors.h"

namespace credence {
namespace {

/// Weight draws use step 0 of this purpose; what else a module draws (dropout that stays on) uses step 1.
void seed_module(std::uint64_t seed, int draw, std::int64_t block) {
  const kernels::NoiseStream stream{.seed = seed,
                                    .purpose = kernels::Purpose::prediction,
                                    .step = 1,
                                    .shard = static_cast<std::uint32_t>(block),
                                    .sample = static_cast<std::uint32_t>(draw)};
  torch::manual_seed((std::uint64_t{kernels::random_word(stream, 0)} << 32) | kernels::random_word(stream, 1));
}

}  // namespace

void pass(const PassParts& parts, int draw, std::span<const Subject> subjects) {
  Batch batch;
  std::vector<std::int64_t> indices;
  for (const Subject& subject : subjects) {
    const BlockShare& share = subject.share;
    for (std::int64_t block = share.first_block; block < share.end_block; ++block) {
      indices.resize(static_cast<std::size_t>(share.end(block) - share.begin(block)));
      std::iota(indices.begin(), indices.end(), subject.first + share.begin(block));
      const ExampleSpec& spec = subject.source.spec();
      subject.source.read(indices, batch);
      if (is_generative(parts.likelihood)) normalize(spec, batch);  // the likelihood compares with them
      seed_module(parts.seed, draw, block);
      torch::Tensor outputs =
          parts.network.forward(input_tensor(batch, spec, parts.network.dtype(), parts.network.device()));
      require(outputs.dim() == 2 && outputs.size(0) == batch.size && outputs.size(1) == columns_read(parts.likelihood),
              "the network gives {} values for {} examples where the likelihood needs {} for each", outputs.numel(),
              batch.size, columns_read(parts.likelihood));
      subject.take({draw, block, share.begin(block) - share.first_row(), std::move(outputs), batch});
      parts.communicator.progress();
    }
  }
}

void draw_for_prediction(Network& network, Posterior& posterior, std::uint64_t seed, int draw) {
  const int members = posterior.plan().members;
  posterior.draw(
      {.seed = seed, .purpose = kernels::Purpose::prediction, .sample = static_cast<std::uint32_t>(draw / members)});
  const torch::Tensor weights = posterior.network_weights(draw % members);
  if (posterior.linearized()) {
    network.bind_linearized(weights, posterior.member_part(posterior.mean_weights(), draw % members));
  } else {
    network.bind(weights);
  }
}

int prediction_draws(const Posterior& posterior, int samples) {
  const int members = posterior.plan().members;
  return (posterior.is_random() ? (samples + members - 1) / members : 1) * members;
}

EvaluationMode::EvaluationMode(Network& network, const Posterior& posterior)
    : network_(network), posterior_(posterior), was_training_(network.module().is_training()) {
  network_.module().eval();
  network_.bind(posterior_.network_weights());
}

EvaluationMode::~EvaluationMode() {
  network_.bind(posterior_.network_weights());
  network_.module().train(was_training_);
}

}  // namespace credence
