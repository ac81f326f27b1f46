#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <vector>

#include "credence/communication/backoff.h"
#include "credence/communication/nccl_communicator.h"

namespace credence {

namespace {

constexpr auto kWatchInterval = std::chrono::milliseconds(20);
constexpr double kFinalizeSeconds = 10.0;

void check_cuda(cudaError_t code, const char* call) {
  if (code != cudaSuccess) throw CommunicationError(fmt::format("{} failed: {}", call, cudaGetErrorString(code)));
}

void check_nccl(ncclResult_t code, const char* call) {
  if (code != ncclSuccess) throw CommunicationError(fmt::format("{} failed: {}", call, ncclGetErrorString(code)));
}

}  // namespace

CudaEvent::CudaEvent() {
  check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
}
CudaEvent::~CudaEvent() {
  cudaEventDestroy(event_);
}
void CudaEvent::record(cudaStream_t stream) {
  check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
}

bool CudaEvent::reached() const {
  const cudaError_t code = cudaEventQuery(event_);
  if (code == cudaErrorNotReady) return false;
  check_cuda(code, "cudaEventQuery");
  return true;
}

NcclLink::NcclLink(MpiSession& session, Communicator& host, const NcclOptions& options)
    : session_(session), options_(options) {
  collectively(host, [&] {
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    require(found == cudaSuccess, "rank {} finds no CUDA device ({}): use --device cpu", session.rank(),
            cudaGetErrorString(found));
    require(options.device >= 0 && options.device < devices,
            "rank {} was given CUDA device {}, but this host has {} of them: start at most that many ranks a host",
            session.rank(), options.device, devices);
    check_cuda(cudaSetDevice(options.device), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  });
  {
    const std::lock_guard lock(session_.state().calls);
    session_.state().notices.activities.emplace_back(this, [this] { return activity(); });
  }
  try {
    initialize(host);
    thread_ = std::thread([this] { watch(); });
  } catch (...) {
    leave_board();
    abort();
    cudaStreamDestroy(stream_);
    throw;
  }
}

NcclLink::~NcclLink() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  leave_board();
  const bool in_order = std::uncaught_exceptions() == 0 && !failure_;
  if (in_order && comm_ != nullptr) {
    const Stopwatch stopwatch;
    ncclResult_t state = ncclCommFinalize(comm_);
    while (state == ncclInProgress && stopwatch.seconds() < kFinalizeSeconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) break;
    }
    if (state == ncclSuccess) {
      ncclCommDestroy(comm_);
      comm_ = nullptr;
    }
  }
  abort();
  cudaStreamDestroy(stream_);
}

void NcclLink::initialize(Communicator& host) {
  ncclUniqueId id;
  collectively(host, [&] {
    if (host.rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
  });
  host.broadcast(Buffer{id.internal, static_cast<std::int64_t>(sizeof id.internal), DType::uint8}, 0).wait();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  complete("ncclCommInitRank", ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config));
}

void NcclLink::leave_board() {
  MpiSession::State& state = session_.state();
  const std::lock_guard lock(state.calls);
  std::erase_if(state.notices.activities, [this](const auto& entry) { return entry.first == this; });
}

std::string NcclLink::activity() {
  const std::lock_guard lock(mutex_);
  const std::string& what = calling_.empty() && !in_flight_.empty() ? in_flight_.front()->description : calling_;
  return what.empty() ? what : fmt::format("in NCCL's {}", what);
}

