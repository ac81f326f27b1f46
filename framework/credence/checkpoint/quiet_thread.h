#pragma once

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace credence::checkpoints {

/// A thread that takes no signals: they belong to the threads that train.
template <class Function>
std::thread start_quiet_thread(Function&& function) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::forward<Function>(function));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace credence::checkpoints
