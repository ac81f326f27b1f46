#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "credence/data/open.h"
#include "credence/data/pack_assembly.h"
#include "credence/data/pack_record.h"
#include "unit/data/files.h"
#include "unit/data/images.h"

namespace credence::test {

/// Two splits of JPEGs, packed in parts.
class PackTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* folder : {"images/train/a", "images/train/b", "images/test/a", "images/test/b"}) {
      std::filesystem::create_directories(directory.path() / folder);
      for (int i = 0; i < 3; ++i)
        directory.write(std::string(folder) + "/" + std::to_string(i) + ".jpg", text(jpeg(24 + 8 * i, 40, 80 + i)));
    }
    open();
  }
  void open() {
    train = open_store(source(), Split::train);
    test_split = open_store(source(), Split::test);
  }
  std::string source() const { return "images:" + (directory.path() / "images").string(); }
  std::filesystem::path file() const { return directory.path() / "packed.h5"; }
  std::filesystem::path parts() const { return directory.path() / "parts"; }

  std::vector<PackSource> sources() const {
    return {{train.get(), PackSplit::train}, {test_split.get(), PackSplit::test}};
  }
  std::vector<Digest> keys() const { return record_keys(sources()); }
  void add(std::int64_t record, PartWriter& writer, const PackSettings& settings = {}) const {
    const PackRecord place = record_of(sources(), record);
    RecordPacker packer(*place.store, settings);
    writer.append(keys()[static_cast<std::size_t>(record)], packer.pack(place.number));
  }
  /// Records in the order given, each part ended by a sync.
  void append(const std::vector<std::int64_t>& records, int part, const PackSettings& settings = {}) const {
    std::filesystem::create_directories(parts());
    PartWriter writer(parts(), part, options);
    for (const std::int64_t record : records) add(record, writer, settings);
    writer.sync();
  }
  std::vector<PlacedEntry> entries() const { return entries_of(keys(), read_parts(parts(), options).entries); }
  PackAssembly assembly(const PackMachine& machine = {}) const {
    return PackAssembly({file(), parts(), sources(), job}, entries(), machine);
  }
  void assemble() const {
    std::atomic<std::int64_t> progress = 0;
    PackAssembly whole = assembly();
    whole.copy(progress, [] { return false; });
    whole.publish();
  }
  std::string bytes() const {
    std::ifstream stream(file(), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  TemporaryDirectory directory;
  std::unique_ptr<ImageStore> train;
  std::unique_ptr<ImageStore> test_split;
  Digest options{4, 5, 6};
  Digest job{1, 2, 3};
};

}  // namespace credence::test
