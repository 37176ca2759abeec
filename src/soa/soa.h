// soa.h: tables whose columns are named and typed at compile time, stored as a structure of arrays.
//
//   #include "soa/soa.h"
//   namespace soa = betatron::soa;
//
//   using points = soa::table<soa::column<"x", double>, soa::column<"id", std::uint64_t>>;
//   points t(1000);                                 // 1000 rows of zeros
//   for (double& x : t.get<"x">()) x = 1;           // a column is a std::span
//   t[3].get<"x">() = 2;                            // a row is a reference to its fields
//   std::ranges::sort(t, std::less{}, soa::by<"x">);
//   t.erase_if([](auto r) { return soa::get<"x">(r) > 1.5; });
//   std::cout << t << '\n';
//
// The header to include; each of the parts also stands alone. It needs nothing but the standard
// library.
#pragma once

#include "soa/dlpack.h"  // exchange of tensors with other libraries
#include "soa/memory.h"  // host and device allocators
#include "soa/print.h"   // operator<<
#include "soa/row.h"     // rows by reference, iterators, soa::get, soa::by
#include "soa/schema.h"  // column, schema, record, layout
#include "soa/table.h"   // the container
#include "soa/tensor.h"  // tensor descriptions
#include "soa/view.h"    // rows without ownership
