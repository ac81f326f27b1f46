#include "credence/checkpoint/inspect.h"

#include <fmt/format.h>

#include <algorithm>

#include "credence/base/errors.h"
#include "credence/base/hdf5.h"
#include "credence/base/limited_child.h"
#include "credence/checkpoint/user_block.h"

namespace credence::checkpoints {
namespace {

constexpr std::size_t kMaximumDepth = 8;
constexpr std::size_t kMaximumObjects = 1'000'000;

struct Link {
  std::string name;
  H5L_type_t type;
};

class Walk {
 public:
  Walk(const std::filesystem::path& file, int fd)
      : context_{file.string(), ExitCode::unusable_data}, target_(fmt::format("/proc/self/fd/{}", fd)) {}

  Table run();

 private:
  [[noreturn]] void refuse(const std::string& path, const std::string& why) const {
    throw DataError(fmt::format("{}: '{}' {}", context_.file, path, why));
  }
  void visit_group(const std::string& path, hid_t group, std::size_t depth);
  void visit_link(const std::string& path, hid_t group, const Link& link, std::size_t depth);
  void visit_dataset(const std::string& path, hid_t dataset);
  void check_storage(const std::string& path, hid_t dataset) const;
  /// All attributes go into the table except the digest, which is returned.
  std::string take_attributes(const std::string& path, hid_t object);

  hdf5::Context context_;
  std::string target_;
  Table table_;
  std::size_t objects_ = 0;
};

Table Walk::run() {
  const hdf5::Lock lock;
  const hdf5::Handle access = descriptor_access(context_);
  const hdf5::Handle file = hdf5::open(context_, "H5Fopen", target_, H5Fclose,
                                       [&] { return H5Fopen(target_.c_str(), H5F_ACC_RDONLY, access.get()); });
  const hdf5::Handle creation =
      hdf5::open(context_, "H5Fget_create_plist", "/", H5Pclose, [&] { return H5Fget_create_plist(file.get()); });
  hsize_t user_block = 0;
  hdf5::check(context_, "H5Pget_userblock", "/", [&] { return H5Pget_userblock(creation.get(), &user_block); });
  if (user_block != kUserBlockBytes) refuse("/", "has a user block of another size");
  const hdf5::Handle root =
      hdf5::open(context_, "H5Gopen2", "/", H5Gclose, [&] { return H5Gopen2(file.get(), "/", H5P_DEFAULT); });
  if (!take_attributes("", root.get()).empty()) refuse("/", "has a digest");
  visit_group("", root.get(), 0);
  if (table_.config.name.empty()) refuse(kConfigName, "is missing");
  std::sort(table_.arrays.begin(), table_.arrays.end(),
            [](const StoredArray& a, const StoredArray& b) { return a.name < b.name; });
  return std::move(table_);
}

void Walk::visit_group(const std::string& path, hid_t group, std::size_t depth) {
  if (depth > kMaximumDepth) refuse(path, "lies too deep");
  std::vector<Link> links;
  const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* data) -> herr_t {
    static_cast<std::vector<Link>*>(data)->push_back({name, info->type});
    return 0;
  };
  hdf5::check(context_, "H5Literate", path,
              [&] { return H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &links); });
  objects_ += links.size();
  if (objects_ > kMaximumObjects) refuse(path, "is in a file of too many objects");
  for (const Link& link : links) visit_link(path, group, link, depth);
}

void Walk::visit_link(const std::string& path, hid_t group, const Link& link, std::size_t depth) {
  const std::string child = path.empty() ? link.name : path + "/" + link.name;
  // A link's name that holds '/' would be followed as a path, so it must not reach H5Oopen.
  if (link.name.find('/') != std::string::npos) refuse(child, "is a link with '/' in its name");
  if (const auto why = reason_against_path(link.name); !why.empty()) refuse(child, why);
  if (link.type == H5L_TYPE_SOFT) refuse(child, "is a soft link, which a checkpoint must not hold");
  if (link.type == H5L_TYPE_EXTERNAL) refuse(child, "is an external link, which a checkpoint must not hold");
  if (link.type != H5L_TYPE_HARD) refuse(child, "is a link of unknown kind");
  const hdf5::Handle object =
      hdf5::open(context_, "H5Oopen", child, H5Oclose, [&] { return H5Oopen(group, link.name.c_str(), H5P_DEFAULT); });
  switch (H5Iget_type(object.get())) {
    case H5I_GROUP:
      if (!take_attributes(child, object.get()).empty()) refuse(child, "is a group with a digest");
      return visit_group(child, object.get(), depth + 1);
    case H5I_DATASET:
      return visit_dataset(child, object.get());
    default:
      refuse(child, "is neither a group nor a dataset");
  }
}

