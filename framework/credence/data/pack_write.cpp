#include "credence/data/pack_write.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "credence/base/errors.h"
#include "credence/base/file_io.h"
#include "credence/base/hdf5.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

void append_text(const std::string& text, std::vector<std::uint8_t>& to) {
  to.insert(to.end(), text.begin(), text.end());
  to.push_back(0);
}

/// The HDF5 file itself. Datasets are contiguous and their place is fixed when they are made.
class PackFile {
 public:
  explicit PackFile(const fs::path& path) : context_{path.string(), ExitCode::storage} {
    hdf5::Handle creation =
        hdf5::open(context_, "H5Pcreate", "file", H5Pclose, [] { return H5Pcreate(H5P_FILE_CREATE); });
    hdf5::check(context_, "H5Pset_userblock", "file",
                [&] { return H5Pset_userblock(creation.get(), kPackUserBlockBytes); });
    const hdf5::Handle access = hdf5::file_access(context_);
    file_ = hdf5::open(context_, "H5Fcreate", "file", H5Fclose,
                       [&] { return H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()); });
  }

  hdf5::Handle make(const char* name, DType dtype, const std::vector<std::int64_t>& shape) {
    const hdf5::Handle space = hdf5::make_space(context_, name, shape);
    const hdf5::Handle creation =
        hdf5::open(context_, "H5Pcreate", name, H5Pclose, [] { return H5Pcreate(H5P_DATASET_CREATE); });
    hdf5::check(context_, "H5Pset_alloc_time", name,
                [&] { return H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY); });
    hdf5::check(context_, "H5Pset_fill_time", name,
                [&] { return H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER); });
    return hdf5::open(context_, "H5Dcreate", name, H5Dclose, [&] {
      return H5Dcreate2(file_.get(), name, hdf5::type_of(dtype), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT);
    });
  }

  /// All of a dataset; returns where it lies.
  template <class T>
  std::uint64_t write(const char* name, const std::vector<T>& values, std::vector<std::int64_t> shape = {}) {
    if (shape.empty()) shape = {static_cast<std::int64_t>(values.size())};
    hdf5::Handle dataset = make(name, dtype_of<T>, shape);
    if (!values.empty())
      hdf5::check(context_, "H5Dwrite", name, [&] {
        return H5Dwrite(dataset.get(), hdf5::type_of(dtype_of<T>), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
      });
    const std::uint64_t place = values.empty() ? 0 : place_of(dataset, name);
    dataset.close(context_, name);
    return place;
  }

  std::uint64_t place_of(const hdf5::Handle& dataset, const char* name) {
    const hdf5::Lock lock;
    const haddr_t address = H5Dget_offset(dataset.get());
    if (address == HADDR_UNDEF) hdf5::fail(context_, "H5Dget_offset", name);
    return address;
  }

  const hdf5::Context& context() const { return context_; }
  void close() { file_.close(context_, "file"); }
  hid_t get() const { return file_.get(); }

 private:
  hdf5::Context context_;
  hdf5::Handle file_;
};

void write_attributes(PackFile& file, const PackHeader& header) {
  const auto write = [&](const char* name, const hdf5::Scalar& value) {
    hdf5::write_attribute(file.context(), file.get(), name, value);
  };
  write("format", std::string("credence-pack"));
  write("format_version", static_cast<std::int64_t>(kPackVersion));
  write("examples", static_cast<std::int64_t>(header.records));
  write("classes", static_cast<std::int64_t>(header.classes));
  write("channels", static_cast<std::int64_t>(header.channels));
  write("job", hexadecimal(header.job));
}

/// H5Dget_offset counts from the start of the file or, in some releases, from behind the user block.
std::uint64_t shift_of_places(const fs::path& path, const PackTables& tables, const PackHeader& header) {
  const Descriptor file = open_file(ExitCode::storage, path, O_RDONLY);
  const auto views = tables.views();
  for (const std::uint64_t shift : {std::uint64_t{0}, std::uint64_t{kPackUserBlockBytes}}) {
    Hasher hasher;
    const auto hash = [&](std::span<const std::byte> bytes) { hasher.update(bytes); };
    for (std::size_t i = 1; i < views.size(); ++i) {
      const std::uint64_t begin = header.extents[i].offset + shift;
      stream(ExitCode::storage, file.get(), path, begin, begin + views[i].size(), hash);
    }
    if (hasher.digest() == header.tables) return shift;
  }
  throw StorageError(fmt::format("{}: what was written does not read back", path.string()));
}

}  // namespace

