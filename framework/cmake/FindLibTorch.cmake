# LibTorch from a PyTorch wheel or a LibTorch archive: imported target LibTorch::LibTorch.
#
# The wheel's own package file demands a complete CUDA toolkit even where only the CPU part is used; this module links
# what it finds. Searched, first hit wins:
#   1. CREDENCE_LIBTORCH, variable or environment: a folder with include/ and lib/, or one that contains torch/ (a
#      site-packages folder). Where it is set it must be right; nothing else is tried.
#   2. CMAKE_PREFIX_PATH, variable or environment, each entry likewise.
#   3. LibTorch_HINTS, set by who includes this module: folders as above.
# With CREDENCE_USE_CUDA the CUDA libraries are linked too. Sets LibTorch_ROOT_DIR, LibTorch_VERSION and
# LibTorch_LIBRARY_DIRS (torch/lib first, then the folders of the NVIDIA wheels beside it). Nothing is cached, so a build
# folder can change from the CPU to the GPU tree.
set(LibTorch_ROOT_DIR "")
set(_libtorch_given ${CREDENCE_LIBTORCH})
if(NOT _libtorch_given)
  file(TO_CMAKE_PATH "$ENV{CREDENCE_LIBTORCH}" _libtorch_given)
endif()
if(_libtorch_given)
  set(_libtorch_places ${_libtorch_given})
else()
  file(TO_CMAKE_PATH "$ENV{CMAKE_PREFIX_PATH}" _libtorch_environment)
  set(_libtorch_places ${CMAKE_PREFIX_PATH} ${_libtorch_environment} ${LibTorch_HINTS})
endif()
foreach(_place IN LISTS _libtorch_places)
  foreach(_candidate ${_place} ${_place}/torch)
    if(NOT LibTorch_ROOT_DIR AND EXISTS ${_candidate}/include/torch/script.h)
      get_filename_component(LibTorch_ROOT_DIR ${_candidate} REALPATH)
    endif()
  endforeach()
endforeach()

set(_libtorch_reason "Run launchers/setup, or point CREDENCE_LIBTORCH at a LibTorch 2.11 or newer.")
set(_libtorch_names c10 torch_cpu)
if(CREDENCE_USE_CUDA)
  list(PREPEND _libtorch_names torch_cuda c10_cuda)
endif()
set(_libtorch_required LibTorch_ROOT_DIR)
set(LibTorch_LIBRARIES "")
if(LibTorch_ROOT_DIR)
  foreach(_name IN LISTS _libtorch_names)
    find_library(LibTorch_${_name}_LIBRARY ${_name} PATHS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH NO_CACHE)
    list(APPEND LibTorch_LIBRARIES ${LibTorch_${_name}_LIBRARY})
    list(APPEND _libtorch_required LibTorch_${_name}_LIBRARY)
  endforeach()
  # Resolved, because launchers/setup keeps one copy of the headers for its CPU and its GPU tree.
  get_filename_component(_libtorch_include ${LibTorch_ROOT_DIR}/include REALPATH)
  set(LibTorch_INCLUDE_DIRS ${_libtorch_include} ${_libtorch_include}/torch/csrc/api/include)
  file(GLOB _libtorch_version_files ${_libtorch_include}/torch/headeronly/version.h
    ${_libtorch_include}/torch/csrc/api/include/torch/version.h)
  set(LibTorch_VERSION "")
  foreach(_file IN LISTS _libtorch_version_files)
    file(STRINGS ${_file} _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
    if(_lines)
      string(REGEX REPLACE "[^0-9;]" "" _lines "${_lines}")
      string(REPLACE ";" "." LibTorch_VERSION "${_lines}")
    endif()
  endforeach()

  file(GLOB _libtorch_nvidia_dirs ${LibTorch_ROOT_DIR}/../nvidia/*/lib)
  set(LibTorch_LIBRARY_DIRS ${LibTorch_ROOT_DIR}/lib)
  foreach(_dir IN LISTS _libtorch_nvidia_dirs)
    get_filename_component(_dir ${_dir} REALPATH)
    list(APPEND LibTorch_LIBRARY_DIRS ${_dir})
  endforeach()
  # The CPU tree of launchers/setup has libtorch_cuda.so, which the wheel contains, but not what that needs.
  if(CREDENCE_USE_CUDA AND _libtorch_nvidia_dirs AND NOT EXISTS ${LibTorch_ROOT_DIR}/../nvidia/nccl/lib)
    list(APPEND _libtorch_required LibTorch_CUDA_LIBRARIES)
    set(_libtorch_reason "${LibTorch_ROOT_DIR} lacks the CUDA libraries: run launchers/setup --gpu, or configure with \
-DCREDENCE_GPU=OFF.")
  endif()
elseif(_libtorch_given)
  set(_libtorch_reason "CREDENCE_LIBTORCH is ${_libtorch_given}, which holds neither include/torch/script.h nor \
torch/include/torch/script.h.")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS ${_libtorch_required} VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "${_libtorch_reason}")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  # LibTorch brings headers of its own fmt, of another version than the fmt that is linked: its folders are searched last.
  foreach(_dir IN LISTS LibTorch_INCLUDE_DIRS)
    target_compile_options(LibTorch::LibTorch INTERFACE "SHELL:-idirafter ${_dir}")
  endforeach()
  target_link_libraries(LibTorch::LibTorch INTERFACE ${LibTorch_LIBRARIES})
  # torch/lib comes first in the run path, so its libgomp.so.1 serves the whole process: two OpenMP run-times would fight
  # over the cores. rpath-link lets the linker resolve what the libraries need in turn.
  foreach(_dir IN LISTS LibTorch_LIBRARY_DIRS)
    target_link_options(LibTorch::LibTorch INTERFACE "LINKER:-rpath,${_dir}" "LINKER:-rpath-link,${_dir}")
  endforeach()
  # The CUDA back end registers itself when loaded, no symbol refers to it: a linker that drops unneeded libraries would.
  if(CREDENCE_USE_CUDA)
    target_link_options(LibTorch::LibTorch INTERFACE
      "LINKER:--push-state,--no-as-needed,${LibTorch_torch_cuda_LIBRARY},--pop-state")
  endif()
endif()
