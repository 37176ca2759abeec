# The tracking kernels as CUDA device code: the target betatron_cuda from src/tracking/gpu/*.cu.
# With BETATRON_CUDA=AUTO it exists wherever nvcc works and is built only by name
# (cmake --build build --target betatron_cuda); with ON it is required and part of a plain build.
set(betatron_with_cuda OFF)
if(BETATRON_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(betatron_with_cuda ON)
  endif()
elseif(BETATRON_CUDA)
  set(betatron_with_cuda ON)
endif()
file(GLOB cuda_sources CONFIGURE_DEPENDS src/tracking/gpu/*.cu)

if(betatron_with_cuda AND cuda_sources)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    # Machine code for A100 and H100, and PTX of the latter for what comes after.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  enable_language(CUDA)
  add_library(betatron_cuda STATIC ${cuda_sources})
  target_compile_features(betatron_cuda PRIVATE cuda_std_20)
  # constexpr functions of the standard library (std::array, std::numeric_limits) in device code; 1675 is
  # the unroll pragma of GCC in a header that only the host uses
  target_compile_options(betatron_cuda PRIVATE --expt-relaxed-constexpr -diag-suppress=1675)
  if(BETATRON_WERROR)
    target_compile_options(betatron_cuda PRIVATE -Werror=all-warnings)
  endif()
  target_link_libraries(betatron_cuda PRIVATE betatron)
  set_target_properties(betatron_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON)
  if(NOT BETATRON_CUDA STREQUAL "ON")
    set_target_properties(betatron_cuda PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endif()
