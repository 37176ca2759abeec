// Tables in the memory of a CUDA device, and views in kernels. Compiled where nvcc is; the test
// itself needs a device, and says so if there is none.
#include <cuda_runtime.h>

#include <doctest/doctest.h>
#include <cstddef>
#include <cstdint>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using points = soa::table<soa::column<"x", double>, soa::column<"px", float>,
                          soa::column<"id", std::uint64_t>>;
using points_aos = points::with_layout<soa::layout::aos>;

template <class View>
__global__ void drift(View rows, double length) {
  const std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (i >= rows.size()) return;
  auto [x, px, id] = rows[i];  // references
  x += length * static_cast<double>(px);
  soa::get<"id">(rows[i]) += 1;
}

template <class View>
__global__ void swap_neighbours(View rows) {
  const std::size_t i = 2 * (blockIdx.x * std::size_t{blockDim.x} + threadIdx.x);
  if (i + 1 >= rows.size()) return;
  const typename View::value_type kept = rows[i];
  rows[i] = rows[i + 1];
  *(rows.begin() + static_cast<std::ptrdiff_t>(i + 1)) = kept;
}

bool no_device() {
  int count = 0;
  const bool none = cudaGetDeviceCount(&count) != cudaSuccess || count == 0;
  if (none) MESSAGE("no CUDA device: not run");
  return none;
}

}  // namespace

TEST_CASE_TEMPLATE("a table on the device", table, points, points_aos) {
  if (no_device()) return;
  using device_table = typename table::template with_allocator<soa::cuda_allocator<>>;
  table host(1000);
  for (std::size_t i = 0; i < host.size(); ++i) {
    host[i] = typename table::value_type(1.0, static_cast<float>(i), i);
  }
  device_table d(host);
  CHECK(d.where().type == soa::device::cuda);
  CHECK(d.template tensor<"x">().device == d.where());
  drift<<<8, 128>>>(d.view(), 2.0);
  d.resize(2000);
  swap_neighbours<<<8, 128>>>(d.view());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);

  const table back(d);
  REQUIRE(back.size() == 2000);
  for (std::size_t i = 0; i < 1000; ++i) {
    const std::size_t from = i ^ 1;
    CHECK(back[i] == typename table::value_type(1.0 + 2.0 * static_cast<double>(from),
                                                static_cast<float>(from), from + 1));
  }
  CHECK(back[1999] == typename table::value_type());
  CHECK_THROWS_AS(d.reserve(std::size_t{1} << 50), std::bad_alloc);
  CHECK(table(d) == back);
}
