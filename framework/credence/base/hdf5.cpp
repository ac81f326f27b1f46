#include "credence/base/hdf5.h"

#include <bit>
#include <limits>
#include <mutex>

namespace credence::hdf5 {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are written from memory as is");

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Not a recursive mutex: its owner is a kernel thread, and a forked child, which holds the lock too, is another one.
thread_local int lock_depth = 0;
thread_local H5E_auto2_t saved_printer = nullptr;
thread_local void* saved_printer_data = nullptr;

herr_t keep_innermost(unsigned level, const H5E_error2_t* error, void* data) {
  if (level == 0 && error->desc != nullptr) *static_cast<std::string*>(data) = error->desc;
  return 0;
}

/// Of a call of the system that failed: what was tried, and the system's message, without time, addresses and the like.
std::string in_short(const std::string& cause) {
  constexpr std::string_view kMessage = "error message = '";
  const std::size_t message = cause.find(kMessage);
  if (message == std::string::npos) return cause;
  const std::size_t begin = message + kMessage.size();
  return cause.substr(0, cause.find(": time = ")) + ": " + cause.substr(begin, cause.find('\'', begin) - begin);
}

/// The innermost line of HDF5's own account, which is where the cause lies.
std::string take_cause() {
  std::string cause;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &cause);
  H5Eclear2(H5E_DEFAULT);
  return cause.empty() ? "no cause given" : in_short(cause);
}

[[noreturn]] void refuse(const Context& context, std::string_view subject, std::string_view why) {
  throw_error(context.kind, fmt::format("{}: '{}' {}", context.file, subject, why));
}

std::string read_text(const Context& context, hid_t attribute, const std::string& name, hid_t type) {
  const bool variable = check(context, "H5Tis_variable_str", name, [&] { return H5Tis_variable_str(type); }) > 0;
  // Converting to another padding or character set than the stored one is refused by HDF5, so read as stored.
  if (!variable) {
    const std::size_t size = H5Tget_size(type);
    if (size == 0) fail(context, "H5Tget_size", name);
    std::string text(size, '\0');
    check(context, "H5Aread", name, [&] { return H5Aread(attribute, type, text.data()); });
    return text.substr(0, text.find('\0'));
  }
  char* characters = nullptr;
  check(context, "H5Aread", name, [&] { return H5Aread(attribute, type, &characters); });
  if (characters == nullptr) return {};
  const Lock lock;
  std::string text(characters);
  H5free_memory(characters);
  return text;
}

}  // namespace

Lock::Lock() {
  if (lock_depth++ > 0) return;
  library_mutex().lock();
  H5Eget_auto2(H5E_DEFAULT, &saved_printer, &saved_printer_data);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Lock::~Lock() {
  if (--lock_depth > 0) return;
  H5Eset_auto2(H5E_DEFAULT, saved_printer, saved_printer_data);
  library_mutex().unlock();
}

void fail(const Context& context, std::string_view call, std::string_view subject) {
  const Lock lock;
  throw_error(context.kind, fmt::format("{}: {} of '{}' failed: {}", context.file, call, subject, take_cause()));
}

void Handle::close(const Context& context, std::string_view subject) {
  if (id_ < 0) return;
  const hid_t id = std::exchange(id_, H5I_INVALID_HID);
  check(context, "close", subject, [&] { return closer_(id); });
}

void Handle::release() noexcept {
  if (id_ < 0) return;
  const Lock lock;
  if (closer_(id_) < 0) H5Eclear2(H5E_DEFAULT);
  id_ = H5I_INVALID_HID;
}

Handle file_access(const Context& context) {
  const char* subject = "file access list";
  Handle list = open(context, "H5Pcreate", subject, H5Pclose, [] { return H5Pcreate(H5P_FILE_ACCESS); });
  check(context, "H5Pset_libver_bounds", subject,
        [&] { return H5Pset_libver_bounds(list.get(), H5F_LIBVER_V110, H5F_LIBVER_V110); });
  check(context, "H5Pset_fclose_degree", subject, [&] { return H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG); });
  check(context, "H5Pset_file_locking", subject, [&] { return H5Pset_file_locking(list.get(), false, true); });
  return list;
}

hid_t type_of(DType dtype) {
  const Lock lock;
  switch (dtype) {
    case DType::float32:
      return H5T_IEEE_F32LE;
    case DType::float64:
      return H5T_IEEE_F64LE;
    case DType::int64:
      return H5T_STD_I64LE;
    case DType::uint8:
      return H5T_STD_U8LE;
  }
  throw InternalError("no HDF5 type for this element type");
}

std::optional<DType> dtype_of_type(const Context& context, std::string_view subject, hid_t type) {
  for (const DType dtype : {DType::float32, DType::float64, DType::int64, DType::uint8}) {
    const hid_t known = type_of(dtype);
    if (check(context, "H5Tequal", subject, [&] { return H5Tequal(type, known); }) > 0) return dtype;
  }
  return std::nullopt;
}

