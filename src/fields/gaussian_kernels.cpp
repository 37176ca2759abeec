// gaussian_kernels.cpp: gaussian.h as loops over packs. Compiled once per BETATRON_ISA; nothing in here may be emitted
// under a name that another instruction set shares (see numerics/hd.h).
#include "fields/gaussian_table.h"
#include "numerics/native_vector.h"
#include "numerics/pack.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "gaussian_kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

// Fields are computed in double precision for beams of either: only that one of the two compilations has something in it.
#define BETATRON_JOIN(a, b) a##b
#define BETATRON_EXPAND(a, b) BETATRON_JOIN(a, b)
#define BETATRON_FOR_double 1
#if BETATRON_EXPAND(BETATRON_FOR_, BETATRON_REAL)

namespace betatron::fields {

namespace {

constexpr int width = numerics::vector_bytes / static_cast<int>(sizeof(double));

using lanes = numerics::pack<double, width, numerics::isa::BETATRON_ISA>;

void field_2d(const gaussian_2d& shared, const double* x, const double* y, double* ex, double* ey,
              std::size_t n) {
  const gaussian_2d beam = shared;  // a copy cannot alias the results
  for (std::size_t i = 0; i < n; i += width) {
    const auto e = beam.field(lanes::load(x + i), lanes::load(y + i));
    e.x.store(ex + i);
    e.y.store(ey + i);
  }
}

void field_3d(const double* const* inverse, const double* weight, std::size_t nodes,
              const double* const* r, double* const* e, std::size_t n) {
  const double *u = inverse[0], *v = inverse[1], *w = inverse[2];
  for (std::size_t i = 0; i < n; i += width) {
    const lanes x = lanes::load(r[0] + i), y = lanes::load(r[1] + i), z = lanes::load(r[2] + i);
    const lanes xx = x * x, yy = y * y, zz = z * z;
    lanes ex(0.0), ey(0.0), ez(0.0);
    for (std::size_t k = 0; k < nodes; ++k) {
      const lanes g =
          lanes(weight[k]) * exp(-(lanes(u[k]) * xx + lanes(v[k]) * yy + lanes(w[k]) * zz));
      ex += lanes(u[k]) * g;
      ey += lanes(v[k]) * g;
      ez += lanes(w[k]) * g;
    }
    (x * ex).store(e[0] + i);
    (y * ey).store(e[1] + i);
    (z * ez).store(e[2] + i);
  }
}

void potential(const double* const* inverse, const double* weight, std::size_t nodes,
               const double* const* r, double* psi, std::size_t n) {
  const double *u = inverse[0], *v = inverse[1];
  for (std::size_t i = 0; i < n; i += width) {
    const lanes x = lanes::load(r[0] + i), y = lanes::load(r[1] + i);
    const lanes xx = x * x, yy = y * y;
    lanes sum(0.0);
    for (std::size_t k = 0; k < nodes; ++k) {
      sum += lanes(weight[k]) * (lanes(1.0) - exp(-(lanes(u[k]) * xx + lanes(v[k]) * yy)));
    }
    sum.store(psi + i);
  }
}

}  // namespace

#define BETATRON_TABLE(i) BETATRON_EXPAND(gaussian_kernels_, i)

extern const gaussian_table BETATRON_TABLE(BETATRON_ISA);
constinit const gaussian_table BETATRON_TABLE(BETATRON_ISA) = {static_cast<std::size_t>(width),
                                                               field_2d, field_3d, potential};

}  // namespace betatron::fields

#endif
