# NCCL: imported target NCCL::nccl.
#
# Searched: NCCL_ROOT, the nvidia-nccl wheel beside LibTorch in site-packages/nvidia/nccl (so that one NCCL serves both),
# the CUDA toolkit, the system. Include this after LibTorch was found.
set(_nccl_roots ${NCCL_ROOT} $ENV{NCCL_ROOT} ${NCCL_HOME} $ENV{NCCL_HOME})
foreach(_torch IN ITEMS ${LibTorch_ROOT_DIR} ${LibTorch_HINTS} ${CREDENCE_LIBTORCH} $ENV{CREDENCE_LIBTORCH} ${CMAKE_PREFIX_PATH}
    ${PROJECT_SOURCE_DIR}/.deps/gpu/torch)
  list(APPEND _nccl_roots ${_torch}/../nvidia/nccl ${_torch}/nvidia/nccl)
endforeach()
list(APPEND _nccl_roots ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_ROOT})
find_path(NCCL_INCLUDE_DIR nccl.h PATHS ${_nccl_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(NCCL_INCLUDE_DIR nccl.h)
# The wheel has no development link, only the versioned library.
set(_nccl_suffixes ${CMAKE_FIND_LIBRARY_SUFFIXES})
list(APPEND CMAKE_FIND_LIBRARY_SUFFIXES .so.2)
find_library(NCCL_LIBRARY nccl PATHS ${_nccl_roots} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
find_library(NCCL_LIBRARY nccl)
set(CMAKE_FIND_LIBRARY_SUFFIXES ${_nccl_suffixes})

if(NCCL_INCLUDE_DIR)
  set(_version)
  foreach(_part MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h _line REGEX "^#define NCCL_${_part} ")
    string(REGEX REPLACE "[^0-9]" "" _line "${_line}")
    list(APPEND _version ${_line})
  endforeach()
  list(JOIN _version "." NCCL_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION
  REASON_FAILURE_MESSAGE "Run launchers/setup --gpu, or point NCCL_ROOT at an NCCL.")
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
  target_link_libraries(NCCL::nccl INTERFACE CUDA::cudart_static)
endif()
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
