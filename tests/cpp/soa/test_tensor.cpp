// Columns as tensors: descriptions, NumPy's array interface, DLPack.
#include <doctest/doctest.h>
#include <array>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using particles = soa::table<soa::column<"x", double>, soa::column<"px", double>,
                             soa::column<"y", double>, soa::column<"id", std::uint64_t>>;
enum class reason : std::int16_t { none, aperture };
using mixed =
    soa::table<soa::column<"flag", bool>, soa::column<"reason", reason>,
               soa::column<"z", std::complex<double>>, soa::column<"e", std::array<float, 3>>,
               soa::column<"m", std::array<std::array<double, 2>, 4>>>;

// Element `index` of a tensor, found as its receiver would.
template <class T>
T& element(const soa::tensor_view& t, std::initializer_list<std::int64_t> index) {
  auto* at = static_cast<std::byte*>(t.data);
  std::size_t i = 0;
  for (std::int64_t k : index) at += k * t.strides[i++];
  return *reinterpret_cast<T*>(at);
}

}  // namespace

TEST_CASE_TEMPLATE("a tensor of a column is the column", table, particles,
                   particles::with_layout<soa::layout::aos>) {
  table t(5);
  const soa::tensor_view x = t.template tensor<"px">();
  CHECK(x.ndim == 1);
  CHECK(x.shape[0] == 5);
  CHECK(x.dtype == soa::dtype{soa::type_code::floating, 64});
  CHECK(x.device == soa::device{soa::device::cpu, 0});
  CHECK_FALSE(x.read_only);
  element<double>(x, {3}) = 8;
  CHECK(t[3].template get<"px">() == 8);
  CHECK(std::as_const(t).template tensor<"px">().read_only);
  CHECK(t.subview(2, 3).template tensor<"px">().shape[0] == 3);
  CHECK(element<double>(t.subview(2, 3).template tensor<"px">(), {1}) == 8);
  CHECK(table().template tensor<"x">().shape[0] == 0);
}

TEST_CASE_TEMPLATE("neighbouring columns form a matrix", table, particles,
                   particles::with_layout<soa::layout::aos>) {
  table t(7);
  const soa::tensor_view block = t.template tensor_block<"x", "y">();
  CHECK(block.ndim == 2);
  CHECK(block.shape[0] == 3);
  CHECK(block.shape[1] == 7);
  for (std::int64_t k = 0; k < 3; ++k) {
    for (std::int64_t i = 0; i < 7; ++i)
      element<double>(block, {k, i}) = static_cast<double>(10 * k + i);
  }
  CHECK(t[4].template get<"x">() == 4);
  CHECK(t[4].template get<"px">() == 14);
  CHECK(t[6].template get<"y">() == 26);
  CHECK(t[6].template get<"id">() == 0);
  CHECK(t.template tensor_block<"px", "px">().shape[0] == 1);
}

TEST_CASE("borrowed columns form a matrix if they are evenly spaced") {
  std::vector<double> memory(40);
  std::uint64_t id[10]{};
  double* m = memory.data();
  const particles::view_type even({m, m + 10, m + 20, id}, 10);
  CHECK(even.tensor_block<"x", "y">().strides[0] == 80);
  const particles::view_type uneven({m, m + 10, m + 25, id}, 10);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(uneven.tensor_block<"x", "y">()),
      "soa::tensor_block: column 'y' lies 120 bytes after the one before, not 80 as the "
      "others; columns must be evenly spaced to form one tensor",
      std::invalid_argument);
}

TEST_CASE("element types and array elements") {
  mixed t(4);
  CHECK(t.tensor<"flag">().dtype == soa::dtype{soa::type_code::boolean, 8});
  CHECK(t.tensor<"reason">().dtype == soa::dtype{soa::type_code::signed_integer, 16});
  CHECK(t.tensor<"z">().dtype == soa::dtype{soa::type_code::complex, 128});
  const soa::tensor_view e = t.tensor<"e">();
  CHECK(e.ndim == 2);
  CHECK(e.shape[1] == 3);
  CHECK(e.strides[0] == 12);
  CHECK(e.strides[1] == 4);
  const soa::tensor_view m = t.tensor<"m">();
  CHECK(m.ndim == 3);
  element<double>(m, {2, 3, 1}) = 5;
  CHECK(t[2].get<"m">()[3][1] == 5);

  using vectors =
      soa::table<soa::column<"e", std::array<float, 3>>, soa::column<"b", std::array<float, 3>>>;
  vectors v(6);
  const soa::tensor_view eb = v.tensor_block<"e", "b">();
  CHECK(eb.ndim == 3);
  element<float>(eb, {1, 5, 2}) = 3;
  CHECK(v[5].get<"b">()[2] == 3);
}

