#include "credence/checkpoint/image.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "credence/base/errors.h"
#include "credence/base/hdf5.h"
#include "credence/base/text.h"
#include "credence/checkpoint/inspect.h"
#include "credence/checkpoint/user_block.h"

namespace credence::checkpoints {
namespace {

// Rather more than what HDF5 takes for names, shapes and digests.
constexpr std::uint64_t kStructureBytes = std::uint64_t{64} * 1024;
constexpr std::uint64_t kStructureBytesPerArray = 1024;

/// The attributes of the file as stored: the caller's and those that the writer adds.
std::map<std::string, Attribute> file_attributes(const CheckpointContents& contents) {
  auto attributes = contents.attributes;
  for (const char* name : {"format", "format_version", "complete"}) {
    ensure(!attributes.contains(name), "a checkpoint's attribute that the writer sets was given");
  }
  attributes["format"] = std::string(kFormatName);
  attributes["format_version"] = std::int64_t{kFormatVersion};
  attributes["complete"] = std::int64_t{1};
  if (const auto why = reason_against_file_attributes(attributes); !why.empty()) {
    throw InternalError("a checkpoint " + why);
  }
  return attributes;
}

void check_attributes(const std::string& path, const std::map<std::string, Attribute>& attributes) {
  for (const auto& [name, value] : attributes) {
    if (const auto why = reason_against_attribute(name); !why.empty()) {
      throw InternalError(fmt::format("'{}' of '{}' {}", name, path, why));
    }
    const auto* text = std::get_if<std::string>(&value);
    ensure(text == nullptr || text->find('\0') == std::string::npos, "an attribute's text holds a zero byte");
  }
}

/// The HDF5 calls that lay a table out in a file.
class Layout {
 public:
  Layout(const std::filesystem::path& file, const std::string& target);
  void add_group(const std::string& path);
  /// Reserves the array's space and adds its attributes; returns the offset of its first byte, 0 where it has none.
  std::uint64_t add_dataset(const StoredArray& array, hid_t type, const std::vector<std::int64_t>& shape);
  void add_attributes(const std::string& path, const std::map<std::string, Attribute>& attributes);
  void close();

