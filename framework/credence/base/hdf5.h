#pragma once

// A thin checked layer over HDF5's C API. Nothing here hides HDF5: callers pass the real calls, this layer checks every
// result, keeps HDF5's error stack off stderr and folds its innermost cause into our own message.

#include <hdf5.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "credence/base/dtype.h"
#include "credence/base/errors.h"

namespace credence::hdf5 {

/// Serialises the use of HDF5, whose usual build is not thread safe, and silences its messages on stderr meanwhile.
/// Everything below takes it by itself; hold one over a sequence that must not be interleaved, or over fork(). Nests
/// within a thread, and in a child forked while it is held.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

/// What an error message names, and the kind of the error: storage for writing, unusable_data for reading.
struct Context {
  std::string file;
  ExitCode kind = ExitCode::storage;
};

/// Throws "FILE: CALL of 'SUBJECT' failed: innermost cause". Clears HDF5's error stack.
[[noreturn]] void fail(const Context& context, std::string_view call, std::string_view subject);

/// The result of `function()`, an HDF5 call that reports failure by a negative number.
template <class Function>
auto check(const Context& context, std::string_view call, std::string_view subject, Function&& function) {
  const Lock lock;
  const auto result = function();
  if (result < 0) fail(context, call, subject);
  return result;
}

/// Owns one HDF5 identifier. The destructor only releases, since it cannot report: on a full disk HDF5 says so at
/// close, so whatever was written must be closed with close().
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);

  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  ~Handle() { release(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      release();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
      closer_ = other.closer_;
    }
    return *this;
  }

  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  void close(const Context& context, std::string_view subject);

 private:
  void release() noexcept;

  hid_t id_ = H5I_INVALID_HID;
  Closer closer_ = nullptr;
};

/// The identifier that `function()` opens or creates.
template <class Function>
Handle open(const Context& context, std::string_view call, std::string_view subject, Handle::Closer closer,
            Function&& function) {
  return Handle(check(context, call, subject, std::forward<Function>(function)), closer);
}

/// File access for all our files: the format of HDF5 1.10 (what every later release reads), no file locks (they fail on
/// network file systems, and nobody writes where somebody else reads), and a close that closes all that is open inside.
Handle file_access(const Context& context);

/// Little-endian type in the file; also the type in memory, as only little-endian hosts are supported.
hid_t type_of(DType dtype);
/// The element type of a dataset or attribute; nothing for any type that is not exactly one of ours.
std::optional<DType> dtype_of_type(const Context& context, std::string_view subject, hid_t type);

/// Extents of a scalar or simple dataspace with fixed extents; an error of the context for any other.
std::vector<std::int64_t> shape_of(const Context& context, std::string_view subject, hid_t space);
Handle make_space(const Context& context, std::string_view subject, const std::vector<std::int64_t>& shape);

/// A UTF-8 string type of `size` bytes padded with zeros, or of variable length where no size is given (the form that
/// h5py reads as `str`).
Handle string_type(const Context& context, std::optional<std::size_t> size = std::nullopt);

using Scalar = std::variant<std::int64_t, double, std::string>;

/// A new scalar attribute: int64, float64 or UTF-8 text of variable length.
void write_attribute(const Context& context, hid_t object, const std::string& name, const Scalar& value);
/// Error of the context where it is missing, not a scalar, or of another type than the three above (text of fixed
/// length is accepted).
Scalar read_attribute(const Context& context, hid_t object, const std::string& name);
std::vector<std::string> attribute_names(const Context& context, std::string_view subject, hid_t object);

}  // namespace credence::hdf5
