#include "credence/data/pack_write.h"

#include <fcntl.h>

#include <algorithm>
#include <map>

#include "credence/base/errors.h"
#include "credence/base/hdf5.h"
#include "credence/data/pack_store.h"

namespace credence {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPieceBytes = std::size_t{8} << 20;  // written to HDF5 at a time

/// A record of the file to be: where it comes from, and its place in its store.
struct Record {
  const ImageStore* store;
  std::int64_t number;
  PackSplit split;
};

Record record_of(const std::vector<PackSource>& sources, std::int64_t record) {
  for (const PackSource& source : sources) {
    if (record < source.store->size()) return {source.store, record, source.split};
    record -= source.store->size();
  }
  throw DataError("a part holds a record that the data does not have");
}

void append_text(const std::string& text, std::vector<std::uint8_t>& to) {
  to.insert(to.end(), text.begin(), text.end());
  to.push_back(0);
}

PackTables tables_of(const std::vector<PackSource>& sources, const std::vector<PlacedEntry>& entries) {
  PackTables tables;
  std::int64_t offset = 0;
  for (const PlacedEntry& placed : entries) {
    const PartEntry& entry = placed.entry;
    const Record record = record_of(sources, entry.record);
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

ImageSize common_size(const PackTables& tables) {
  const auto all_alike = [](const std::vector<std::int64_t>& values) {
    return std::ranges::adjacent_find(values, std::ranges::not_equal_to()) == values.end();
  };
  if (!all_alike(tables.height) || !all_alike(tables.width)) return {};
  return {tables.height.front(), tables.width.front()};
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

/// Fills /bytes from the parts, in the order of the entries, comparing digests on the way.
class Copier {
 public:
  Copier(const fs::path& parts, PackFile& file, const hdf5::Handle& dataset)
      : parts_(parts), file_(file), dataset_(dataset) {
    space_ =
        hdf5::open(file_.context(), "H5Dget_space", "bytes", H5Sclose, [&] { return H5Dget_space(dataset_.get()); });
  }

  void add(const PlacedEntry& placed) {
    const PartEntry& entry = placed.entry;
    const fs::path path = part_file(parts_, placed.part);
    auto& part = opened_[placed.part];
    if (!part) part = open_file(ExitCode::unusable_data, path, O_RDONLY);
    const std::size_t begin = piece_.size();
    piece_.resize(begin + static_cast<std::size_t>(entry.length));
    const auto bytes = std::span(piece_).subspan(begin);
    read_at(ExitCode::unusable_data, part.get(), path, bytes, static_cast<std::uint64_t>(entry.offset));
    if (digest_of(bytes) != entry.digest)
      throw DataError(
          fmt::format("{}: the bytes of record {} are not those that were written; remove the folder to "
                      "start anew",
                      path.string(), entry.record));
    if (piece_.size() >= kPieceBytes) flush();
  }

  void flush() {
    if (piece_.empty()) return;
    const hsize_t start = written_;
    const hsize_t count = piece_.size();
    const hdf5::Context& context = file_.context();
    const hdf5::Handle memory = hdf5::make_space(context, "bytes", {static_cast<std::int64_t>(count)});
    hdf5::check(context, "H5Sselect_hyperslab", "bytes",
                [&] { return H5Sselect_hyperslab(space_.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr); });
    hdf5::check(context, "H5Dwrite", "bytes", [&] {
      return H5Dwrite(dataset_.get(), hdf5::type_of(DType::uint8), memory.get(), space_.get(), H5P_DEFAULT,
                      piece_.data());
    });
    written_ += count;
    piece_.clear();
  }

 private:
  fs::path parts_;
  PackFile& file_;
  const hdf5::Handle& dataset_;
  hdf5::Handle space_;
  std::map<int, Descriptor> opened_;
  std::vector<std::byte> piece_;
  hsize_t written_ = 0;
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
}

/// Whether the file's tables are found, and its first and last record.
bool reads_back(const fs::path& path, PackSplit split) {
  try {
    const PackStore store(path, split == PackSplit::test ? Split::test : Split::train);
    std::vector<std::uint8_t> buffer;
    store.read(0, buffer);
    store.read(store.size() - 1, buffer);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

/// Writes the user block, reads back, renames.
void publish(TemporaryFile& file, PackHeader header, PackSplit split) {
  header.file_bytes = file_length(ExitCode::storage, file.path(), file.fd());
  bool good = false;
  // H5Dget_offset counts from the start of the file or, in some releases, from behind the user block.
  for (const std::uint64_t shift : {std::uint64_t{0}, std::uint64_t{kPackUserBlockBytes}}) {
    PackHeader shifted = header;
    for (PackExtent& extent : shifted.extents)
      if (extent.bytes > 0) extent.offset += shift;
    write_at(file.fd(), file.path(), encode(shifted), 0);
    sync_file(file.fd(), file.path());
    good = reads_back(file.path(), split);
    if (good) break;
  }
  if (!good) throw StorageError(fmt::format("{}: what was written does not read back", file.path().string()));
  file.sync_and_close();
  file.publish();
}

}  // namespace

void write_pack(const fs::path& path, const fs::path& parts, const std::vector<PackSource>& sources,
                std::vector<PlacedEntry> entries, std::atomic<std::int64_t>& progress) {
  std::erase_if(entries, [](const PlacedEntry& placed) { return placed.entry.bad; });
  std::ranges::sort(entries, {}, [](const PlacedEntry& placed) { return placed.entry.record; });
  if (entries.empty()) throw DataError("there is no image to pack: none can be read");
  const PackTables tables = tables_of(sources, entries);
  const ImageStore& first = *sources.front().store;

  PackHeader header;
  header.records = tables.records();
  header.classes = static_cast<std::uint64_t>(first.classes());
  header.channels = static_cast<std::uint32_t>(first.channels());
  header.common_size = common_size(tables);
  header.normalization = first.normalization();
  header.tables = tables.combined_digest();
  const auto views = tables.views();
  for (std::size_t i = 0; i < views.size(); ++i) header.extents[i].bytes = views[i].size();
  header.extents[0].bytes = static_cast<std::uint64_t>(tables.offset.back() + tables.length.back());

  TemporaryFile temporary(path);
  PackFile file(temporary.path());
  write_attributes(file, header);
  auto& places = header.extents;
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
  {
    Copier copier(parts, file, bytes);
    for (const PlacedEntry& entry : entries) {
      copier.add(entry);
      progress.fetch_add(1, std::memory_order_relaxed);
    }
    copier.flush();
  }
  bytes.close(file.context(), "bytes");
  file.close();
  publish(temporary, header, sources.front().split);
}

}  // namespace credence
