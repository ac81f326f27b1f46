#include "credence/data/inputs.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "credence/data/csv.h"
#include "unit/data/files.h"
#include "unit/data/images.h"

namespace credence {
namespace {

using test::whole;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

ExampleSpec table_of(std::int64_t features, std::vector<std::string> names = {}) {
  ExampleSpec spec;
  spec.input_shape = {features};
  spec.classes = 3;
  spec.feature_names = std::move(names);
  return spec;
}

class Inputs : public testing::Test {
 protected:
  std::vector<float> read(const std::string& text, const ExampleSpec& trained) {
    const auto source = open_inputs(directory_.write("in.csv", text), trained);
    EXPECT_EQ(source->spec().input_shape, trained.input_shape);
    EXPECT_EQ(source->spec().classes, 0);
    const Batch batch = whole(*source);
    EXPECT_THAT(batch.labels, IsEmpty());
    EXPECT_THAT(batch.targets, IsEmpty());
    return batch.inputs;
  }
  void refused(const std::string& text, const ExampleSpec& trained, const std::string& message) {
    EXPECT_THAT([&] { read(text, trained); }, ThrowsMessage<DataError>(AllOf(HasSubstr("in.csv"), HasSubstr(message))))
        << text;
  }
  test::TemporaryDirectory directory_;
};

TEST_F(Inputs, ColumnsAreFoundByNameInAnyOrder) {
  const auto trained = read_csv(directory_.write("train.csv", "Width,split,height,label\n1,train,2,0\n"), Split::train);
  EXPECT_THAT(trained->spec().feature_names, ElementsAre("width", "height"));
  EXPECT_THAT(read("HEIGHT,id,Width\n2,99,1\n4,98,3\n", trained->spec()), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(read("label,height,width\n0,2,1\n", trained->spec()), ElementsAre(1, 2));
  EXPECT_THAT(read("height,width,label\n2,1,unknown\n", trained->spec()), ElementsAre(1, 2)) << "not looked at";
  refused("height,depth\n1,2\n", trained->spec(), "no column 'width'");
}

TEST_F(Inputs, WithoutNamesColumnsAreCounted) {
  EXPECT_THAT(read("a,b\n1,2\n3,4\n", table_of(2)), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(read("x,y\n1,2\n", table_of(2)), ElementsAre(1, 2)) << "y is a feature where that makes the number";
  EXPECT_THAT(read("x,split,z,y\n1,test,2,7\n", table_of(2)), ElementsAre(1, 2)) << "and the target where not";
  EXPECT_THAT(read("label,x,z\n5,1,2\n", table_of(2)), ElementsAre(1, 2));
  EXPECT_THAT(read("x,z,answer\n1,2,5\n", table_of(2)), ElementsAre(1, 2)) << "the last column, as in training";
  refused("a,b,label\n1,2,0\n", table_of(3), "2 feature columns, and the network was trained on 3");
  refused("a,b,c,d\n1,2,3,4\n", table_of(2), "4 feature columns");
}

TEST_F(Inputs, DamagedTablesAreRefused) {
  refused("", table_of(2), "is empty");
  refused("a,b\n", table_of(2), "no rows");
  refused("1,2\n3,4\n", table_of(2), "must name the columns");
  refused("a,b\n1\n", table_of(2), "line 2: there are 1 fields");
  refused("a,b\n1,x\n", table_of(2), "line 2: column 'b' holds 'x'");
  refused("a,b\n1,inf\n", table_of(2), "not a finite number");
  refused("\x89PNG\r\n", table_of(2), "neither a table");
  refused("\xff\xd8\xff\xe0", table_of(2), "neither a table");
  refused(std::string("a\0b", 3), table_of(2), "neither a table");
  EXPECT_THAT([&] { open_inputs(directory_.path() / "no", table_of(2)); }, ThrowsMessage<DataError>(HasSubstr("no")));
  EXPECT_THAT([&] { open_inputs(directory_.path(), table_of(2)); }, ThrowsMessage<DataError>(HasSubstr("regular")));
}

TEST_F(Inputs, ImagesAreNormalisedAsInTraining) {
  ExampleSpec trained;
  trained.input_shape = {1, 1, 2};
  trained.classes = 10;
  trained.normalization = {{0.5}, {0.25}};
  const std::string file = test::idx_header(0x803, {2, 1, 2}) + std::string{0, '\xff', 51, 102};
  for (const std::string& bytes : {file, test::gzip(file)}) {
    EXPECT_THAT(read(bytes, trained), ElementsAre(-2, 2, (0.2F - 0.5F) / 0.25F, -0.4F));
  }
  refused(test::idx_header(0x803, {1, 2, 1}) + std::string{0, 0}, trained, "images [1, 2, 1]");
  refused(test::idx_header(0x801, {1}) + std::string{0}, trained, "(labels)");
  refused(file.substr(0, file.size() - 1), trained, "truncated");
  refused(file, table_of(2), "inputs [2]");
  refused("a,b\n1,2\n", trained, "is a table");
}

TEST_F(Inputs, ImageFilesAreToldByContentAndReadAsEvaluationReadsThem) {
  const auto write = [&](const std::string& name, const test::Bytes& bytes) {
    std::filesystem::create_directories((directory_.path() / name).parent_path());
    return directory_.write(name, {bytes.begin(), bytes.end()});
  };
  const auto tall = write("test/a/tall.txt", test::jpeg(60, 40));
  const auto wide = write("test/b/wide.jpg", test::jpeg(30, 50));
  write("train/a/x", test::jpeg(9, 9));
  write("train/b/x", test::jpeg(9, 9));
  ExampleSpec trained;
  trained.input_shape = {3, 16, 24};
  trained.classes = 2;
  trained.normalization = {{0.1, 0.2, 0.3}, {0.5, 0.6, 0.7}};
  const DataOptions reading{
      .normalization = trained.normalization, .image_size = "24/30", .trained_shape = trained.input_shape};
  const auto evaluated = open_data("images:" + directory_.path().string(), Split::test, reading);
  EXPECT_THAT(image_files(tall), ElementsAre(tall));
  const auto source = open_image_files({tall, wide}, trained, reading);
  EXPECT_EQ(source->spec().normalization, trained.normalization);
  EXPECT_EQ(whole(*source).pixels, whole(*evaluated).pixels);

  EXPECT_THAT(image_files(directory_.write("table.csv", "a,b\n1,2\n")), IsEmpty());
  EXPECT_THAT([&] { open_image_files({tall}, table_of(2), {}); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("tall.txt is an image"), HasSubstr("inputs [2]"))));
}

TEST_F(Inputs, FoldersOfImagesAreSortedAndHoldNothingElse) {
  const auto bytes = test::jpeg(8, 8);
  const std::string image(bytes.begin(), bytes.end());
  const auto folder = directory_.path() / "flat";
  std::filesystem::create_directories(folder);
  EXPECT_THAT([&] { image_files(folder); }, ThrowsMessage<DataError>(HasSubstr("flat holds no images")));
  for (const char* name : {"flat/b", "flat/a.png", "flat/c.jpeg", "flat/.hidden"}) directory_.write(name, image);
  EXPECT_THAT(image_files(folder), ElementsAre(folder / "a.png", folder / "b", folder / "c.jpeg"));
  directory_.write("flat/notes", "a,b\n");
  EXPECT_THAT([&] { image_files(folder); }, ThrowsMessage<DataError>(HasSubstr("flat/notes is no image")));
  std::filesystem::remove(folder / "notes");
  std::filesystem::create_directories(folder / "cats");
  EXPECT_THAT([&] { image_files(folder); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("cats"), HasSubstr("images:DIR"))));
}

}  // namespace
}  // namespace credence