 private:
  hdf5::Context context_;
  hdf5::Handle file_;
  hdf5::Handle group_properties_;
  hdf5::Handle dataset_properties_;
  std::set<std::string> groups_;
};

Layout::Layout(const std::filesystem::path& file, const std::string& target) : context_{file.string()} {
  const hdf5::Lock lock;
  const auto properties = [&](const char* name, hid_t kind) {
    hdf5::Handle list = hdf5::open(context_, "H5Pcreate", name, H5Pclose, [&] { return H5Pcreate(kind); });
    // Without times in it, a file is a function of what it holds.
    hdf5::check(context_, "H5Pset_obj_track_times", name, [&] { return H5Pset_obj_track_times(list.get(), false); });
    return list;
  };
  const hdf5::Handle creation = properties("file", H5P_FILE_CREATE);
  hdf5::check(context_, "H5Pset_userblock", "file", [&] { return H5Pset_userblock(creation.get(), kUserBlockBytes); });
  group_properties_ = properties("groups", H5P_GROUP_CREATE);
  dataset_properties_ = properties("datasets", H5P_DATASET_CREATE);
  hdf5::check(context_, "H5Pset_layout", "datasets",
              [&] { return H5Pset_layout(dataset_properties_.get(), H5D_CONTIGUOUS); });
  hdf5::check(context_, "H5Pset_alloc_time", "datasets",
              [&] { return H5Pset_alloc_time(dataset_properties_.get(), H5D_ALLOC_TIME_EARLY); });
  hdf5::check(context_, "H5Pset_fill_time", "datasets",
              [&] { return H5Pset_fill_time(dataset_properties_.get(), H5D_FILL_TIME_NEVER); });
  const hdf5::Handle access = descriptor_access(context_);
  file_ = hdf5::open(context_, "H5Fcreate", target, H5Fclose,
                     [&] { return H5Fcreate(target.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()); });
}

void Layout::add_group(const std::string& path) {
  for (std::size_t end = path.find('/');; end = path.find('/', end + 1)) {
    const std::string group = path.substr(0, end);
    if (groups_.insert(group).second) {
      hdf5::open(context_, "H5Gcreate2", group, H5Gclose, [&] {
        return H5Gcreate2(file_.get(), group.c_str(), H5P_DEFAULT, group_properties_.get(), H5P_DEFAULT);
      }).close(context_, group);
    }
    if (end == std::string::npos) return;
  }
}

std::uint64_t Layout::add_dataset(const StoredArray& array, hid_t type, const std::vector<std::int64_t>& shape) {
  if (const auto end = array.name.rfind('/'); end != std::string::npos) add_group(array.name.substr(0, end));
  hdf5::Handle space = hdf5::make_space(context_, array.name, shape);
  hdf5::Handle dataset = hdf5::open(context_, "H5Dcreate2", array.name, H5Dclose, [&] {
    return H5Dcreate2(file_.get(), array.name.c_str(), type, space.get(), H5P_DEFAULT, dataset_properties_.get(),
                      H5P_DEFAULT);
  });
  hdf5::write_attribute(context_, dataset.get(), kDigestAttribute, array.digest);
  haddr_t offset = 0;
  if (array.bytes > 0) {
    const hdf5::Lock lock;
    offset = H5Dget_offset(dataset.get());
    if (offset == HADDR_UNDEF) hdf5::fail(context_, "H5Dget_offset", array.name);
  }
  dataset.close(context_, array.name);
  return offset;
}

void Layout::add_attributes(const std::string& path, const std::map<std::string, Attribute>& attributes) {
  const std::string name = path.empty() ? "/" : path;
  hdf5::Handle object =
      hdf5::open(context_, "H5Oopen", name, H5Oclose, [&] { return H5Oopen(file_.get(), name.c_str(), H5P_DEFAULT); });
  for (const auto& [key, value] : attributes) hdf5::write_attribute(context_, object.get(), key, value);
  object.close(context_, name);
}

void Layout::close() {
  file_.close(context_, "file");
}

}  // namespace

CheckpointImage::CheckpointImage(const std::filesystem::path& file, const CheckpointContents& contents)
    : file_(file), config_(contents.config) {
  ensure(config_.find('\0') == std::string::npos, "a checkpoint's configuration holds a zero byte");
  if (config_.empty()) config_.push_back('\0');  // HDF5 has no text of no bytes
  table_.attributes[""] = file_attributes(contents);
  for (const auto& [path, attributes] : contents.array_attributes) {
    if (attributes.empty()) continue;
    if (const auto why = reason_against_path(path); !why.empty()) throw InternalError("'" + path + "' " + why);
    table_.attributes[path] = attributes;
  }
  for (const auto& [path, attributes] : table_.attributes) check_attributes(path, attributes);

  const auto config_bytes = std::as_bytes(std::span(config_));
  table_.config = {kConfigName, DType::uint8, {}, 0, config_bytes.size(), hexadecimal(digest_of(config_bytes))};
  segments_.push_back({0, config_bytes});
  for (const ArrayView& array : contents.arrays) add_array(array);
  lay_out();
  // HDF5 must find again what it was told, in the memory file whose bytes go to the disk.
  ensure(serialize(inspect_here(file_, memory_.get())) == serialize(table_), "HDF5 laid a checkpoint out differently");
}

void CheckpointImage::add_array(const ArrayView& array) {
  if (const auto why = reason_against(array.name, array.dtype, array.shape); !why.empty()) {
    throw UserError(fmt::format("{}: '{}' {}", file_.string(), array.name, why));
  }
  const std::size_t bytes = array.bytes();
  ensure(bytes == 0 || array.data != nullptr, "an array of a checkpoint has no data");
  const std::span data(static_cast<const std::byte*>(array.data), bytes);
  table_.arrays.push_back({array.name, array.dtype, array.shape, 0, bytes, hexadecimal(digest_of(data))});
  segments_.push_back({0, data});
}

void CheckpointImage::lay_out() {
  check_size_limit();
  memory_ = Descriptor(memfd_create("credence-checkpoint", MFD_CLOEXEC));
  if (!memory_) fail_call(ExitCode::storage, file_, "memfd_create", errno);
  const hdf5::Lock lock;
  Layout layout(file_, fmt::format("/proc/self/fd/{}", memory_.get()));
  std::set<std::string> names;
  const hdf5::Handle text = hdf5::string_type({file_.string()}, config_.size());
  table_.config.offset = segments_[0].offset = layout.add_dataset(table_.config, text.get(), {});
  for (std::size_t i = 0; i < table_.arrays.size(); ++i) {
    StoredArray& array = table_.arrays[i];
    ensure(names.insert(array.name).second, "two arrays of a checkpoint have one name");
    array.offset = segments_[i + 1].offset = layout.add_dataset(array, hdf5::type_of(array.dtype), array.shape);
  }
  for (const auto& [path, attributes] : table_.attributes) {
    if (!path.empty() && path != kConfigName && !names.contains(path)) layout.add_group(path);
    layout.add_attributes(path, attributes);
  }
  layout.close();

  bytes_ = file_length(ExitCode::storage, file_, memory_.get());
  std::erase_if(segments_, [](const Segment& segment) { return segment.bytes.empty(); });
  const auto by_offset = [](const Segment& a, const Segment& b) { return a.offset < b.offset; };
  std::sort(segments_.begin(), segments_.end(), by_offset);
  const auto by_name = [](const StoredArray& a, const StoredArray& b) { return a.name < b.name; };
  std::sort(table_.arrays.begin(), table_.arrays.end(), by_name);
  check_table(file_, table_, bytes_);
}

void CheckpointImage::check_size_limit() const {
  // Holds for the memory file too, where HDF5 would meet it, so leave room for the structure.
  rlimit limit{};
  std::uint64_t bytes = kStructureBytes + segments_.size() * kStructureBytesPerArray;
  for (const Segment& segment : segments_) bytes += segment.bytes.size();
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
    fail_call(ExitCode::storage, file_,
              fmt::format("writing up to {} bytes where {} are allowed", bytes, limit.rlim_cur), EFBIG);
  }
}

void CheckpointImage::structure(std::uint64_t begin, std::uint64_t end,
                                const std::function<void(std::span<const std::byte>, std::uint64_t)>& consume) const {
  std::uint64_t offset = begin;
  stream(ExitCode::storage, memory_.get(), file_, begin, end, [&](std::span<const std::byte> bytes) {
    consume(bytes, offset);
    offset += bytes.size();
  });
}

void CheckpointImage::for_each_piece(
    const std::function<void(std::span<const std::byte>, std::uint64_t)>& consume) const {
  std::uint64_t at = kUserBlockBytes;
  for (const Segment& segment : segments_) {
    structure(at, segment.offset, consume);
    for (std::size_t done = 0; done < segment.bytes.size(); done += kChunkBytes) {
      consume(segment.bytes.subspan(done, std::min(kChunkBytes, segment.bytes.size() - done)), segment.offset + done);
    }
    at = segment.offset + segment.bytes.size();
  }
  structure(at, bytes_, consume);
}

}  // namespace credence::checkpoints
