# Installs the build tree into a fresh prefix, builds project/ against that alone, runs what comes out.
file(REMOVE_RECURSE ${WORK_DIR}/prefix ${WORK_DIR}/build)
set(LAUNCHER_OPTION "")
if(LAUNCHER)
  set(LAUNCHER_OPTION "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")
endif()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "'${command}' gave ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix)
# The package must not lean on the tree it was built in.
file(GLOB_RECURSE package_files ${WORK_DIR}/prefix/lib*/cmake/*.cmake)
foreach(file IN LISTS package_files)
  file(STRINGS ${file} leaks REGEX "${BUILD_DIR}/(framework|launchers)|${PROJECT_DIR}")
  if(leaks)
    message(FATAL_ERROR "${file} names the build tree: ${leaks}")
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${PROJECT_DIR} -B ${WORK_DIR}/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=${BUILD_TYPE}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix ${LAUNCHER_OPTION})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)

run(${WORK_DIR}/build/noise)
# First word of philox4x32-10 with counter and key zero: the known answer of Salmon et al. 2011's own code.
if(NOT output STREQUAL "6627e8d5\n")
  message(FATAL_ERROR "noise printed '${output}'")
endif()
if(WITH_TORCH)
  run(${WORK_DIR}/build/network)
  # 3 * 4 + 4 weights and biases of the first layer, 4 * 2 of the second.
  if(NOT output STREQUAL "24 parameters\n")
    message(FATAL_ERROR "network printed '${output}'")
  endif()
endif()
message(STATUS "installed, found, linked and run")
