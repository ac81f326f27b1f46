// Mutated files for every reader of data: whatever they hold, the result is examples or a DataError, never a crash (the
// sanitizers' build runs this too). CREDENCE_FUZZ_SECONDS makes each reader go on for that long, with other seeds.
#include <gmock/gmock.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"
#include "credence/communication/factory.h"
#include "credence/data/bad_records.h"
#include "credence/data/cifar_store.h"
#include "credence/data/csv.h"
#include "credence/data/folder_store.h"
#include "credence/data/idx.h"
#include "credence/data/image_source.h"
#include "credence/data/open.h"
#include "credence/data/pack_assembly.h"
#include "credence/data/pack_store.h"
#include "unit/data/files.h"
#include "unit/data/images.h"

namespace credence {
namespace {

#include "unit/data/references/images.inc"

using test::Bytes;
using Random = std::mt19937_64;

constexpr int kFixedRounds = 1500;  // without CREDENCE_FUZZ_SECONDS

std::size_t below(Random& random, std::size_t bound) {
  return bound == 0 ? 0 : random() % bound;
}

void mutate(Bytes& bytes, const std::vector<Bytes>& seeds, Random& random) {
  constexpr std::uint8_t kTelling[] = {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff};
  if (bytes.empty()) return;
  const std::size_t at = below(random, bytes.size());
  switch (random() % 8) {
    case 0:
      bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ (1U << (random() % 8)));
      break;
    case 1:
      bytes[at] = static_cast<std::uint8_t>(random());
      break;
    case 2:
      for (std::size_t i = at; i < std::min(at + 1 + below(random, 8), bytes.size()); ++i)
        bytes[i] = kTelling[random() % std::size(kTelling)];
      break;
    case 3:
      bytes.resize(at);
      break;
    case 4: {  // a piece of another file
      const Bytes& other = seeds[below(random, seeds.size())];
      const std::size_t from = below(random, other.size());
      const std::size_t count = std::min({below(random, 64) + 1, other.size() - from, bytes.size() - at});
      std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), count,
                  bytes.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    }
    case 5:
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), 1 + below(random, 16),
                   static_cast<std::uint8_t>(random()));
      break;
    case 6:
      bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                  bytes.begin() + static_cast<std::ptrdiff_t>(std::min(at + 1 + below(random, 16), bytes.size())));
      break;
    default:  // the headers, where sizes are
      bytes[below(random, std::min<std::size_t>(bytes.size(), 700))] = static_cast<std::uint8_t>(random());
  }
}

/// Reads mutated seeds until the rounds or the time are over; `read` may throw errors about data.
void fuzz(const std::vector<Bytes>& seeds, const std::function<void(const Bytes&, Random&)>& read) {
  const char* const given = std::getenv("CREDENCE_FUZZ_SECONDS");
  const double seconds = given != nullptr ? std::atof(given) : 0.0;
  Random random(given != nullptr ? std::random_device()() : 1);
  const Stopwatch watch;
  std::int64_t refused = 0;
  std::int64_t round = 0;
  for (; seconds > 0.0 ? watch.seconds() < seconds : round < kFixedRounds; ++round) {
    Bytes bytes = seeds[below(random, seeds.size())];
    for (std::size_t i = 0; i < 1 + below(random, 4); ++i) mutate(bytes, seeds, random);
    const Stopwatch one;
    try {
      read(bytes, random);
    } catch (const DataError&) {
      ++refused;
    }
    ASSERT_LT(one.seconds(), 20.0) << "round " << round;
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, round);
  if (seconds > 0.0) std::printf("%ld files, %ld of them refused\n", round, refused);
}

