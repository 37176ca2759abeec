// arrays.h: numbers of C++ as arrays of NumPy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

namespace betatron::bindings {

template <class T>
using array = nanobind::ndarray<nanobind::numpy, T>;

/// An array of its own for Python; read-only if T is const.
template <class T = double>
array<T> array_of(std::vector<std::remove_const_t<T>> values,
                  std::initializer_list<std::size_t> shape) {
  using vector = std::vector<std::remove_const_t<T>>;
  auto* kept = new vector(std::move(values));
  nanobind::capsule owner(kept, [](void* p) noexcept { delete static_cast<vector*>(p); });
  return array<T>(kept->data(), shape, owner);
}

template <class T = double, std::size_t N>
array<T> array_of(const std::array<double, N>& values, std::initializer_list<std::size_t> shape) {
  return array_of<T>(std::vector<double>(values.begin(), values.end()), shape);
}

/// An array of one axis.
inline array<double> array_of(std::vector<double> values) {
  const std::size_t n = values.size();
  return array_of(std::move(values), {n});
}

/// For properties that return such an array: it is Python's own, not a part of the object.
constexpr auto own_array = nanobind::rv_policy::automatic;

}  // namespace betatron::bindings