std::vector<std::int64_t> shape_of(const Context& context, std::string_view subject, hid_t space) {
  const auto kind = check(context, "H5Sget_simple_extent_type", subject,
                          [&] { return static_cast<int>(H5Sget_simple_extent_type(space)); });
  if (kind == H5S_SCALAR) return {};
  if (kind != H5S_SIMPLE) refuse(context, subject, "has no shape");
  const int rank =
      check(context, "H5Sget_simple_extent_ndims", subject, [&] { return H5Sget_simple_extent_ndims(space); });
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  std::vector<hsize_t> limits(extents.size());
  check(context, "H5Sget_simple_extent_dims", subject,
        [&] { return H5Sget_simple_extent_dims(space, extents.data(), limits.data()); });
  if (extents != limits) refuse(context, subject, "has extents that can grow");
  std::vector<std::int64_t> shape;
  for (const hsize_t extent : extents) {
    if (extent > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse(context, subject, "has an impossible shape");
    }
    shape.push_back(static_cast<std::int64_t>(extent));
  }
  return shape;
}

Handle make_space(const Context& context, std::string_view subject, const std::vector<std::int64_t>& shape) {
  if (shape.empty()) {
    return open(context, "H5Screate", subject, H5Sclose, [] { return H5Screate(H5S_SCALAR); });
  }
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  return open(context, "H5Screate_simple", subject, H5Sclose,
              [&] { return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr); });
}

Handle string_type(const Context& context, std::optional<std::size_t> size) {
  const char* subject = "string type";
  Handle type = open(context, "H5Tcopy", subject, H5Tclose, [] { return H5Tcopy(H5T_C_S1); });
  check(context, "H5Tset_size", subject, [&] { return H5Tset_size(type.get(), size ? *size : H5T_VARIABLE); });
  check(context, "H5Tset_cset", subject, [&] { return H5Tset_cset(type.get(), H5T_CSET_UTF8); });
  check(context, "H5Tset_strpad", subject,
        [&] { return H5Tset_strpad(type.get(), size ? H5T_STR_NULLPAD : H5T_STR_NULLTERM); });
  return type;
}

void write_attribute(const Context& context, hid_t object, const std::string& name, const Scalar& value) {
  Handle space = make_space(context, name, {});
  Handle text_type;
  hid_t type = H5I_INVALID_HID;
  const void* data = nullptr;
  const char* characters = nullptr;
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    type = type_of(DType::int64);
    data = integer;
  } else if (const auto* number = std::get_if<double>(&value)) {
    type = type_of(DType::float64);
    data = number;
  } else {
    text_type = string_type(context);
    type = text_type.get();
    characters = std::get<std::string>(value).c_str();
    data = &characters;
  }
  Handle attribute = open(context, "H5Acreate2", name, H5Aclose, [&] {
    return H5Acreate2(object, name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT);
  });
  check(context, "H5Awrite", name, [&] { return H5Awrite(attribute.get(), type, data); });
  attribute.close(context, name);
}

Scalar read_attribute(const Context& context, hid_t object, const std::string& name) {
  const Handle attribute =
      open(context, "H5Aopen", name, H5Aclose, [&] { return H5Aopen(object, name.c_str(), H5P_DEFAULT); });
  const Handle space = open(context, "H5Aget_space", name, H5Sclose, [&] { return H5Aget_space(attribute.get()); });
  const Handle type = open(context, "H5Aget_type", name, H5Tclose, [&] { return H5Aget_type(attribute.get()); });
  const auto extent = check(context, "H5Sget_simple_extent_type", name,
                            [&] { return static_cast<int>(H5Sget_simple_extent_type(space.get())); });
  if (extent != H5S_SCALAR) refuse(context, name, "is not a scalar attribute");
  const auto kind = check(context, "H5Tget_class", name, [&] { return static_cast<int>(H5Tget_class(type.get())); });
  if (kind == H5T_STRING) return read_text(context, attribute.get(), name, type.get());
  const auto dtype = dtype_of_type(context, name, type.get());
  if (dtype == DType::int64) {
    std::int64_t integer = 0;
    check(context, "H5Aread", name, [&] { return H5Aread(attribute.get(), type.get(), &integer); });
    return integer;
  }
  if (dtype == DType::float64) {
    double number = 0.0;
    check(context, "H5Aread", name, [&] { return H5Aread(attribute.get(), type.get(), &number); });
    return number;
  }
  refuse(context, name, "is an attribute of an unexpected type (int64, float64 and text are known)");
}

std::vector<std::string> attribute_names(const Context& context, std::string_view subject, hid_t object) {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  check(context, "H5Aiterate2", subject,
        [&] { return H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names); });
  return names;
}

}  // namespace credence::hdf5