TEST_CASE("array interface") {
  particles t(3);
  const soa::array_interface x = soa::to_array_interface(t.tensor<"x">());
  CHECK(x.typestr == "<f8");
  CHECK(x.shape == std::vector<std::int64_t>{3});
  CHECK(x.strides == std::vector<std::int64_t>{8});
  CHECK(x.data == reinterpret_cast<std::uintptr_t>(t.data<"x">()));
  CHECK_FALSE(x.read_only);
  CHECK(x.version == 3);
  CHECK(soa::to_array_interface(t.tensor<"id">()).typestr == "<u8");
  const mixed m(1);
  CHECK(soa::to_array_interface(m.tensor<"flag">()).typestr == "|b1");
  CHECK(soa::to_array_interface(m.tensor<"reason">()).typestr == "<i2");
  CHECK(soa::to_array_interface(m.tensor<"z">()).typestr == "<c16");
  CHECK(soa::to_array_interface(m.tensor<"e">()).typestr == "<f4");
  CHECK(soa::to_array_interface(m.tensor<"e">()).read_only);
}

TEST_CASE("DLPack structs have the published layout") {
  using namespace soa::dlpack;
  static_assert(sizeof(tensor) == 48 && offsetof(tensor, device) == 8 &&
                offsetof(tensor, ndim) == 16 && offsetof(tensor, dtype) == 20 &&
                offsetof(tensor, shape) == 24 && offsetof(tensor, strides) == 32 &&
                offsetof(tensor, byte_offset) == 40);
  static_assert(sizeof(managed_tensor) == 64 && offsetof(managed_tensor, manager_ctx) == 48 &&
                offsetof(managed_tensor, deleter) == 56);
  static_assert(sizeof(managed_tensor_versioned) == 80 &&
                offsetof(managed_tensor_versioned, flags) == 24 &&
                offsetof(managed_tensor_versioned, dl_tensor) == 32);
}

TEST_CASE("a DLPack tensor keeps its owner alive until deleted") {
  auto t = std::make_shared<particles>(6);
  std::weak_ptr<particles> alive = t;
  const double* x = t->data<"x">();
  soa::dlpack::managed_tensor* tensor =
      soa::dlpack::to_managed_tensor(t->tensor_block<"x", "y">(), t);
  t.reset();
  CHECK_FALSE(alive.expired());
  CHECK(tensor->dl_tensor.data == x);
  CHECK(tensor->dl_tensor.ndim == 2);
  CHECK(tensor->dl_tensor.shape[0] == 3);
  CHECK(tensor->dl_tensor.shape[1] == 6);
  CHECK(tensor->dl_tensor.strides[1] == 1);
  CHECK(tensor->dl_tensor.strides[0] * 8 == alive.lock()->tensor_block<"x", "y">().strides[0]);
  CHECK(tensor->dl_tensor.dtype.code == 2);
  CHECK(tensor->dl_tensor.dtype.bits == 64);
  CHECK(tensor->dl_tensor.dtype.lanes == 1);
  CHECK(tensor->dl_tensor.device.device_type == 1);
  tensor->deleter(tensor);
  CHECK(alive.expired());
}

TEST_CASE("DLPack marks read-only memory, or refuses it") {
  auto t = std::make_shared<particles>(2);
  const soa::tensor_view x = std::as_const(*t).tensor<"x">();
  CHECK_THROWS_AS(soa::dlpack::to_managed_tensor(x, t), std::invalid_argument);
  auto* versioned = soa::dlpack::to_managed_tensor_versioned(x, t);
  CHECK(versioned->version.major == 1);
  CHECK(versioned->flags == soa::dlpack::flag_read_only);
  versioned->deleter(versioned);
  versioned = soa::dlpack::to_managed_tensor_versioned(t->tensor<"x">(), t);
  CHECK(versioned->flags == 0);
  versioned->deleter(versioned);
  CHECK(t.use_count() == 1);

  using odd = soa::table<soa::column<"z", std::complex<double>>, soa::column<"w", double>>;
  auto a = std::make_shared<odd::with_layout<soa::layout::aos>>(2);
  CHECK_THROWS_WITH_AS(soa::dlpack::to_managed_tensor(a->tensor<"z">(), a),
                       "soa::dlpack: stride 24 bytes of dimension 0 is not a multiple of "
                       "the element size 16, as DLPack requires",
                       std::invalid_argument);
}
