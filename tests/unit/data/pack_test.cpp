#include <gmock/gmock.h>

#include <cstring>
#include <fstream>

#include "credence/base/errors.h"
#include "credence/data/image_source.h"
#include "credence/data/pack_store.h"
#include "unit/data/packs.h"

namespace credence {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

class Pack : public test::PackTest {
 protected:
  static PackHeader header_of(const std::string& content) {
    PackUserBlock block;
    std::memcpy(block.data(), content.data(), block.size());
    return decode_pack_header(block);
  }
  void open_changed(const PackHeader& header, std::string content) {
    const PackUserBlock encoded = encode(header);
    std::memcpy(content.data(), encoded.data(), encoded.size());
    directory.write("packed.h5", content);
    open_data("pack:" + file().string(), Split::train);
  }
  /// A table that says something else of record 1.
  void open_with_value(std::string content, std::size_t table, std::int64_t value) {
    const PackHeader header = header_of(content);
    std::memcpy(content.data() + header.extents[table].offset + 8, &value, sizeof(value));
    open_with_tables(header, content);
  }
  /// Other tables, their digest in order.
  void open_with_tables(PackHeader header, const std::string& content) {
    Hasher hasher;
    for (std::size_t i = 1; i < kPackTables.size(); ++i)
      hasher.update(std::as_bytes(std::span(content)).subspan(header.extents[i].offset, header.extents[i].bytes));
    header.tables = hasher.digest();
    open_changed(header, content);
  }
};

TEST_F(Pack, GivesTheImagesOfItsSource) {
  append({4, 0, 11, 6}, 0);
  append({1, 2, 3, 5, 7, 8, 9, 10}, 3);
  assemble();
  for (const Split split : {Split::train, Split::test}) {
    const auto packed = open_data("pack:" + file().string(), split, {.image_size = "16"});
    const auto plain = open_data(source(), split, {.image_size = "16"});
    EXPECT_EQ(packed->size(), 6);
    EXPECT_EQ(packed->spec().class_names, plain->spec().class_names);
    EXPECT_EQ(packed->spec().normalization, plain->spec().normalization);
    EXPECT_EQ(test::whole(*packed).pixels, test::whole(*plain).pixels);
    EXPECT_EQ(test::whole(*packed).labels, test::whole(*plain).labels);
  }
  const PackStore store(file(), Split::test);
  EXPECT_EQ(store.path(4), "b/1.jpg");
  EXPECT_EQ(store.common_size(), ImageSize{}) << "sizes differ";
  EXPECT_TRUE(store.has_other_split());
}

TEST_F(Pack, RawAndReencodedAtAShortSide) {
  const std::vector<std::int64_t> all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  append(all, 0, {.kind = PackSettings::Kind::raw, .short_side = 20});
  assemble();
  const PackStore raw(file(), Split::train);
  std::vector<std::uint8_t> buffer;
  const StoredImage image = raw.read(0, buffer);
  EXPECT_EQ(image.encoding, Encoding::raw);
  EXPECT_EQ(image.size, (ImageSize{20, 33}));
  EXPECT_EQ(image.bytes.size(), 20U * 33 * 3);
  fs::remove_all(parts());
  append(all, 0, {.kind = PackSettings::Kind::jpeg, .short_side = 20, .quality = 95});
  assemble();
  const PackStore jpeg(file(), Split::train);
  std::vector<std::uint8_t> encoded;
  const StoredImage same = jpeg.read(0, encoded);
  EXPECT_EQ(same.encoding, Encoding::jpeg);
  ImageReader reader;
  EXPECT_EQ(reader.open(same, 3), (ImageSize{20, 33}));
  std::vector<std::uint8_t> pixels(20 * 33 * 3);
  reader.read(whole_view({20, 33}, {20, 33}), pixels.data());
  for (std::size_t i = 0; i < pixels.size(); ++i) ASSERT_NEAR(pixels[i], buffer[i], 8);
}

TEST_F(Pack, AFlippedByteAnywhereIsFoundAndNamesTheRecord) {
  append({0, 1, 2, 6, 7, 8}, 0);
  assemble();
  const std::string good = bytes();
  const PackStore store(file(), Split::train);
  std::vector<std::uint8_t> buffer;
  std::size_t images = 0;
  for (std::int64_t i = 0; i < store.size(); ++i) images += store.read(i, buffer).bytes.size();
  int in_records = 0;
  int in_tables = 0;
  int harmless = 0;
  for (std::size_t at = 0; at < good.size(); at += 13) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    directory.write("packed.h5", bad);
    try {
      const auto source = open_data("pack:" + file().string(), Split::train, {.image_size = "16"});
      test::whole(*source);
      ++harmless;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("packed.h5"));
      const bool record = std::string(error.what()).find("record") != std::string::npos;
      ++(record ? in_records : in_tables);
    }
  }
  EXPECT_NEAR(in_records * 13.0, static_cast<double>(images), 3 * 13.0);
  EXPECT_GT(in_tables, 512 / 13) << "the first 512 bytes and the tables";
  // HDF5's own metadata, which reading does not need, and the images of the other split.
  EXPECT_GT(harmless, 0);
}

