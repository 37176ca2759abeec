// memory.h: where tables get their memory. A table takes any standard allocator (rebound to cache
// lines, so blocks are 64-byte aligned whatever the allocator). One whose memory the host cannot
// touch says so by a member type `memory` with the interface of `host_memory`, and a member
// `where()`.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "soa/schema.h"
#include "soa/tensor.h"

#if defined(__CUDACC__) || (defined(BETATRON_HAS_CUDA) && (BETATRON_HAS_CUDA + 0))
#include <cuda_runtime_api.h>
#define BETATRON_SOA_CUDA 1
#endif

namespace betatron::soa {

/// Aligned host memory: the default.
using host_allocator = std::allocator<cache_line>;

/// How bytes are copied and cleared.
struct host_memory {
  static constexpr bool host_accessible = true;

  static void copy(void* to, const void* from, std::size_t bytes) noexcept {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
};

namespace detail {

template <class Allocator>
struct memory_of {
  using type = host_memory;
};
template <class Allocator>
  requires requires { typename Allocator::memory; }
struct memory_of<Allocator> {
  using type = typename Allocator::memory;
};

template <class Allocator>
device where(const Allocator& allocator) {
  if constexpr (requires { allocator.where(); }) {
    return allocator.where();
  } else {
    return {};
  }
}

}  // namespace detail

#ifdef BETATRON_SOA_CUDA

namespace detail {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("soa: ") + what +
                             " failed: " + cudaGetErrorString(status));
  }
}

inline int current_cuda_device() {
  int id = 0;
  check_cuda(cudaGetDevice(&id), "cudaGetDevice");
  return id;
}

}  // namespace detail

struct cuda_memory {
  static constexpr bool host_accessible = false;

  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) detail::check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
  }
  static void clear(void* to, std::size_t bytes) {
    if (bytes > 0) detail::check_cuda(cudaMemset(to, 0, bytes), "cudaMemset");
  }
};

/// Memory of one CUDA device (cudaMalloc), by default of the current one. allocate throws
/// std::bad_alloc if the device is full and std::runtime_error if there is none.
template <class T = cache_line>
class cuda_allocator {
 public:
  using value_type = T;
  using memory = cuda_memory;
  using propagate_on_container_move_assignment = std::true_type;

  cuda_allocator() : cuda_allocator(detail::current_cuda_device()) {}
  explicit cuda_allocator(int device_id) noexcept : device_id_(device_id) {}
  template <class U>
  cuda_allocator(const cuda_allocator<U>& other) noexcept : device_id_(other.where().id) {}

  T* allocate(std::size_t count) {
    const int before = detail::current_cuda_device();
    detail::check_cuda(cudaSetDevice(device_id_), "cudaSetDevice");
    void* block = nullptr;
    const cudaError_t status = cudaMalloc(&block, count * sizeof(T));
    cudaSetDevice(before);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // or the next, innocent call would report it
      throw std::bad_alloc();
    }
    detail::check_cuda(status, "cudaMalloc");
    return static_cast<T*>(block);
  }
  void deallocate(T* block, std::size_t) noexcept { cudaFree(block); }
  device where() const noexcept { return {device::cuda, device_id_}; }

  template <class U>
  friend bool operator==(const cuda_allocator& a, const cuda_allocator<U>& b) noexcept {
    return a.where() == b.where();
  }

 private:
  int device_id_;
};

#endif  // BETATRON_SOA_CUDA

}  // namespace betatron::soa
