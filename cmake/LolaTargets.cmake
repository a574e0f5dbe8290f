# One function per kind of target, so that a room's CMakeLists.txt lists names and sources only.

# lola_library(name SOURCES ... DEPS ...): static library; includes are written from the root.
function(lola_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

function(lola_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()

# lola_test(name SOURCES ... DEPS ... [LABELS ...] [TIMEOUT s] [ARGS ...]): one ctest entry.
function(lola_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS;ARGS" ${ARGN})
  lola_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE LOLA_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             LOLA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# lola_test_classes(name ...): runs tests that call kernels once more under every instruction class
# below the machine's best one; where the machine lacks a class, that run is skipped.
function(lola_test_classes)
  foreach(name ${ARGN})
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support/instruction_class.cc)
    foreach(class avx512bf16 avx512 avx2 scalar)
      add_test(NAME ${name}_${class} COMMAND ${name})
      set_tests_properties(${name}_${class} PROPERTIES LABELS unit TIMEOUT 600 SKIP_RETURN_CODE 77
                           ENVIRONMENT LOLA_TEST_INSTRUCTIONS=${class})
    endforeach()
  endforeach()
endfunction()

# lola_bench(name ...): a benchmark; its --smoke run is a test so that it never rots.
function(lola_bench name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  lola_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
  target_compile_definitions(${name} PRIVATE LOLA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${name}_smoke COMMAND ${name} --smoke)
  set_tests_properties(${name}_smoke PROPERTIES LABELS bench TIMEOUT 300)
endfunction()

# lola_fuzz(name SOURCES f.cc DEPS ...): f.cc defines LLVMFuzzerTestOneInput. With clang and
# LOLA_FUZZ=ON a libFuzzer binary; otherwise a replay of seeds and mutations as a plain test.
# The target fuzz_targets builds them all and nothing else.
option(LOLA_FUZZ "build libFuzzer binaries (needs clang)" OFF)
add_custom_target(fuzz_targets)
function(lola_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(LOLA_FUZZ)
    lola_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    lola_binary(${name} SOURCES ${ARG_SOURCES} ${CMAKE_SOURCE_DIR}/tests/support/fuzz_main.cc
                DEPS ${ARG_DEPS})
  endif()
  add_dependencies(fuzz_targets ${name})
  add_test(NAME ${name} COMMAND ${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name} -runs=2000)
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 300)
endfunction()

# lola_proto(name protos...): C++ messages and gRPC stubs, generated in the build tree only.
function(lola_proto name)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} PUBLIC ${CMAKE_BINARY_DIR}/proto)
  target_link_libraries(${name} PUBLIC protobuf::libprotobuf gRPC::grpc++)
  protobuf_generate(TARGET ${name} LANGUAGE cpp
                    IMPORT_DIRS ${CMAKE_SOURCE_DIR}/proto PROTOC_OUT_DIR ${CMAKE_BINARY_DIR}/proto)
  protobuf_generate(TARGET ${name} LANGUAGE grpc
                    GENERATE_EXTENSIONS .grpc.pb.h .grpc.pb.cc
                    PLUGIN "protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>"
                    IMPORT_DIRS ${CMAKE_SOURCE_DIR}/proto PROTOC_OUT_DIR ${CMAKE_BINARY_DIR}/proto)
endfunction()

# lola_add_rooms(): adds every direct child folder that has a CMakeLists.txt, in name order.
# Targets may link to targets defined later, so the order carries no meaning.
function(lola_add_rooms)
  file(GLOB children CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*/CMakeLists.txt)
  foreach(child IN LISTS children)
    get_filename_component(child_dir ${child} DIRECTORY)
    add_subdirectory(${child_dir})
  endforeach()
endfunction()
