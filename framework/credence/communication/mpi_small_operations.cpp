// Operations without chunks: few bytes to everybody at once, and broadcasts.
#include <algorithm>
#include <cstring>

#include "credence/communication/mpi_operations.h"
#include "credence/communication/reduction_plan.h"
#include "credence/communication/tree_sum.h"

namespace credence {

namespace {

class ExchangeOperation final : public MpiOperation {
 public:
  ExchangeOperation(const Buffer& buffer, Reduction reduction, const MpiPlace& place)
      : MpiOperation("all-reduce", buffer, place), reduction_(reduction) {}

  void start() override {
    // One contribution per rank, 64-byte steps, and one copy that nothing overwrites while it is sent.
    step_ = (buffer_.bytes() + 63) / 64 * 64;
    staging_.resize(step_ * static_cast<std::size_t>(place_.size + 1));
    const auto bytes = static_cast<std::int64_t>(buffer_.bytes());
    std::memcpy(contribution(place_.rank), buffer_.data, buffer_.bytes());
    std::memcpy(contribution(place_.size), buffer_.data, buffer_.bytes());
    for (int step = 1; step < place_.size; ++step) {
      const int rank = (place_.rank + step) % place_.size;
      receive(contribution(rank), rank, kContributions, 0, bytes);
      send(contribution(place_.size), rank, kContributions, 0, bytes);
    }
    if (requests_.empty()) finish();
  }

 private:
  void handle(const std::vector<RequestSet::Message>&) override {
    if (!requests_.empty()) return;
    std::vector<void*> contributions;
    for (int rank = 0; rank < place_.size; ++rank) contributions.push_back(contribution(rank));
    reduce_in_tree_order(contributions, buffer_.data, buffer_.count, buffer_.dtype, reduction_);
    finish();
  }

  std::byte* contribution(int rank) { return staging_.data() + step_ * static_cast<std::size_t>(rank); }

  Reduction reduction_;
  std::size_t step_ = 0;
  std::vector<std::byte> staging_;
};

/// Down a binomial tree, piece by piece.
class BroadcastOperation final : public MpiOperation {
 public:
  BroadcastOperation(const Buffer& buffer, int root, const MpiPlace& place)
      : MpiOperation("broadcast", buffer, place), root_(root) {
    tree_ = broadcast_tree((place.rank - root + place.size) % place.size, place.size);
    pieces_ = (static_cast<std::int64_t>(buffer.bytes()) + kPiece - 1) / kPiece;
  }

  void start() override {
    if (tree_.parent == BroadcastTree::kNone) {
      for (std::int64_t piece = 0; piece < pieces_; ++piece) forward(piece);
    }
    post();
  }

 private:
  static constexpr std::int64_t kPiece = std::int64_t{1} << 20;

  int rank_of(int place) const { return (place + root_) % place_.size; }
  std::byte* data(std::int64_t piece) const { return static_cast<std::byte*>(buffer_.data) + piece * kPiece; }
  std::int64_t bytes(std::int64_t piece) const {
    return std::min(kPiece, static_cast<std::int64_t>(buffer_.bytes()) - piece * kPiece);
  }

  void forward(std::int64_t piece) {
    for (int child = 0; child < tree_.number_of_children; ++child) {
      send(data(piece), rank_of(tree_.children[child]), kResults, piece, bytes(piece));
    }
  }

  void handle(const std::vector<RequestSet::Message>& completed) override {
    for (const RequestSet::Message& message : completed) {
      if (message.incoming) from_parent_.complete(message.piece);
    }
    // In order, whatever the order of arrival: pieces have one tag, and the child takes them as they are sent.
    while (forwarded_ < from_parent_.completed()) forward(forwarded_++);
    post();
  }

  void post() {
    const bool root = tree_.parent == BroadcastTree::kNone;
    while (!root && from_parent_.posted() < pieces_ && from_parent_.open()) {
      const std::int64_t piece = from_parent_.post();
      receive(data(piece), rank_of(tree_.parent), kResults, piece, bytes(piece));
    }
    if (requests_.empty() && (root || from_parent_.completed() == pieces_)) finish();
  }

  int root_;
  BroadcastTree tree_;
  std::int64_t pieces_ = 0;
  Stream from_parent_;
  std::int64_t forwarded_ = 0;  // pieces
};

}  // namespace

std::unique_ptr<MpiOperation> make_exchange_operation(const Buffer& buffer, Reduction reduction,
                                                      const MpiPlace& place) {
  return std::make_unique<ExchangeOperation>(buffer, reduction, place);
}

std::unique_ptr<MpiOperation> make_broadcast_operation(const Buffer& buffer, int root, const MpiPlace& place) {
  return std::make_unique<BroadcastOperation>(buffer, root, place);
}

}  // namespace credence
