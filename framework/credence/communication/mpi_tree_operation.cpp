#include <algorithm>
#include <utility>

#include "credence/communication/mpi_operations.h"
#include "credence/communication/reduction_plan.h"
#include "credence/communication/tree_sum.h"

namespace credence {

namespace {

/// Chunk c of the buffer belongs to rank c. Every rank sends its contributions to chunk c to rank c, which adds them in
/// tree order and sends the sum to everybody: piece by piece, so that sums overlap transfers and stay in the cache.
class TreeOperation final : public MpiOperation {
 public:
  TreeOperation(const std::string& name, const Buffer& buffer, Reduction reduction, TreePhases phases,
                const MpiPlace& place)
      : MpiOperation(name, buffer, place),
        reduction_(reduction),
        phases_(phases),
        peers_(static_cast<std::size_t>(place.size)) {
    const std::size_t others = static_cast<std::size_t>(std::max(place.size - 1, 1));
    const std::size_t bytes = std::clamp(kStagingBytes / (Stream::kWindow * others), kLeastPiece, kMostPiece);
    piece_elements_ = static_cast<std::int64_t>(bytes / size_of(buffer.dtype));
    own_pieces_ = pieces(place.rank);
  }
  ~TreeOperation() override { place_.pool->give_back(std::move(staging_)); }

  void start() override {
    if (phases_.reduce && own_pieces_ > 0 && place_.size > 1) {
      const auto slots = static_cast<std::size_t>(std::min<std::int64_t>(own_pieces_, Stream::kWindow));
      slot_bytes_ = static_cast<std::size_t>(std::min(piece_elements_, elements(place_.rank))) * size_of(buffer_.dtype);
      slot_bytes_ = (slot_bytes_ + 63) / 64 * 64;
      staging_ = place_.pool->take(slots * slot_bytes_ * static_cast<std::size_t>(place_.size - 1));
    }
    contributions_.resize(static_cast<std::size_t>(place_.size));
    post();
  }

  std::vector<int> waits_for() const override {
    // A rank without all contributions has no results to send: name those who owe contributions before those who owe
    // results, and those before ranks that only fail to receive.
    for (const auto& [phase, incoming] : {std::pair{kContributions, true}, {kResults, true}, {kResults, false}}) {
      std::vector<int> ranks;
      for (const auto& message : requests_.messages()) {
        if (message.phase == phase && message.incoming == incoming) ranks.push_back(message.peer);
      }
      std::sort(ranks.begin(), ranks.end());
      ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
      if (!ranks.empty()) return ranks;
    }
    return MpiOperation::waits_for();
  }

 private:
  static constexpr std::size_t kStagingBytes = std::size_t{8} << 20;
  static constexpr std::size_t kLeastPiece = std::size_t{64} << 10;
  static constexpr std::size_t kMostPiece = std::size_t{256} << 10;

  struct Peer {
    Stream contributions_out;
    Stream contributions_in;
    Stream results_in;
  };

  std::int64_t elements(int chunk) const { return chunk_elements(buffer_.count, chunk, place_.size); }
  std::int64_t pieces(int chunk) const { return (elements(chunk) + piece_elements_ - 1) / piece_elements_; }
  std::byte* piece_data(int chunk, std::int64_t piece) const {
    return at(chunk_begin(buffer_.count, chunk, place_.size) + piece * piece_elements_);
  }
  std::int64_t piece_count(int chunk, std::int64_t piece) const {
    return std::min(piece_elements_, elements(chunk) - piece * piece_elements_);
  }
  std::int64_t piece_bytes(int chunk, std::int64_t piece) const {
    return piece_count(chunk, piece) * static_cast<std::int64_t>(size_of(buffer_.dtype));
  }
  std::byte* slot(int peer, std::int64_t piece) {
    const int other = peer < place_.rank ? peer : peer - 1;
    const auto index = static_cast<std::size_t>(piece % Stream::kWindow * (place_.size - 1) + other);
    // With fewer pieces than the window every piece has a slot of its own.
    return staging_.data() + index * slot_bytes_;
  }
  Peer& peer(int rank) { return peers_[static_cast<std::size_t>(rank)]; }

