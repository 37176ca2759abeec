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

/// See pull_of in gaussian.h. With sums over nodes, of weight exp(...) times: a_i = inverse_i, and with s = sum_i g_i
/// inverse_i x_i: b_i = inverse_i s, c_ij = inverse_i inverse_j, d_ij = c_ij s,
///   E_i = x_i a_i,   dE_i/dx_j = delta_ij a_i - 2 x_i x_j c_ij,
///   by r_j: g_j a_j - 2 x_j b_j - p E_j,
///   by covariance_ij: 2 x_i x_j d_ij - (x_i g_j + x_j g_i) c_ij - delta_ij b_i - p/2 dE_i/dx_j.
template <int Axes, bool Potential>
BETATRON_INLINE void pull(const double* const* inverse, const double* weight, std::size_t nodes,
                          const double* const* r, const double* const* g, const double* p,
                          double* const* e, double* const* by_r, double* sums, std::size_t n) {
  constexpr int pairs = Axes * (Axes + 1) / 2;
  lanes total[pairs];
  for (int q = 0; q < pairs; ++q) total[q] = lanes(0.0);
  for (std::size_t i = 0; i < n; i += width) {
    lanes x[Axes], square[Axes], own[Axes], product[Axes], a[Axes], b[Axes], c[pairs], d[pairs];
    for (int j = 0; j < Axes; ++j) {
      x[j] = lanes::load(r[j] + i);
      own[j] = lanes::load(g[j] + i);
      square[j] = x[j] * x[j];
      product[j] = x[j] * own[j];
      a[j] = b[j] = lanes(0.0);
    }
    for (int q = 0; q < pairs; ++q) c[q] = d[q] = lanes(0.0);
    for (std::size_t k = 0; k < nodes; ++k) {
      lanes exponent(0.0), s(0.0);
      for (int j = 0; j < Axes; ++j) {
        exponent += lanes(inverse[j][k]) * square[j];
        s += lanes(inverse[j][k]) * product[j];
      }
      const lanes f = lanes(weight[k]) * exp(-exponent), fs = f * s;
      int q = 0;
      for (int j = 0; j < Axes; ++j) {
        a[j] += lanes(inverse[j][k]) * f;
        b[j] += lanes(inverse[j][k]) * fs;
        for (int l = 0; l <= j; ++l, ++q) {
          const lanes both(inverse[j][k] * inverse[l][k]);
          c[q] += both * f;
          d[q] += both * fs;
        }
      }
    }
    lanes potential(0.0);
    if constexpr (Potential) potential = lanes::load(p + i);
    int q = 0;
    for (int j = 0; j < Axes; ++j) {
      const lanes field = x[j] * a[j];
      if constexpr (!Potential) field.store(e[j] + i);
      (own[j] * a[j] - x[j] * b[j] * 2.0 - potential * field).store(by_r[j] + i);
      for (int l = 0; l <= j; ++l, ++q) {
        lanes t = x[j] * x[l] * d[q] * 2.0 - (x[j] * own[l] + x[l] * own[j]) * c[q];
        if (l == j) t -= b[j];
        if constexpr (Potential) {
          t += potential * x[j] * x[l] * c[q];
          if (l == j) t -= potential * a[j] * 0.5;
        }
        total[q] += t;
      }
    }
  }
  for (int q = 0; q < pairs; ++q) {
    for (int l = 0; l < width; ++l) sums[q] += total[q][l];
  }
}

void pull_3d(const double* const* inverse, const double* weight, std::size_t nodes,
             const double* const* r, const double* const* g, double* const* e, double* const* by_r,
             double* sums, std::size_t n) {
  pull<3, false>(inverse, weight, nodes, r, g, nullptr, e, by_r, sums, n);
}

void pull_2d(const double* const* inverse, const double* weight, std::size_t nodes,
             const double* const* r, const double* const* g, const double* by_potential,
             double* const* by_r, double* sums, std::size_t n) {
  pull<2, true>(inverse, weight, nodes, r, g, by_potential, nullptr, by_r, sums, n);
}

}  // namespace

#define BETATRON_TABLE(i) BETATRON_EXPAND(gaussian_kernels_, i)

extern const gaussian_table BETATRON_TABLE(BETATRON_ISA);
constinit const gaussian_table BETATRON_TABLE(BETATRON_ISA) = {
    static_cast<std::size_t>(width), field_2d, field_3d, potential, pull_3d, pull_2d};

}  // namespace betatron::fields

#endif
