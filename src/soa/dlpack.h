// dlpack.h: handing tensors to other libraries by DLPack, without copy.
//
// The structs follow the public C interface of DLPack 1.0 (dmlc/dlpack, include/dlpack/dlpack.h);
// only their memory layout matters to the receiver. An exported tensor keeps `owner` alive until
// the receiver calls its deleter.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "soa/tensor.h"

namespace betatron::soa::dlpack {

struct version {  // DLPackVersion
  std::uint32_t major;
  std::uint32_t minor;
};

struct device {  // DLDevice
  std::int32_t device_type;
  std::int32_t device_id;
};

struct data_type {  // DLDataType
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct tensor {  // DLTensor
  void* data;
  dlpack::device device;
  std::int32_t ndim;
  data_type dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

struct managed_tensor {  // DLManagedTensor, capsule name "dltensor"
  tensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(managed_tensor* self);
};

inline constexpr std::uint64_t flag_read_only = 1;

struct managed_tensor_versioned {  // DLManagedTensorVersioned, capsule name "dltensor_versioned"
  dlpack::version version;
  void* manager_ctx;
  void (*deleter)(managed_tensor_versioned* self);
  std::uint64_t flags;
  tensor dl_tensor;
};

namespace detail {

// One allocation: what is handed out, and what it points to.
template <class Managed>
struct exported {
  Managed managed{};
  std::array<std::int64_t, tensor_view::max_ndim> shape{};
  std::array<std::int64_t, tensor_view::max_ndim> strides{};
  std::shared_ptr<void> owner;
};

template <class Managed>
std::unique_ptr<exported<Managed>> export_tensor(const tensor_view& t,
                                                 std::shared_ptr<void> owner) {
  auto out = std::make_unique<exported<Managed>>();
  for (std::size_t i = 0; i < t.ndim; ++i) {
    if (t.strides[i] % t.dtype.bytes() != 0) {
      throw std::invalid_argument("soa::dlpack: stride " + std::to_string(t.strides[i]) +
                                  " bytes of dimension " + std::to_string(i) +
                                  " is not a multiple of the element size " +
                                  std::to_string(t.dtype.bytes()) + ", as DLPack requires");
    }
    out->shape[i] = t.shape[i];
    out->strides[i] = t.strides[i] / t.dtype.bytes();
  }
  out->owner = std::move(owner);
  out->managed.dl_tensor = {t.data,
                            {t.device.type, t.device.id},
                            static_cast<std::int32_t>(t.ndim),
                            {static_cast<std::uint8_t>(t.dtype.code), t.dtype.bits, 1},
                            out->shape.data(),
                            out->strides.data(),
                            0};
  out->managed.manager_ctx = out.get();
  out->managed.deleter = [](Managed* self) {
    delete static_cast<exported<Managed>*>(self->manager_ctx);
  };
  return out;
}

}  // namespace detail

/// A DLPack tensor over `t`; the receiver calls its deleter, which lets go of `owner`. Throws
/// std::invalid_argument if `t` is read-only (this older struct cannot say so) or if a stride is
/// not a whole number of elements (an array of structures can have such).
inline managed_tensor* to_managed_tensor(const tensor_view& t, std::shared_ptr<void> owner) {
  if (t.read_only) {
    throw std::invalid_argument(
        "soa::dlpack: a read-only tensor needs the versioned DLPack struct (DLPack 1.0 or newer)");
  }
  return &detail::export_tensor<managed_tensor>(t, std::move(owner)).release()->managed;
}

/// The same as the versioned struct, which can mark read-only memory.
/// Throws std::invalid_argument if a stride is not a whole number of elements.
inline managed_tensor_versioned* to_managed_tensor_versioned(const tensor_view& t,
                                                             std::shared_ptr<void> owner) {
  auto out = detail::export_tensor<managed_tensor_versioned>(t, std::move(owner));
  out->managed.version = {1, 0};
  out->managed.flags = t.read_only ? flag_read_only : 0;
  return &out.release()->managed;
}

}  // namespace betatron::soa::dlpack
