# Kernel sources, compiled once per instruction set and precision into one library; dispatchers pick
# at run time, so that the same build serves every CPU.
#
#   betatron_add_isa_kernels(target source [DOUBLE_ONLY] [options...])
#
# compiles `source` with -DBETATRON_ISA=<isa> -DBETATRON_REAL=<float|double> (DOUBLE_ONLY: double)
# for every isa in
# BETATRON_ISAS and adds the objects to `target`, which gets BETATRON_HAS_<ISA> for each of them. The
# object libraries are <target>_<path of the source in src/, with _ for />_<isa>_<real>, compiled with
# the options.
#
# Everything in a source that is not always inlined must carry BETATRON_ISA in its symbol name: the
# linker keeps one copy of an inline function, and must not keep one that needs AVX-512 for all. The
# test `isa_symbols` checks this.
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(betatron_known_isas v2 v3 v4)   # the x86-64 micro-architecture levels: SSE4.2, AVX2, AVX-512
else()
  set(betatron_known_isas base)       # what the compiler targets by default, e.g. NEON on arm64
endif()
set(BETATRON_ISAS "${betatron_known_isas}" CACHE STRING
  "Instruction sets to compile the tracking kernels for; one or more of: ${betatron_known_isas}")
foreach(isa IN LISTS BETATRON_ISAS)
  if(NOT isa IN_LIST betatron_known_isas)
    message(FATAL_ERROR "BETATRON_ISAS: unknown instruction set '${isa}' for "
      "${CMAKE_SYSTEM_PROCESSOR}; known: ${betatron_known_isas}")
  endif()
endforeach()

# For compilers that do not know the level names.
set(betatron_fallback_flags_v2 -msse4.2 -mpopcnt -mcx16)
set(betatron_fallback_flags_v3 -mavx2 -mfma -mbmi -mbmi2 -mf16c -mlzcnt -mmovbe)
set(betatron_fallback_flags_v4 ${betatron_fallback_flags_v3}
  -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx512cd)

function(betatron_isa_flags isa result)
  set(flags "")
  if(NOT isa STREQUAL "base")
    check_cxx_compiler_flag(-march=x86-64-${isa} betatron_has_march_${isa})
    if(betatron_has_march_${isa})
      set(flags -march=x86-64-${isa})
    else()
      set(flags ${betatron_fallback_flags_${isa}})
    endif()
  endif()
  if(isa STREQUAL "v4")
    # Both compilers otherwise prefer 256-bit vectors and may split 512-bit packs.
    list(APPEND flags -mprefer-vector-width=512)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # GCC 12's own avx512fintrin.h trips over it in unmasked intrinsics (GCC bug 105593)
      list(APPEND flags -Wno-maybe-uninitialized)
    endif()
  endif()
  set(${result} "${flags}" PARENT_SCOPE)
endfunction()

function(betatron_add_isa_kernels target source)
  set(options ${ARGN})
  set(precisions float double)
  if("DOUBLE_ONLY" IN_LIST options)
    list(REMOVE_ITEM options DOUBLE_ONLY)
    set(precisions double)
  endif()
  cmake_path(RELATIVE_PATH source BASE_DIRECTORY "${PROJECT_SOURCE_DIR}/src" OUTPUT_VARIABLE name)
  cmake_path(REMOVE_EXTENSION name)
  string(REPLACE "/" "_" name "${name}")
  foreach(isa IN LISTS BETATRON_ISAS)
    betatron_isa_flags(${isa} isa_flags)
    foreach(real IN LISTS precisions)
      set(kernels ${target}_${name}_${isa}_${real})
      add_library(${kernels} OBJECT "${source}")
      betatron_compiler_settings(${kernels})
      target_compile_features(${kernels} PRIVATE cxx_std_20)
      target_compile_options(${kernels} PRIVATE ${isa_flags} ${options})
      target_compile_definitions(${kernels} PRIVATE BETATRON_ISA=${isa} BETATRON_REAL=${real})
      target_include_directories(${kernels} PRIVATE "${PROJECT_SOURCE_DIR}/src"
        "${PROJECT_BINARY_DIR}/include")
      set_target_properties(${kernels} PROPERTIES POSITION_INDEPENDENT_CODE ON)
      target_sources(${target} PRIVATE "$<TARGET_OBJECTS:${kernels}>")
    endforeach()
    string(TOUPPER ${isa} isa_upper)
    target_compile_definitions(${target} PRIVATE BETATRON_HAS_${isa_upper}=1)
  endforeach()
endfunction()

# betatron_add_extension_kernels(target source name flags...): one source for instructions beyond AVX-512, where the
# compiler knows them and the AVX-512 kernels are built. The object library is <target>_<name>; `target` gets
# BETATRON_HAS_<NAME>. It finds out at run time whether the processor has them.
function(betatron_add_extension_kernels target source name)
  if(NOT "v4" IN_LIST BETATRON_ISAS)
    return()
  endif()
  string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${ARGN}")
  check_cxx_source_compiles("int main() { return 0; }" betatron_compiles_${name})
  if(NOT betatron_compiles_${name})
    return()
  endif()
  betatron_isa_flags(v4 isa_flags)
  add_library(${target}_${name} OBJECT "${source}")
  betatron_compiler_settings(${target}_${name})
  target_compile_features(${target}_${name} PRIVATE cxx_std_20)
  target_compile_options(${target}_${name} PRIVATE ${isa_flags} ${ARGN})
  target_include_directories(${target}_${name} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  # so that functions of packs are forced inline here as in other kernels
  target_compile_definitions(${target}_${name} PRIVATE BETATRON_ISA=v4)
  set_target_properties(${target}_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_sources(${target} PRIVATE "$<TARGET_OBJECTS:${target}_${name}>")
  string(TOUPPER ${name} name_upper)
  target_compile_definitions(${target} PRIVATE BETATRON_HAS_${name_upper}=1)
endfunction()
