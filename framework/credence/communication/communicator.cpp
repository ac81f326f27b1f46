#include "credence/communication/communicator.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <future>
#include <limits>

#include "credence/base/context.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"

namespace credence {

namespace {

void require_waited(bool valid) {
  if (!valid || std::uncaught_exceptions() > 0) return;
  std::fputs("a collective was dropped without waiting for it; this is a bug in Credence\n", stderr);
  std::terminate();
}

bool overlap(const Buffer& a, const Buffer& b) {
  if (a.device != b.device || a.count == 0 || b.count == 0) return false;
  const auto first = reinterpret_cast<std::uintptr_t>(a.data);
  const auto second = reinterpret_cast<std::uintptr_t>(b.data);
  return first < second + b.bytes() && second < first + a.bytes();
}

std::string describe(const char* operation, const Buffer& buffer) {
  return fmt::format("{} of {} {}", operation, buffer.count, name_of(buffer.dtype));
}

template <class T>
Buffer buffer_of(std::vector<T>& values) {
  return Buffer{values.data(), static_cast<std::int64_t>(values.size()), dtype_of<T>};
}

}  // namespace

Pending::~Pending() {
  require_waited(valid());
}

Pending& Pending::operator=(Pending&& other) noexcept {
  if (this != &other) {
    require_waited(valid());
    operation_ = std::move(other.operation_);
  }
  return *this;
}

void Pending::wait() {
  if (!operation_) return;
  const auto operation = std::move(operation_);
  operation->wait();
}

struct Communicator::Tracked : Pending::Operation {
  Tracked(Communicator& owner, const Buffer& memory, Pending operation)
      : communicator(owner), in_flight(owner.in_flight_), buffer(memory), pending(std::move(operation)) {
    in_flight->push_back(buffer);
  }
  Tracked(const Tracked&) = delete;
  Tracked& operator=(const Tracked&) = delete;
  ~Tracked() override {
    const auto mine = std::find_if(in_flight->begin(), in_flight->end(), [this](const Buffer& other) {
      return other.data == buffer.data && other.count == buffer.count;
    });
    if (mine != in_flight->end()) in_flight->erase(mine);
  }
  void wait() override {
    const Stopwatch stopwatch;
    pending.wait();
    communicator.traffic_.waited_seconds += stopwatch.seconds();
  }

  Communicator& communicator;
  std::shared_ptr<std::vector<Buffer>> in_flight;
  Buffer buffer;
  Pending pending;
};

Pending Communicator::track(const Buffer& buffer, Pending pending) {
  ++traffic_.operations;
  return Pending(std::make_unique<Tracked>(*this, buffer, std::move(pending)));
}

void Communicator::check(const char* operation, const Buffer& buffer) const {
  if (buffer.count < 0 || (buffer.count > 0 && buffer.data == nullptr)) {
    throw InternalError(fmt::format("{} without memory", describe(operation, buffer)));
  }
  for (const Buffer& other : *in_flight_) {
    if (overlap(buffer, other)) {
      throw InternalError(fmt::format("{} overlaps memory of a collective in flight", describe(operation, buffer)));
    }
  }
}

Pending Communicator::all_reduce(Buffer buffer, Reduction reduction) {
  check("all-reduce", buffer);
  ensure(buffer.dtype != DType::uint8, "all-reduce of bytes");
  return track(buffer, start_all_reduce(buffer, reduction));
}

Pending Communicator::reduce_scatter(Buffer buffer, Reduction reduction) {
  check("reduce-scatter", buffer);
  ensure(buffer.dtype != DType::uint8, "reduce-scatter of bytes");
  ensure(buffer.count % size_ == 0, "reduce-scatter of chunks that are not equal");
  return track(buffer, start_reduce_scatter(buffer, reduction));
}

Pending Communicator::all_gather(Buffer buffer) {
  check("all-gather", buffer);
  ensure(buffer.count % size_ == 0, "all-gather of chunks that are not equal");
  return track(buffer, start_all_gather(buffer));
}

Pending Communicator::broadcast(Buffer buffer, int root) {
  check("broadcast", buffer);
  ensure(root >= 0 && root < size_, "broadcast from a rank that does not exist");
  return track(buffer, start_broadcast(buffer, root));
}

void Communicator::barrier() {
  static_cast<void>(any(false));
}

bool Communicator::any(bool mine) {
  std::vector<std::int64_t> flag{mine ? 1 : 0};
  all_reduce(buffer_of(flag), Reduction::max).wait();
  return flag[0] != 0;
}

void Communicator::agree(const std::optional<std::pair<ExitCode, std::string>>& mine) {
  // The maximum of size - rank over failing ranks finds the lowest of them; 0: none.
  std::vector<std::int64_t> first{mine ? size_ - rank_ : 0};
  all_reduce(buffer_of(first), Reduction::max).wait();
  if (first[0] == 0) return;
  const int origin = size_ - static_cast<int>(first[0]);
  std::vector<std::int64_t> code{mine ? static_cast<std::int64_t>(mine->first) : 0};
  broadcast(buffer_of(code), origin).wait();
  if (size_ == 1) throw_error(mine->first, mine->second);
  const std::string text = broadcast_text(mine ? with_context(mine->second) : std::string(), origin);
  const std::string host = broadcast_text(host_name(), origin);
  throw_error_of({origin, host}, static_cast<ExitCode>(code[0]), text);
}

std::string Communicator::broadcast_text(std::string text, int root) {
  std::vector<std::int64_t> length{static_cast<std::int64_t>(text.size())};
  broadcast(buffer_of(length), root).wait();
  text.resize(static_cast<std::size_t>(length[0]));
  broadcast(Buffer{text.data(), length[0], DType::uint8}, root).wait();
  return text;
}

std::vector<std::string> Communicator::gather_texts(const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(size_);
  const auto me = static_cast<std::size_t>(rank_);
  std::vector<std::int64_t> lengths(ranks, 0);
  lengths[me] = static_cast<std::int64_t>(mine.size());
  all_gather(buffer_of(lengths)).wait();

  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::uint8_t> bytes(ranks * longest, 0);
  if (!mine.empty()) std::memcpy(bytes.data() + me * longest, mine.data(), mine.size());
  all_gather(buffer_of(bytes)).wait();

  std::vector<std::string> texts(ranks);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto length = static_cast<std::size_t>(lengths[rank]);
    if (length > 0) texts[rank].assign(reinterpret_cast<const char*>(bytes.data() + rank * longest), length);
  }
  return texts;
}

void collectively(Communicator& communicator, const std::function<void()>& work) {
  std::optional<std::pair<ExitCode, std::string>> failure;
  try {
    work();
  } catch (const CommunicationError&) {
    throw;
  } catch (const Error& error) {
    if (origin_of(error) != nullptr) throw;  // all ranks have agreed on it already
    failure.emplace(error.code(), error.what());
  } catch (const std::exception& error) {
    failure.emplace(ExitCode::internal, error.what());
  }
  communicator.agree(failure);
}

void work_aside(Communicator& communicator, const std::function<void()>& work) {
  if (communicator.size() == 1) return work();
  constexpr std::chrono::milliseconds kSlice{10};
  std::future<void> done = std::async(std::launch::async, work);
  while (done.wait_for(kSlice) != std::future_status::ready) communicator.progress();
  done.get();
}

}  // namespace credence
