# The compiler flags every target of this project is built with: betatron_compiler_settings(target).
include(CheckCXXCompilerFlag)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "Betatron needs g++ 12 or newer, found ${CMAKE_CXX_COMPILER_VERSION}; "
    "choose another compiler with the environment variable CXX")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()

# Never -ffast-math: a NaN must stay a NaN, and compensated sums must not be simplified away.
# Fused multiply-add, no errno and no floating-point traps are what the hot loops need.
set(betatron_numeric_flags -ffp-contract=fast -fno-math-errno -fno-trapping-math)
set(betatron_warning_flags -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
# Packs wider than a register pass by reference; GCC notes at each use that this is not the vector
# calling convention. No pack crosses a library boundary.
check_cxx_compiler_flag(-Wpsabi betatron_has_wpsabi)
if(betatron_has_wpsabi)
  list(APPEND betatron_warning_flags -Wno-psabi)
endif()
# Maps combine comparisons by & and |, for the masks of packs and for bool alike.
check_cxx_compiler_flag(-Wbitwise-instead-of-logical betatron_has_wbitwise)
if(betatron_has_wbitwise)
  list(APPEND betatron_warning_flags -Wno-bitwise-instead-of-logical)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # a false alarm in std::string operator+ at -O3 (GCC bug 105651)
  list(APPEND betatron_warning_flags -Wno-restrict)
endif()
if(BETATRON_WERROR)
  list(APPEND betatron_warning_flags -Werror)
endif()

function(betatron_compiler_settings target)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${betatron_numeric_flags}>"
    "$<$<COMPILE_LANGUAGE:CXX>:${betatron_warning_flags}>")
  if(BETATRON_SANITIZE)
    # -O1 keeps the stack traces readable and the build short.
    target_compile_options(${target} PRIVATE
      -fsanitize=${BETATRON_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
    target_compile_definitions(${target} PRIVATE BETATRON_SANITIZED)  # see src/numerics/hd.h
    target_link_options(${target} PUBLIC -fsanitize=${BETATRON_SANITIZE})
  else()
    target_compile_options(${target} PRIVATE "$<$<CONFIG:Release>:-O3>")
  endif()
endfunction()
