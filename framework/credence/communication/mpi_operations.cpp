#include "credence/communication/mpi_operations.h"

#include <algorithm>
#include <cstring>

#include "credence/communication/mpi_state.h"
#include "credence/communication/reduction_plan.h"
#include "credence/communication/tree_sum.h"

namespace credence {

void RequestSet::add(MPI_Request request, const Message& message) {
  requests_.push_back(request);
  messages_.push_back(message);
}

void RequestSet::send(const void* data, const Message& message, int tag, MPI_Comm comm) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(data, static_cast<int>(message.bytes), MPI_BYTE, message.peer, tag, comm, &request), "MPI_Isend");
  add(request, message);
}

void RequestSet::receive(void* data, const Message& message, int tag, MPI_Comm comm) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Irecv(data, static_cast<int>(message.bytes), MPI_BYTE, message.peer, tag, comm, &request), "MPI_Irecv");
  add(request, message);
}

void RequestSet::poll(std::vector<Message>& completed) {
  completed.clear();
  if (requests_.empty()) return;
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int code =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, indices_.data(), statuses_.data());
  if (code != MPI_ERR_IN_STATUS) check_mpi(code, "MPI_Testsome");
  if (count == MPI_UNDEFINED) count = 0;
  std::string wrong;
  for (int i = 0; i < count; ++i) {
    const auto place = static_cast<std::size_t>(i);
    const Message& message = messages_[static_cast<std::size_t>(indices_[place])];
    completed.push_back(message);
    if (code == MPI_ERR_IN_STATUS && statuses_[place].MPI_ERROR == MPI_ERR_TRUNCATE) {
      wrong = fmt::format("rank {} sent more than the {} bytes expected: ranks called different operations",
                          message.peer, message.bytes);
    } else if (code == MPI_ERR_IN_STATUS) {
      check_mpi(statuses_[place].MPI_ERROR, "MPI_Testsome");
    }
    int cancelled = 0;
    MPI_Test_cancelled(&statuses_[place], &cancelled);
    if (!message.incoming || cancelled != 0) continue;
    int received = 0;
    MPI_Get_count(&statuses_[place], MPI_BYTE, &received);
    if (received < message.bytes) {
      wrong = fmt::format("rank {} sent {} bytes where {} were expected: ranks called different operations",
                          message.peer, received, message.bytes);
    }
  }
  std::sort(indices_.begin(), indices_.begin() + count, std::greater<>());
  for (int i = 0; i < count; ++i) {
    const auto index = static_cast<std::size_t>(indices_[static_cast<std::size_t>(i)]);
    requests_[index] = requests_.back();
    messages_[index] = messages_.back();
    requests_.pop_back();
    messages_.pop_back();
  }
  if (!wrong.empty()) throw CommunicationError(wrong);
}

void RequestSet::cancel_receives() {
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (messages_[i].incoming) MPI_Cancel(&requests_[i]);
  }
}

bool RequestSet::writes() const {
  return std::any_of(messages_.begin(), messages_.end(),
                     [](const Message& message) { return message.incoming || message.collective; });
}

StagingPool::Block StagingPool::take(std::size_t bytes) {
  const auto fits = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& b) { return b.size() >= bytes; });
  if (fits == blocks_.end()) return Block(bytes);
  Block block = std::move(*fits);
  blocks_.erase(fits);
  return block;
}

void StagingPool::give_back(Block block) {
  constexpr std::size_t kKept = 16;
  if (blocks_.size() < kKept && !block.empty()) blocks_.push_back(std::move(block));
}

bool MpiOperation::advance() {
  if (done()) return false;
  requests_.poll(completed_);
  if (completed_.empty()) return false;
  handle(completed_);
  moves_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool MpiOperation::cancel() {
  if (!cancelled_) requests_.cancel_receives();
  cancelled_ = true;
  requests_.poll(completed_);
  return !requests_.writes();
}

std::vector<int> MpiOperation::waits_for() const {
  std::vector<int> ranks;
  for (const RequestSet::Message& message : requests_.messages()) ranks.push_back(message.peer);
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

std::string MpiOperation::describe() const {
  return fmt::format("{} {} of {} bytes", name_, number, buffer_.bytes());
}

void MpiOperation::send(const void* data, int peer, int phase, std::int64_t piece, std::int64_t bytes) {
  requests_.send(data, {peer, phase, piece, bytes, false, false}, place_.tag + (phase & 1), place_.comm);
  bytes_sent_ += bytes;
}

void MpiOperation::receive(void* data, int peer, int phase, std::int64_t piece, std::int64_t bytes) {
  requests_.receive(data, {peer, phase, piece, bytes, true, false}, place_.tag + (phase & 1), place_.comm);
}

namespace {

constexpr int kContributions = 0;  // phases, also the tags
constexpr int kResults = 1;

/// Pieces of one stream of messages to or from one rank: at most a window of them in flight, completed in any order.
class Stream {
 public:
  static constexpr int kWindow = 8;

  std::int64_t posted() const { return posted_; }
  std::int64_t completed() const { return completed_; }  // all pieces before this one have
  bool open() const { return posted_ - completed_ < kWindow; }
  std::int64_t post() { return posted_++; }
  void complete(std::int64_t piece) {
    ahead_ |= std::uint64_t{1} << (piece - completed_);
    for (; (ahead_ & 1) != 0; ahead_ >>= 1) ++completed_;
  }

 private:
  std::int64_t posted_ = 0;
  std::int64_t completed_ = 0;
  std::uint64_t ahead_ = 0;
};

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
    const std::int64_t most_in_flight = 2 * Stream::kWindow * (place_.size - 1);
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
      if (!message.incoming) continue;
      from_parent_.complete(message.piece);
      forward(message.piece);
    }
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
};

}  // namespace

std::unique_ptr<MpiOperation> make_tree_operation(const Buffer& buffer, Reduction reduction, TreePhases phases,
                                                  const MpiPlace& place) {
  const char* const name = !phases.reduce ? "all-gather" : phases.gather ? "all-reduce" : "reduce-scatter";
  return std::make_unique<TreeOperation>(name, buffer, reduction, phases, place);
}

std::unique_ptr<MpiOperation> make_exchange_operation(const Buffer& buffer, Reduction reduction,
                                                      const MpiPlace& place) {
  return std::make_unique<ExchangeOperation>(buffer, reduction, place);
}

std::unique_ptr<MpiOperation> make_broadcast_operation(const Buffer& buffer, int root, const MpiPlace& place) {
  return std::make_unique<BroadcastOperation>(buffer, root, place);
}

}  // namespace credence