void read_image(const Bytes& bytes, Random& random) {
  static ImageReader reader;  // its memory is reused, as in training
  const int channels = random() % 4 == 0 ? 1 : 3;
  const ImageSize size = reader.open({sniff_encoding(bytes), {}, bytes}, channels);
  const ImageSize output{1 + static_cast<std::int64_t>(below(random, 40)),
                         1 + static_cast<std::int64_t>(below(random, 40))};
  Box box;
  box.height = 1 + static_cast<std::int64_t>(below(random, static_cast<std::size_t>(size.height)));
  box.width = 1 + static_cast<std::int64_t>(below(random, static_cast<std::size_t>(size.width)));
  box.top = static_cast<std::int64_t>(below(random, static_cast<std::size_t>(size.height - box.height + 1)));
  box.left = static_cast<std::int64_t>(below(random, static_cast<std::size_t>(size.width - box.width + 1)));
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(output.height * output.width * channels));
  reader.read(random() % 4 == 0 ? whole_view(size, output) : box_view(box, output), pixels.data());
}

TEST(Fuzz, Jpeg) {
  Bytes subsampled = test::jpeg(70, 90, 60);
  fuzz({jpeg_color_file, jpeg_progressive_file, jpeg_gray_file, jpeg_cmyk_file, subsampled,
        test::with_orientation(subsampled, 6)},
       read_image);
}

TEST(Fuzz, Png) {
  fuzz({png_palette_file, png_gray_file, png_alpha_file}, read_image);
}

TEST(Fuzz, Cifar) {
  const test::TemporaryDirectory directory;
  Bytes records;
  for (int i = 0; i < 3 * 3074; ++i) records.push_back(static_cast<std::uint8_t>(i % 3074 < 2 ? i % 7 : i));
  fuzz({records}, [&](const Bytes& bytes, Random&) {
    directory.write("train.bin", test::text(bytes));
    const CifarStore store(directory.path(), Cifar::hundred, Split::train);
    std::vector<std::uint8_t> buffer;
    for (std::int64_t i = 0; i < store.size(); ++i) store.read(i, buffer);
  });
}

Bytes bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

TEST(Fuzz, Idx) {
  const test::TemporaryDirectory directory;
  const std::string images = test::idx_header(0x803, {12, 5, 4}) + std::string(12 * 5 * 4, 'x');
  const std::string labels = test::idx_header(0x801, {12}) + std::string(12, '\3');
  const IdxFiles files{.images = directory.write("images", images),
                       .labels = directory.write("labels", labels),
                       .class_names = {},
                       .normalization = {}};
  const auto read = [&] {
    test::whole(IdxSource(files));
    std::vector<std::uint8_t> buffer;
    const IdxStore store(files, 3);
    for (std::int64_t i = 0; i < store.size(); ++i) store.read(i, buffer);
  };
  fuzz({bytes_of(images), bytes_of(test::gzip(images))}, [&](const Bytes& bytes, Random&) {
    directory.write("images", test::text(bytes));
    read();
  });
  directory.write("images", images);
  fuzz({bytes_of(labels), bytes_of(test::gzip(labels))}, [&](const Bytes& bytes, Random&) {
    directory.write("labels", test::text(bytes));
    read();
  });
}

TEST(Fuzz, Csv) {
  const test::TemporaryDirectory directory;
  const std::string numbers = "x,z,split,target_a,target_b\n1,2.5,train,0.5,1e3\n-3,4e-2,test,1,2\n0,7,train,3,4\n";
  const std::string classes = "a,\"b\",label\r\n1,2,0\r\n3,4,1\r\n5,-6.25,2\r\n";
  fuzz({bytes_of(numbers), bytes_of(classes), bytes_of(test::gzip(numbers))}, [&](const Bytes& bytes, Random& random) {
    const auto file = directory.write("table.csv", test::text(bytes));
    test::whole(*read_csv(file, random() % 2 == 0 ? Split::train : Split::test));
    const ExampleSpec trained{
        .input_shape = {2}, .classes = 3, .class_names = {}, .normalization = {}, .feature_names = {"a", "b"}};
    test::whole(*read_csv_inputs(file, trained));
  });
}

