#include "credence/prediction/pass.h"

#include <algorithm>
#include <numeric>
#include <utility>

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

std::int64_t bytes_of_example(const DataSource& source, const Likelihood& likelihood) {
  const bool pixels = source.as_images() != nullptr && !is_generative(likelihood);
  return source.spec().input_elements() * static_cast<std::int64_t>(pixels ? sizeof(std::uint8_t) : sizeof(float));
}

std::function<void(const BlockOutputs&)> taker(const Subject& subject, int kind) {
  const auto k = static_cast<std::size_t>(kind);
  return k < subject.take.size() ? subject.take[k] : nullptr;
}

}  // namespace

Chunks::Chunks(const PassParts& parts, std::vector<Subject> subjects, std::int64_t bytes)
    : parts_(parts), subjects_(std::move(subjects)) {
  std::int64_t kept = 0;
  for (std::size_t i = 0; i < subjects_.size(); ++i) {
    const auto& [source, share, take, first] = subjects_[i];
    const std::int64_t of_example = bytes_of_example(source, parts_.likelihood);
    for (std::int64_t block = share.first_block; block < share.end_block; ++block) {
      const std::int64_t more = (share.end(block) - share.begin(block)) * of_example;
      if (kept > 0 && kept + more > bytes) {
        ends_.push_back(blocks_.size());
        kept = 0;
      }
      blocks_.push_back({i, block});
      kept += more;
    }
  }
  ends_.push_back(blocks_.size());
}

std::span<const Chunks::Block> Chunks::blocks_of(int chunk) const {
  const auto c = static_cast<std::size_t>(chunk);
  const std::size_t begin = c == 0 ? 0 : ends_[c - 1];
  return std::span(blocks_).subspan(begin, ends_[c] - begin);
}

bool Chunks::is_for(int chunk, int kind) const {
  const auto blocks = blocks_of(chunk);
  return blocks.empty() || std::ranges::any_of(blocks, [&](const Block& block) {
           return static_cast<bool>(taker(subjects_[block.subject], kind));
         });
}

void Chunks::read(int chunk) {
  if (kept_ == chunk) return;
  kept_ = -1;
  const auto blocks = blocks_of(chunk);
  batches_.resize(blocks.size());
  std::vector<std::int64_t> indices;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto& [source, share, take, first] = subjects_[blocks[i].subject];
    indices.resize(static_cast<std::size_t>(share.end(blocks[i].index) - share.begin(blocks[i].index)));
    std::iota(indices.begin(), indices.end(), first + share.begin(blocks[i].index));
    source.read(indices, batches_[i]);
    if (is_generative(parts_.likelihood)) normalize(source.spec(), batches_[i]);  // the likelihood compares with them
    parts_.communicator.progress();
  }
  kept_ = chunk;
}

void Chunks::pass(int chunk, int kind, int draw) {
  read(chunk);
  const auto blocks = blocks_of(chunk);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const Subject& subject = subjects_[blocks[i].subject];
    const auto take = taker(subject, kind);
    if (!take) continue;
    const Batch& batch = batches_[i];
    seed_module(parts_.seed, draw, blocks[i].index);
    torch::Tensor outputs = parts_.network.forward(
        input_tensor(batch, subject.source.spec(), parts_.network.dtype(), parts_.network.device()));
    const std::int64_t columns = columns_read(parts_.likelihood);
    require(outputs.dim() == 2 && outputs.size(0) == batch.size && outputs.size(1) == columns,
            "the network gives {} values for {} examples where the likelihood needs {} for each", outputs.numel(),
            batch.size, columns);
    const BlockShare& share = subject.share;
    take({draw, blocks[i].index, share.begin(blocks[i].index) - share.first_row(), std::move(outputs), batch});
    parts_.communicator.progress();
  }
}

void pass(const PassParts& parts, std::span<const WeightSeries> weights, std::vector<Subject> subjects,
          std::int64_t bytes) {
  Chunks chunks(parts, std::move(subjects), bytes);
  for (int chunk = 0; chunk < chunks.count(); ++chunk) {
    for (std::size_t kind = 0; kind < weights.size(); ++kind) {
      if (!chunks.is_for(chunk, static_cast<int>(kind))) continue;
      for (int number = 0; number < weights[kind].count; ++number) {
        weights[kind].bind(number);
        chunks.pass(chunk, static_cast<int>(kind), number);
      }
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
