# Compiler launcher, linker, warnings and sanitizers. Everything optional is used when present.
find_program(LOLA_CCACHE ccache)
if(LOLA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LOLA_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${LOLA_CCACHE})
endif()

find_program(LOLA_MOLD mold)
if(LOLA_MOLD AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_link_options(-fuse-ld=mold)
endif()
# The process may run where LIBRARY_PATH names stub folders: no run path may come from there.
set(CMAKE_SKIP_BUILD_RPATH OFF)

# CUDA sources take none of these: nvcc reads some of them as its own.
set(LOLA_HOST $<COMPILE_LANGUAGE:C,CXX>)
add_compile_options("$<${LOLA_HOST}:-Wall;-Wextra;-Wno-unused-parameter;-Wno-missing-field-initializers>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<${LOLA_HOST}:-Wno-restrict>)  # g++ 12 sees overlaps inside std::string that are not there
endif()
option(LOLA_WERROR "treat warnings as errors" OFF)
if(LOLA_WERROR)
  add_compile_options($<${LOLA_HOST}:-Werror>)
endif()
# P2: a*b+c must mean the same in every translation unit; fused operations are written explicitly.
add_compile_options($<${LOLA_HOST}:-ffp-contract=off>)

set(LOLA_SANITIZE "" CACHE STRING "comma separated sanitizers: address,undefined or thread")
if(LOLA_SANITIZE)
  add_compile_options(-fsanitize=${LOLA_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${LOLA_SANITIZE})
  add_compile_definitions(LOLA_SANITIZED=1)
endif()