  void handle(const std::vector<RequestSet::Message>& completed) override {
    for (const RequestSet::Message& message : completed) {
      Peer& other = peer(message.peer);
      if (message.phase == kContributions) {
        (message.incoming ? other.contributions_in : other.contributions_out).complete(message.piece);
      } else if (message.incoming) {
        other.results_in.complete(message.piece);
      } else {
        --results_in_flight_;
      }
    }
    post();
  }

  void post() {
    publish();
    bool complete = published_ == own_pieces_ && results_in_flight_ == 0;
    for (int step = 1; step < place_.size; ++step) {
      const int rank = (place_.rank + step) % place_.size;  // everybody starts with another one
      post_to(rank);
      const Peer& other = peer(rank);
      complete = complete && (!phases_.reduce || other.contributions_out.completed() == pieces(rank)) &&
                 (!phases_.gather || other.results_in.completed() == pieces(rank));
    }
    if (complete) finish();
  }

  void post_to(int rank) {
    Peer& other = peer(rank);
    const std::int64_t their_pieces = pieces(rank);
    if (phases_.reduce) {
      while (other.contributions_in.posted() < std::min(own_pieces_, published_ + Stream::kWindow)) {
        const std::int64_t piece = other.contributions_in.post();
        receive(slot(rank, piece), rank, kContributions, piece, piece_bytes(place_.rank, piece));
      }
      while (other.contributions_out.posted() < their_pieces && other.contributions_out.open()) {
        const std::int64_t piece = other.contributions_out.post();
        send(piece_data(rank, piece), rank, kContributions, piece, piece_bytes(rank, piece));
      }
    }
    if (phases_.gather) {
      // A result may only overwrite a contribution that has left.
      const std::int64_t free = phases_.reduce ? other.contributions_out.completed() : their_pieces;
      while (other.results_in.posted() < free && other.results_in.open()) {
        const std::int64_t piece = other.results_in.post();
        receive(piece_data(rank, piece), rank, kResults, piece, piece_bytes(rank, piece));
      }
    }
  }

  /// Adds the pieces whose contributions are all here, and sends the sums.
  void publish() {
    const std::int64_t most_in_flight = std::int64_t{2} * Stream::kWindow * (place_.size - 1);
    while (published_ < own_pieces_ && results_in_flight_ <= most_in_flight && contributed(published_)) {
      const std::int64_t piece = published_++;
      if (phases_.reduce) add(piece);
      if (!phases_.gather) continue;
      for (int step = 1; step < place_.size; ++step) {
        ++results_in_flight_;
        send(piece_data(place_.rank, piece), (place_.rank + step) % place_.size, kResults, piece,
             piece_bytes(place_.rank, piece));
      }
    }
  }

  bool contributed(std::int64_t piece) {
    if (!phases_.reduce) return true;
    for (int rank = 0; rank < place_.size; ++rank) {
      if (rank != place_.rank && peer(rank).contributions_in.completed() <= piece) return false;
    }
    return true;
  }

  void add(std::int64_t piece) {
    std::byte* const own = piece_data(place_.rank, piece);
    for (int rank = 0; rank < place_.size; ++rank) {
      contributions_[static_cast<std::size_t>(rank)] = rank == place_.rank ? own : slot(rank, piece);
    }
    reduce_in_tree_order(contributions_, own, piece_count(place_.rank, piece), buffer_.dtype, reduction_);
  }

  Reduction reduction_;
  TreePhases phases_;
  std::vector<Peer> peers_;
  std::int64_t piece_elements_ = 0;
  std::int64_t own_pieces_ = 0;
  std::int64_t published_ = 0;  // own pieces that are final and on their way
  std::int64_t results_in_flight_ = 0;
  std::size_t slot_bytes_ = 0;
  StagingPool::Block staging_;
  std::vector<void*> contributions_;
};

}  // namespace

std::unique_ptr<MpiOperation> make_tree_operation(const Buffer& buffer, Reduction reduction, TreePhases phases,
                                                  const MpiPlace& place) {
  const char* const name = !phases.reduce ? "all-gather" : phases.gather ? "all-reduce" : "reduce-scatter";
  return std::make_unique<TreeOperation>(name, buffer, reduction, phases, place);
}

}  // namespace credence