PackRecord record_of(const std::vector<PackSource>& sources, std::int64_t record) {
  for (const PackSource& source : sources) {
    if (record < source.store->size()) return {source.store, record, source.split};
    record -= source.store->size();
  }
  throw InternalError("a record outside the data was asked for");
}

std::vector<Digest> record_keys(const std::vector<PackSource>& sources) {
  std::vector<Digest> keys;
  for (const auto& [store, split] : sources) {
    for (std::int64_t i = 0; i < store->size(); ++i) {
      const std::string path = store->path(i);
      const Digest fingerprint = store->fingerprint(i);
      Hasher hasher;
      hasher.update(std::as_bytes(std::span(&split, 1)));
      hasher.update(std::as_bytes(std::span(fingerprint)));
      hasher.update(std::as_bytes(std::span(path)));
      keys.push_back(hasher.digest());
    }
  }
  return keys;
}

std::vector<PlacedEntry> entries_of(const std::vector<Digest>& keys, const std::vector<PlacedEntry>& found) {
  std::vector<std::pair<Digest, std::int64_t>> places;
  for (const Digest& key : keys) places.emplace_back(key, static_cast<std::int64_t>(places.size()));
  std::ranges::sort(places);
  std::vector<PlacedEntry> entries(keys.size());
  for (const PlacedEntry& placed : found) {
    const auto place = std::ranges::lower_bound(places, placed.entry.key, {}, &std::pair<Digest, std::int64_t>::first);
    if (place == places.end() || place->first != placed.entry.key) continue;
    PlacedEntry& entry = entries[static_cast<std::size_t>(place->second)];
    if (entry.record < 0 || entry.entry.bad) entry = placed;
    entry.record = place->second;
  }
  std::erase_if(entries, [](const PlacedEntry& entry) { return entry.record < 0; });
  return entries;
}

PackTables tables_of(const std::vector<PackSource>& sources, const std::vector<PlacedEntry>& entries) {
  PackTables tables;
  std::int64_t offset = 0;
  for (const PlacedEntry& placed : entries) {
    const PartEntry& entry = placed.entry;
    const PackRecord record = record_of(sources, placed.record);
    tables.offset.push_back(offset);
    tables.length.push_back(entry.length);
    tables.label.push_back(record.store->label(record.number));
    tables.split.push_back(static_cast<std::uint8_t>(record.split));
    tables.encoding.push_back(entry.encoding);
    tables.height.push_back(entry.height);
    tables.width.push_back(entry.width);
    tables.digest.insert(tables.digest.end(), entry.digest.begin(), entry.digest.end());
    append_text(record.store->path(record.number), tables.paths);
    offset += entry.length;
  }
  for (const std::string& name : sources.front().store->class_names()) append_text(name, tables.class_names);
  return tables;
}

void create_pack(const fs::path& path, const PackTables& tables, PackHeader& header) {
  PackFile file(path);
  write_attributes(file, header);
  const auto views = tables.views();
  auto& places = header.extents;
  for (std::size_t i = 1; i < views.size(); ++i) places[i].bytes = views[i].size();
  places[0].bytes = static_cast<std::uint64_t>(tables.offset.back() + tables.length.back());
  const auto count = static_cast<std::int64_t>(tables.records());
  places[1].offset = file.write("offset", tables.offset);
  places[2].offset = file.write("length", tables.length);
  places[3].offset = file.write("label", tables.label);
  places[4].offset = file.write("split", tables.split);
  places[5].offset = file.write("encoding", tables.encoding);
  places[6].offset = file.write("height", tables.height);
  places[7].offset = file.write("width", tables.width);
  places[8].offset = file.write("digest", tables.digest, {count, 16});
  places[9].offset = file.write("class_names", tables.class_names);
  places[10].offset = file.write("paths", tables.paths);
  hdf5::Handle bytes = file.make("bytes", DType::uint8, {static_cast<std::int64_t>(places[0].bytes)});
  places[0].offset = file.place_of(bytes, "bytes");
  bytes.close(file.context(), "bytes");
  file.close();
  const std::uint64_t shift = shift_of_places(path, tables, header);
  for (PackExtent& extent : places)
    if (extent.bytes > 0) extent.offset += shift;
  header.file_bytes = std::filesystem::file_size(path);
}

}  // namespace credence