void Walk::check_storage(const std::string& path, hid_t dataset) const {
  const hdf5::Handle creation =
      hdf5::open(context_, "H5Dget_create_plist", path, H5Pclose, [&] { return H5Dget_create_plist(dataset); });
  const int layout =
      hdf5::check(context_, "H5Pget_layout", path, [&] { return static_cast<int>(H5Pget_layout(creation.get())); });
  if (layout == H5D_VIRTUAL) refuse(path, "is a virtual dataset, which a checkpoint must not hold");
  if (layout != H5D_CONTIGUOUS) refuse(path, "is not stored contiguously");
  if (hdf5::check(context_, "H5Pget_external_count", path, [&] { return H5Pget_external_count(creation.get()); }) > 0) {
    refuse(path, "has external storage, which a checkpoint must not hold");
  }
  if (hdf5::check(context_, "H5Pget_nfilters", path, [&] { return H5Pget_nfilters(creation.get()); }) > 0) {
    refuse(path, "is filtered, which a checkpoint must not be");
  }
}

void Walk::visit_dataset(const std::string& path, hid_t dataset) {
  check_storage(path, dataset);
  const hdf5::Handle type = hdf5::open(context_, "H5Dget_type", path, H5Tclose, [&] { return H5Dget_type(dataset); });
  const hdf5::Handle space =
      hdf5::open(context_, "H5Dget_space", path, H5Sclose, [&] { return H5Dget_space(dataset); });
  StoredArray array;
  array.name = path;
  array.shape = hdf5::shape_of(context_, path, space.get());
  const hdf5::Lock lock;
  if (path == kConfigName) {
    if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 || !array.shape.empty()) {
      refuse(path, "is not one text of fixed length");
    }
    array.bytes = H5Tget_size(type.get());
  } else {
    const auto dtype = hdf5::dtype_of_type(context_, path, type.get());
    if (!dtype) refuse(path, "has an element type that a checkpoint does not have");
    array.dtype = *dtype;
    const auto bytes = bytes_of(array.dtype, array.shape);
    if (!bytes) refuse(path, "has an impossible shape");
    array.bytes = *bytes;
  }
  if (array.bytes > 0) {
    const haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF) refuse(path, "has a shape but no bytes");
    array.offset = offset;
    if (H5Dget_storage_size(dataset) != array.bytes) refuse(path, "has a shape that its bytes do not fill");
  }
  array.digest = take_attributes(path, dataset);
  if (array.digest.empty()) refuse(path, fmt::format("lacks the attribute '{}'", kDigestAttribute));
  (path == kConfigName ? table_.config : table_.arrays.emplace_back()) = array;
}

std::string Walk::take_attributes(const std::string& path, hid_t object) {
  std::string digest;
  for (const std::string& name : hdf5::attribute_names(context_, path, object)) {
    Attribute value = hdf5::read_attribute(context_, object, name);
    if (name != kDigestAttribute) {
      table_.attributes[path].insert_or_assign(name, std::move(value));
    } else if (const auto* text = std::get_if<std::string>(&value)) {
      digest = *text;
    }
  }
  return digest;
}

}  // namespace

hdf5::Handle descriptor_access(const hdf5::Context& context) {
  hdf5::Handle access = hdf5::file_access(context);
  hdf5::check(context, "H5Pset_fapl_stdio", "file", [&] { return H5Pset_fapl_stdio(access.get()); });
  return access;
}

Table inspect_here(const std::filesystem::path& file, int fd) {
  return Walk(file, fd).run();
}

Table inspect_in_child(const std::filesystem::path& file, int fd) {
  // Held over fork(), so that no other thread leaves HDF5 half changed in the child.
  const hdf5::Lock lock;
  return parse_table(file, run_in_limited_child(file, [&] { return serialize(inspect_here(file, fd)); }));
}

}  // namespace credence::checkpoints
