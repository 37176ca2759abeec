// huge_array.h: memory for grids: aligned, not initialised, and on large pages where the system has them.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace betatron::fields {

/// `size` numbers with undefined values. Throws std::bad_alloc.
template <class T>
class huge_array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  huge_array() = default;
  explicit huge_array(std::size_t size) : size_(size) {
    if (size == 0) return;
    constexpr std::size_t large_page = std::size_t{2} << 20;
    if (size > (std::size_t{1} << 62) / sizeof(T)) throw std::bad_alloc();
    const std::size_t bytes = size * sizeof(T);
    const std::size_t alignment = bytes >= large_page ? large_page : 64;
    data_ = static_cast<T*>(
        std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= large_page) ::madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: failing is fine
#endif
  }
  huge_array(huge_array&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  huge_array& operator=(huge_array&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~huge_array() { std::free(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace betatron::fields