/// Puts the digests of a pack in order, so that what is behind them is reached.
void seal(Bytes& pack) {
  if (pack.size() < kPackUserBlockBytes) return;
  const auto digest_at = [&](std::size_t at, const Digest& digest) {
    std::memcpy(pack.data() + at, digest.data(), digest.size());
  };
  const auto bytes = std::as_writable_bytes(std::span(pack));
  const std::uint64_t length = pack.size();
  std::memcpy(pack.data() + 16, &length, sizeof(length));
  constexpr std::size_t kExtents = 56;  // in the user block, 16 bytes each
  Hasher hasher;
  for (std::size_t i = 1; i < kPackTables.size(); ++i) {
    PackExtent extent;
    std::memcpy(&extent, pack.data() + kExtents + 16 * i, sizeof(extent));
    if (extent.offset > length || extent.bytes > length - extent.offset) return;
    hasher.update(bytes.subspan(extent.offset, extent.bytes));
  }
  digest_at(kExtents + 16 * kPackTables.size(), hasher.digest());
  digest_at(kPackUserBlockBytes - 16, digest_of(bytes.first(kPackUserBlockBytes - 16)));
}

TEST(Fuzz, Pack) {
  const test::TemporaryDirectory directory;
  std::filesystem::create_directories(directory.path() / "images/a");
  std::filesystem::create_directories(directory.path() / "parts");
  for (int i = 0; i < 4; ++i)
    directory.write("images/a/" + std::to_string(i), test::text(test::jpeg(16, 16 + 2 * i, 50)));
  const auto source = open_store("images:" + (directory.path() / "images").string(), Split::train);
  const std::vector<PackSource> sources = {{source.get(), PackSplit::both}};
  const std::vector<Digest> keys = record_keys(sources);
  const std::filesystem::path file = directory.path() / "packed.h5";
  const std::filesystem::path parts = directory.path() / "parts";
  {
    PartWriter writer(parts, 0, {});
    RecordPacker packer(*source, {.kind = PackSettings::Kind::keep});
    for (std::size_t i = 0; i < keys.size(); ++i) writer.append(keys[i], packer.pack(static_cast<std::int64_t>(i)));
    writer.sync();
  }
  std::atomic<std::int64_t> progress = 0;
  PackAssembly assembly({file, parts, sources, {}}, entries_of(keys, read_parts(parts, {}).entries));
  assembly.copy(progress, [] { return false; });
  assembly.publish();
  const std::unique_ptr<Communicator> communicator = make_self_communicator();
  std::vector<std::uint8_t> good;
  read_whole_file(file, good);
  fuzz({good}, [&](const Bytes& mutated, Random& random) {
    Bytes bytes = mutated;
    if (random() % 4 != 0) seal(bytes);
    directory.write("mutated.h5", test::text(bytes));
    const auto opened =
        open_data("pack:" + (directory.path() / "mutated.h5").string(), Split::train, {.image_size = "8"});
    if (opened->size() >= 100) return;
    leave_out_bad_records(*opened, 100, 1, *communicator);
    test::whole(*opened);
  });
}

TEST(Fuzz, Journal) {
  const test::TemporaryDirectory directory;
  {
    PartWriter writer(directory.path(), 0, {});
    const Bytes bytes(10, 1);
    for (std::uint8_t i = 0; i < 5; ++i) writer.append(Digest{i}, {Encoding::raw, {1, 1}, bytes});
    writer.sync();
  }
  std::vector<std::uint8_t> good;
  read_whole_file(directory.path() / "part-0000.journal", good);
  fuzz({good}, [&](const Bytes& bytes, Random&) {
    directory.write("part-0000.journal", test::text(bytes));
    const std::size_t entries = read_parts(directory.path(), {}).entries.size();
    EXPECT_LE(entries, 10U);
    if (entries < 5) throw DataError("the journal ends early");
  });
}

}  // namespace
}  // namespace credence
