# `cmake --install`: headers, static libraries and the package file behind find_package(credence).
include(CMakePackageConfigHelpers)
set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/credence)
get_property(_libraries GLOBAL PROPERTY CREDENCE_LIBRARIES)

# credence::credence is the whole library, in this tree and installed.
add_library(credence_all INTERFACE)
add_library(credence::credence ALIAS credence_all)
set_target_properties(credence_all PROPERTIES EXPORT_NAME credence)
target_link_libraries(credence_all INTERFACE ${_libraries})

install(TARGETS credence_all ${_libraries} EXPORT credence-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/framework/credence TYPE INCLUDE FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh")
install(EXPORT credence-targets NAMESPACE credence:: DESTINATION ${_package_dir})
# The installed package finds the outside libraries with the same files as this build.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/framework/cmake/ DESTINATION ${_package_dir} FILES_MATCHING PATTERN "Find*.cmake"
  PATTERN "dependencies.cmake")
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/credence-config.cmake.in
  ${PROJECT_BINARY_DIR}/credence-config.cmake INSTALL_DESTINATION ${_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/credence-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/credence-config.cmake ${PROJECT_BINARY_DIR}/credence-config-version.cmake
  DESTINATION ${_package_dir})
