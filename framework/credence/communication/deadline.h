#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace credence {

/// Ends the process with exit code 76 and one line on stderr, "error: on HOST: waited N s for WHAT", unless it goes out
/// of scope within `seconds`: for calls of other libraries that may block for ever.
class Deadline {
 public:
  Deadline(double seconds, std::string what);
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  void watch(double seconds, const std::string& what);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace credence
