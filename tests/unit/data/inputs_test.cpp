#include "credence/data/inputs.h"

#include <gmock/gmock.h>

#include "credence/base/errors.h"
#include "credence/data/csv.h"
#include "unit/data/files.h"

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

}  // namespace
}  // namespace credence
