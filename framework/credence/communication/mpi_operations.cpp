#include "credence/communication/mpi_operations.h"

#include <algorithm>
#include <cstring>

#include "credence/communication/mpi_state.h"

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
  const std::lock_guard lock(mutex_);
  const auto fits = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& b) { return b.size() >= bytes; });
  if (fits == blocks_.end()) return Block(bytes);
  Block block = std::move(*fits);
  blocks_.erase(fits);
  return block;
}

void StagingPool::give_back(Block block) {
  constexpr std::size_t kKept = 16;
  const std::lock_guard lock(mutex_);
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

}  // namespace credence
