// tensor.h: a column, or several adjacent columns, described as a tensor: where the numbers lie and
// how to step through them. Nothing is copied and nothing is owned; dlpack.h adds ownership for
// exchange with other libraries, and `to_array_interface` gives the fields of NumPy's protocol.
#pragma once

#include <array>
#include <bit>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace betatron::soa {

/// Kinds of number, with the codes of DLPack.
enum class type_code : std::uint8_t {
  signed_integer = 0,
  unsigned_integer = 1,
  floating = 2,
  complex = 5,
  boolean = 6
};

/// The type of a tensor's elements.
struct dtype {
  type_code code = type_code::floating;
  std::uint8_t bits = 64;  // of a whole element; both parts of a complex number

  constexpr std::int64_t bytes() const noexcept { return bits / 8; }
  friend bool operator==(const dtype&, const dtype&) = default;
};

/// Where memory lies, with the codes of DLPack.
struct device {
  enum kind : std::int32_t { cpu = 1, cuda = 2, cuda_host = 3, rocm = 10, cuda_managed = 13 };

  std::int32_t type = cpu;
  std::int32_t id = 0;

  friend bool operator==(const device&, const device&) = default;
};

/// A tensor in somebody else's memory. Strides are in bytes and count from one index to the next.
struct tensor_view {
  static constexpr std::size_t max_ndim = 8;

  void* data = nullptr;
  soa::dtype dtype;
  std::size_t ndim = 0;
  std::array<std::int64_t, max_ndim> shape{};
  std::array<std::int64_t, max_ndim> strides{};
  soa::device device;
  bool read_only = false;
};

/// The fields of NumPy's __array_interface__ (version 3) or, for device memory, of
/// __cuda_array_interface__.
struct array_interface {
  std::string typestr;  // such as "<f8"
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // bytes
  std::uintptr_t data = 0;
  bool read_only = false;
  int version = 3;
};

inline array_interface to_array_interface(const tensor_view& t) {
  const char order = t.dtype.bits == 8                            ? '|'
                     : std::endian::native == std::endian::little ? '<'
                                                                  : '>';
  char kind = 'f';
  switch (t.dtype.code) {
    case type_code::signed_integer:
      kind = 'i';
      break;
    case type_code::unsigned_integer:
      kind = 'u';
      break;
    case type_code::floating:
      kind = 'f';
      break;
    case type_code::complex:
      kind = 'c';
      break;
    case type_code::boolean:
      kind = 'b';
      break;
  }
  const auto ndim = static_cast<std::ptrdiff_t>(t.ndim);
  array_interface fields;
  fields.typestr = std::string{order, kind} + std::to_string(t.dtype.bytes());
  fields.shape.assign(t.shape.begin(), t.shape.begin() + ndim);
  fields.strides.assign(t.strides.begin(), t.strides.begin() + ndim);
  fields.data = reinterpret_cast<std::uintptr_t>(t.data);
  fields.read_only = t.read_only;
  return fields;
}

/// How a column's element type becomes tensor elements: numbers and enumerations as they are,
/// std::array as further dimensions. Specialise it for a number type of your own (a half-precision
/// float, say): `exportable = true`, `type`, and an empty `shape`.
template <class T>
struct tensor_element {
  static constexpr bool exportable = false;
};

template <class T>
  requires(std::is_arithmetic_v<T> && sizeof(T) <= 8)
struct tensor_element<T> {
  static constexpr bool exportable = true;
  static constexpr dtype type{std::is_same_v<T, bool>       ? type_code::boolean
                              : std::is_floating_point_v<T> ? type_code::floating
                              : std::is_signed_v<T>         ? type_code::signed_integer
                                                            : type_code::unsigned_integer,
                              static_cast<std::uint8_t>(8 * sizeof(T))};
  static constexpr std::array<std::int64_t, 0> shape{};
};

template <class T>
  requires std::is_enum_v<T>
struct tensor_element<T> : tensor_element<std::underlying_type_t<T>> {};

template <class T>
  requires(std::is_floating_point_v<T> && sizeof(T) <= 8)
struct tensor_element<std::complex<T>> {
  static constexpr bool exportable = true;
  static constexpr dtype type{type_code::complex, static_cast<std::uint8_t>(16 * sizeof(T))};
  static constexpr std::array<std::int64_t, 0> shape{};
};

template <class T, std::size_t N>
  requires(tensor_element<T>::exportable)
struct tensor_element<std::array<T, N>> {
  static constexpr bool exportable = true;
  static constexpr dtype type = tensor_element<T>::type;
  static constexpr auto shape = [] {
    std::array<std::int64_t, tensor_element<T>::shape.size() + 1> all{static_cast<std::int64_t>(N)};
    for (std::size_t i = 1; i < all.size(); ++i) all[i] = tensor_element<T>::shape[i - 1];
    return all;
  }();
};

namespace detail {

// Tensor over `rows` elements `step` bytes apart, shape (rows, element shape...).
template <class T>
tensor_view column_tensor(T* first, std::size_t rows, std::size_t step, device where) {
  using element = tensor_element<std::remove_const_t<T>>;
  static_assert(element::shape.size() + 2 <= tensor_view::max_ndim);
  tensor_view t;
  t.data = const_cast<std::remove_const_t<T>*>(first);
  t.dtype = element::type;
  t.device = where;
  t.read_only = std::is_const_v<T>;
  t.ndim = 1 + element::shape.size();
  t.shape[0] = static_cast<std::int64_t>(rows);
  t.strides[0] = static_cast<std::int64_t>(step);
  std::int64_t stride = element::type.bytes();
  for (std::size_t i = element::shape.size(); i > 0; --i) {
    t.shape[i] = element::shape[i - 1];
    t.strides[i] = stride;
    stride *= t.shape[i];
  }
  return t;
}

// The same tensor `count` times, `step` bytes apart: shape (count, ...).
inline tensor_view stacked(const tensor_view& one, std::size_t count, std::int64_t step) {
  tensor_view t = one;
  for (std::size_t i = one.ndim; i > 0; --i) {
    t.shape[i] = one.shape[i - 1];
    t.strides[i] = one.strides[i - 1];
  }
  t.ndim = one.ndim + 1;
  t.shape[0] = static_cast<std::int64_t>(count);
  t.strides[0] = step;
  return t;
}

}  // namespace detail

}  // namespace betatron::soa