TEST_F(Pack, FilesThatAreCutShortOrNoPack) {
  append({0, 6}, 0);
  assemble();
  const std::string good = bytes();
  const auto opening = [&](const std::string& content) {
    return [this, content] {
      directory.write("packed.h5", content);
      open_data("pack:" + file().string(), Split::train);
    };
  };
  for (const std::size_t length : {0, 100, 511, 512, 2000})
    EXPECT_THAT(opening(good.substr(0, length)),
                ThrowsMessage<DataError>(AnyOf(HasSubstr("no packed dataset"), HasSubstr("truncated or damaged"))));
  EXPECT_THAT(opening(good.substr(0, good.size() - 1)), ThrowsMessage<DataError>(HasSubstr("truncated or damaged")));
  EXPECT_THAT(opening(good + "x"), ThrowsMessage<DataError>(HasSubstr("truncated or damaged")));
  EXPECT_THAT(opening(std::string(4096, 'x')), ThrowsMessage<DataError>(HasSubstr("credence pack makes one")));
  EXPECT_THAT([] { open_data("pack:/nowhere.h5", Split::train); }, ThrowsMessage<DataError>(HasSubstr("/nowhere.h5")));
}

TEST_F(Pack, HostileTablesAreRefused) {
  append({0, 1, 6}, 0);
  assemble();
  const std::string good = bytes();
  const PackHeader header = header_of(good);
  const auto refused = [&](const PackHeader& changed, const std::string& content) {
    return [this, changed, content] { open_changed(changed, content); };
  };
  for (std::size_t table = 0; table < kPackTables.size(); ++table)
    for (const std::uint64_t value : {std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{0} - 15}) {
      PackHeader wide = header;
      wide.extents[table].bytes = value;
      EXPECT_THROW(refused(wide, good)(), DataError) << table;
      PackHeader far = header;
      far.extents[table].offset = value;
      EXPECT_THROW(refused(far, good)(), DataError) << table;
    }
  PackHeader many = header;
  many.records = std::uint64_t{1} << 61;
  EXPECT_THROW(refused(many, good)(), DataError);

  const auto with_value = [&](std::size_t table, std::int64_t value) {
    return [&, table, value] { open_with_value(good, table, value); };
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  for (const std::size_t table : {1U, 2U, 3U})
    for (const std::int64_t value : {std::int64_t{-1}, kHuge, std::numeric_limits<std::int64_t>::min()})
      EXPECT_THAT(with_value(table, value), ThrowsMessage<DataError>(HasSubstr("record 1"))) << table;
  EXPECT_THAT(with_value(2, 0), ThrowsMessage<DataError>(HasSubstr("record 1 has 0 bytes")));
  for (const std::size_t table : {6U, 7U})
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-1}, kHuge})
      EXPECT_THAT(with_value(table, value), ThrowsMessage<DataError>(HasSubstr("record 1"))) << table;

  for (const ImageSize& size : {ImageSize{kHuge, 1}, {1 << 26, 2}, {-1, -1}, {24, 40}}) {
    PackHeader other = header;
    other.common_size = size;
    EXPECT_THAT(refused(other, good), ThrowsMessage<DataError>(HasSubstr("not the size of all"))) << size.height;
  }
  PackHeader many_classes = header;
  many_classes.classes = std::uint64_t{1} << 32;
  EXPECT_THAT(refused(many_classes, good), ThrowsMessage<DataError>(HasSubstr("2 names for 4294967296 classes")));
  many_classes.extents[9].bytes = 0;
  EXPECT_THAT([&] { open_with_tables(many_classes, good); },
              ThrowsMessage<DataError>(HasSubstr("4294967296 classes without names")));
}

TEST_F(Pack, RawRecordsHaveABytePerPixelAndChannel) {
  append({0, 1, 6}, 0, {.kind = PackSettings::Kind::raw, .short_side = 20});
  assemble();
  const std::string good = bytes();
  EXPECT_NO_THROW(open_with_value(good, 6, 20));
  for (const std::int64_t height : {19, 21}) {
    EXPECT_THAT([&] { open_with_value(good, 6, height); }, ThrowsMessage<DataError>(HasSubstr("record 1 has")));
  }
}

}  // namespace
}  // namespace credence