void NcclLink::complete(const char* call, ncclResult_t result) {
  if (result != ncclInProgress) return check_nccl(result, call);
  struct Calling {
    NcclLink& link;
    Calling(NcclLink& owner, const char* what) : link(owner) { say(what); }
    ~Calling() { say(""); }
    Calling(const Calling&) = delete;
    Calling& operator=(const Calling&) = delete;
    void say(const char* what) {
      const std::lock_guard lock(link.mutex_);
      link.calling_ = what;
    }
  } const calling(*this, call);
  Patience patience(session_.state(), options_.timeout_seconds);
  Backoff backoff;
  while (result == ncclInProgress) {
    if (const auto other = failure_of_another_rank()) throw CommunicationError(*other);
    if (const std::string why = patience.ended() ? look_around(patience) : std::string(); !why.empty()) {
      throw CommunicationError(
          fmt::format("rank {} waited {:.1f} s in {}; {}", session_.rank(), patience.seconds(), call, why));
    }
    backoff.pause();
    check_nccl(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError");
  }
  check_nccl(result, call);
}

std::shared_ptr<NcclLink::Flight> NcclLink::enqueue(std::string description,
                                                    const std::function<ncclResult_t(ncclComm_t, cudaStream_t)>& call) {
  throw_if_failed();
  auto flight = std::make_shared<Flight>();
  flight->number = ++started_;
  flight->description = fmt::format("{} (number {})", description, flight->number);
  flight->ready.record(static_cast<cudaStream_t>(options_.current_stream()));
  check_cuda(cudaStreamWaitEvent(stream_, flight->ready.get(), 0), "cudaStreamWaitEvent");
  {
    const std::lock_guard lock(nccl_);
    if (comm_ == nullptr) throw CommunicationError(fmt::format("{}: NCCL was aborted", flight->description));
    complete(flight->description.c_str(), call(comm_, stream_));
  }
  flight->done.record(stream_);
  {
    const std::lock_guard lock(mutex_);
    in_flight_.push_back(flight);
  }
  changed_.notify_one();
  return flight;
}

void NcclLink::join(const Flight& flight) {
  throw_if_failed();
  check_cuda(cudaStreamWaitEvent(static_cast<cudaStream_t>(options_.current_stream()), flight.done.get(), 0),
             "cudaStreamWaitEvent");
}

void NcclLink::throw_if_failed() {
  const std::lock_guard lock(mutex_);
  if (failure_) throw CommunicationError(*failure_);
}

void NcclLink::watch() {
  cudaSetDevice(options_.device);
  Patience patience(session_.state(), options_.timeout_seconds);
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || (!failure_ && !in_flight_.empty()); });
      if (stop_) return;
      changed_.wait_for(lock, kWatchInterval, [&] { return stop_; });
      if (stop_) return;
    }
    std::optional<std::string> text;
    try {
      text = trouble(patience);
    } catch (const std::exception& error) {
      text = error.what();
    }
    if (text) fail(*text);
  }
}

std::optional<std::string> NcclLink::trouble(Patience& patience) {
  if (const auto other = failure_of_another_rank()) return other;
  {
    const std::unique_lock lock(nccl_, std::try_to_lock);  // not while a call of the main thread is under way
    ncclResult_t state = ncclSuccess;
    if (lock && comm_ != nullptr) check_nccl(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
    if (state != ncclSuccess && state != ncclInProgress) {
      return fmt::format("rank {}: NCCL reports {} ({})", session_.rank(), ncclGetErrorString(state),
                         ncclGetLastError(comm_));
    }
  }
  std::string overdue;
  {
    const std::lock_guard lock(mutex_);
    while (!in_flight_.empty() && in_flight_.front()->done.reached()) in_flight_.pop_front();
    // The time counts from when its inputs are there and those before it have ended.
    if (in_flight_.empty() || !in_flight_.front()->ready.reached()) return std::nullopt;
    patience.saw(in_flight_.front()->number);
    overdue = in_flight_.front()->description;
  }
  const std::string why = patience.ended() ? look_around(patience) : std::string();
  if (why.empty()) return std::nullopt;
  return fmt::format("rank {} waited {:.1f} s in {}; {}", session_.rank(), patience.seconds(), overdue, why);
}

std::optional<std::string> NcclLink::failure_of_another_rank() {
  MpiSession::State& state = session_.state();
  if (!session_.allows_progress_thread()) return std::nullopt;
  const std::lock_guard lock(state.calls);
  if (state.unsafe) return std::nullopt;
  state.notices.poll();
  const auto& failure = state.notices.failure();
  if (!failure) return std::nullopt;
  return fmt::format("{} failed: {}", state.name_of_rank(failure->origin), failure->text);
}

std::string NcclLink::look_around(Patience& patience) {
  MpiSession::State& state = session_.state();
  if (!session_.allows_progress_thread()) return "who is missing is not known";
  const std::lock_guard lock(state.calls);
  return state.unsafe ? "who is missing is not known" : patience.look({});
}

void NcclLink::fail(const std::string& text) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = text;
    in_flight_.clear();
  }
  if (session_.allows_progress_thread()) {
    MpiSession::State& state = session_.state();
    const std::lock_guard lock(state.calls);
    if (!state.unsafe) state.notices.announce_failure(static_cast<int>(ExitCode::lost_rank), text);
  }
  abort();
}

void NcclLink::abort() {
  const std::lock_guard lock(nccl_);
  if (comm_ != nullptr) ncclCommAbort(comm_);
  comm_ = nullptr;
}

}  // namespace credence
