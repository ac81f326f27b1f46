# Warnings and sanitizers as interface targets; CUDA where asked for and found.
add_library(credence_warnings INTERFACE)
target_compile_options(credence_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual -Wundef>)
if(CREDENCE_WERROR)
  target_compile_options(credence_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CREDENCE_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${CREDENCE_SANITIZE}>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  add_link_options(-fsanitize=${CREDENCE_SANITIZE})
endif()

# One static library per folder; `depends` may only name folders above it in framework/README.md.
function(credence_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPENDS;PUBLIC;PRIVATE")
  add_library(credence_${name} STATIC ${arg_SOURCES})
  add_library(credence::${name} ALIAS credence_${name})
  set_target_properties(credence_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(credence_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/framework> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(credence_${name} PUBLIC cxx_std_20)
  list(TRANSFORM arg_DEPENDS PREPEND credence_)
  target_link_libraries(credence_${name} PUBLIC ${arg_DEPENDS} ${arg_PUBLIC}
    PRIVATE $<BUILD_INTERFACE:credence_warnings> ${arg_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY CREDENCE_LIBRARIES credence_${name})
endfunction()
