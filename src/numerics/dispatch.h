// dispatch.h: picks, among tables of functions that are compiled once per instruction set, that of the set in use.
//
// BETATRON_EACH_ISA(X) is X(level, isa) for every instruction set that was compiled, best first; see
// cmake/isa_kernels.cmake. Only in sources of the library: others do not know which those are.
#pragma once

#include <initializer_list>
#include <stdexcept>

#if defined(BETATRON_HAS_V4)
#define BETATRON_WITH_V4(X) X(4, v4)
#else
#define BETATRON_WITH_V4(X)
#endif
#if defined(BETATRON_HAS_V3)
#define BETATRON_WITH_V3(X) X(3, v3)
#else
#define BETATRON_WITH_V3(X)
#endif
#if defined(BETATRON_HAS_V2)
#define BETATRON_WITH_V2(X) X(2, v2)
#else
#define BETATRON_WITH_V2(X)
#endif
#if defined(BETATRON_HAS_BASE)
#define BETATRON_WITH_BASE(X) X(0, base)
#else
#define BETATRON_WITH_BASE(X)
#endif
#define BETATRON_EACH_ISA(X) \
  BETATRON_WITH_V4(X) BETATRON_WITH_V3(X) BETATRON_WITH_V2(X) BETATRON_WITH_BASE(X)

namespace betatron::numerics {

/// The level of x86-64 that the processor has (1: less than 2; 0 on other processors). BETATRON_ISA=v2|v3 in the
/// environment lowers it, for tests.
int instruction_level();

template <class Table>
struct compiled_table {
  int level;  ///< that it needs
  const Table* table;
};

/// The first one that the processor can run. Throws std::runtime_error if there is none.
template <class Table>
const Table& pick(std::initializer_list<compiled_table<Table>> compiled) {
  const int here = instruction_level();
  for (const auto& [level, table] : compiled) {
    if (here >= level) return *table;
  }
  throw std::runtime_error(
      "betatron was built for processors with SSE4.2 (x86-64-v2); this one has none");
}

}  // namespace betatron::numerics
