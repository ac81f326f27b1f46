#include "credence/prediction/netcdf.h"

#include <hdf5_hl.h>

#include <map>
#include <numeric>

#include "credence/base/file_io.h"
#include "credence/base/hdf5.h"

namespace credence {
namespace {

std::string group_of(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

std::string name_of_path(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

/// Properties of groups and datasets: what netCDF sets when it creates them, and no times.
hdf5::Handle creation_properties(const hdf5::Context& context, hid_t kind) {
  hdf5::Handle list = hdf5::open(context, "H5Pcreate", "properties", H5Pclose, [&] { return H5Pcreate(kind); });
  constexpr unsigned kTracked = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
  const auto set = [&](const char* call, auto&& function) { hdf5::check(context, call, "properties", function); };
  set("H5Pset_obj_track_times", [&] { return H5Pset_obj_track_times(list.get(), false); });
  set("H5Pset_attr_creation_order", [&] { return H5Pset_attr_creation_order(list.get(), kTracked); });
  if (kind != H5P_DATASET_CREATE) {
    set("H5Pset_link_creation_order", [&] { return H5Pset_link_creation_order(list.get(), kTracked); });
  } else {
    // Space is taken at once, so that a disk too small says so before draws are made.
    set("H5Pset_alloc_time", [&] { return H5Pset_alloc_time(list.get(), H5D_ALLOC_TIME_EARLY); });
    set("H5Pset_fill_time", [&] { return H5Pset_fill_time(list.get(), H5D_FILL_TIME_NEVER); });
  }
  return list;
}

}  // namespace

struct NetcdfFile::State {
  explicit State(const std::filesystem::path& file)
      : temporary(file),
        context{temporary.path().string()},
        datasets(creation_properties(context, H5P_DATASET_CREATE)) {
    const hdf5::Handle creation = creation_properties(context, H5P_FILE_CREATE);
    const hdf5::Handle access = hdf5::file_access(context);
    root = hdf5::open(context, "H5Fcreate", "file", H5Fclose,
                      [&] { return H5Fcreate(context.file.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()); });
  }

  hdf5::Handle create(const std::string& path, hid_t type, const std::vector<std::int64_t>& shape) const {
    const hdf5::Handle space = hdf5::make_space(context, path, shape);
    return hdf5::open(context, "H5Dcreate2", path, H5Dclose, [&] {
      return H5Dcreate2(root.get(), path.c_str(), type, space.get(), H5P_DEFAULT, datasets.get(), H5P_DEFAULT);
    });
  }
  hdf5::Handle open(const std::string& path) const {
    return hdf5::open(context, "H5Dopen2", path, H5Dclose,
                      [&] { return H5Dopen2(root.get(), path.c_str(), H5P_DEFAULT); });
  }

  struct Variable {
    DType dtype;
    std::vector<std::int64_t> shape;
  };

  TemporaryFile temporary;
  hdf5::Context context;
  hdf5::Handle datasets;  // properties
  hdf5::Handle root;
  std::map<std::string, std::int64_t> dimensions;  // sizes by path
  std::map<std::string, Variable> variables;
};

NetcdfFile::NetcdfFile(const std::filesystem::path& file) : state_(std::make_unique<State>(file)) {}
NetcdfFile::~NetcdfFile() = default;

void NetcdfFile::add_group(const std::string& group, const Attributes& attributes) {
  const hdf5::Context& context = state_->context;
  const hdf5::Handle properties = creation_properties(context, H5P_GROUP_CREATE);
  hdf5::Handle object = hdf5::open(context, "H5Gcreate2", group, H5Gclose, [&] {
    return H5Gcreate2(state_->root.get(), group.c_str(), H5P_DEFAULT, properties.get(), H5P_DEFAULT);
  });
  for (const auto& [name, value] : attributes) hdf5::write_attribute(context, object.get(), name, value);
  object.close(context, group);
}

void NetcdfFile::add_dimension(const std::string& path, std::int64_t size) {
  const hdf5::Context& context = state_->context;
  const hid_t type = hdf5::type_of(DType::int64);
  hdf5::Handle scale = state_->create(path, type, {size});
  hdf5::check(context, "H5DSset_scale", path, [&] { return H5DSset_scale(scale.get(), name_of_path(path).c_str()); });
  hdf5::write_attribute(context, scale.get(), "_Netcdf4Dimid", static_cast<std::int64_t>(state_->dimensions.size()));
  std::vector<std::int64_t> index(static_cast<std::size_t>(size));
  std::iota(index.begin(), index.end(), 0);
  hdf5::check(context, "H5Dwrite", path,
              [&] { return H5Dwrite(scale.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, index.data()); });
  scale.close(context, path);
  state_->dimensions[path] = size;
}

void NetcdfFile::add_variable(const std::string& path, DType dtype, const std::vector<std::string>& dimensions) {
  const hdf5::Context& context = state_->context;
  std::vector<std::string> scales;
  std::vector<std::int64_t> shape;
  for (const std::string& name : dimensions) {
    scales.push_back(group_of(path) + "/" + name);
    ensure(state_->dimensions.contains(scales.back()), "a netCDF variable names a dimension that is not there");
    shape.push_back(state_->dimensions.at(scales.back()));
  }
  hdf5::Handle variable = state_->create(path, hdf5::type_of(dtype), shape);
  for (unsigned i = 0; i < scales.size(); ++i) {
    hdf5::Handle scale = state_->open(scales[i]);
    hdf5::check(context, "H5DSattach_scale", path, [&] { return H5DSattach_scale(variable.get(), scale.get(), i); });
    scale.close(context, scales[i]);
  }
  variable.close(context, path);
  state_->variables[path] = {dtype, std::move(shape)};
}

void NetcdfFile::write(const std::string& path, const void* data) {
  hdf5::Handle variable = state_->open(path);
  const hid_t type = hdf5::type_of(state_->variables.at(path).dtype);
  hdf5::check(state_->context, "H5Dwrite", path,
              [&] { return H5Dwrite(variable.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data); });
  variable.close(state_->context, path);
}

void NetcdfFile::write_draw(const std::string& path, std::int64_t draw, const void* data) {
  const hdf5::Context& context = state_->context;
  const State::Variable& known = state_->variables.at(path);
  ensure(known.shape.size() >= 2 && known.shape[0] == 1 && draw < known.shape[1], "a draw that has no place");
  const hid_t type = hdf5::type_of(known.dtype);
  std::vector<hsize_t> begin(known.shape.size(), 0);
  std::vector<hsize_t> count(known.shape.begin(), known.shape.end());
  begin[1] = static_cast<hsize_t>(draw);
  count[1] = 1;
  const hdf5::Handle memory = hdf5::make_space(context, path, {count.begin(), count.end()});
  hdf5::Handle variable = state_->open(path);
  const hdf5::Handle space =
      hdf5::open(context, "H5Dget_space", path, H5Sclose, [&] { return H5Dget_space(variable.get()); });
  hdf5::check(context, "H5Sselect_hyperslab", path, [&] {
    return H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, begin.data(), nullptr, count.data(), nullptr);
  });
  hdf5::check(context, "H5Dwrite", path,
              [&] { return H5Dwrite(variable.get(), type, memory.get(), space.get(), H5P_DEFAULT, data); });
  variable.close(context, path);
}

void NetcdfFile::publish() {
  state_->root.close(state_->context, "file");
  state_->temporary.sync_and_close();
  state_->temporary.publish();
}

}  // namespace credence
