// round_kernels.cpp: the loops of round_pipe.h over packs. Compiled once per BETATRON_ISA and BETATRON_REAL; nothing in here may
// be emitted under a name that another instruction set shares (see numerics/hd.h).
#include "fields/fft_lines.h"
#include "fields/round_table.h"
#include "numerics/native_vector.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "round_kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::fields {

namespace {

using real = BETATRON_REAL;

constexpr int lane_count = numerics::vector_bytes / static_cast<int>(sizeof(real));
constexpr std::size_t width = static_cast<std::size_t>(lane_count);
using lanes = numerics::pack<real, lane_count, numerics::isa::BETATRON_ISA>;
using complex = complex_lanes<lanes>;

/// Work memory: values at rings (one more, of zeros) and sectors, a circle, amplitudes filled up to whole packs.
struct memory {
  lanes* polar;
  complex* circle;
  lanes* amplitude;
  memory(const polar_view<real>& p, real* work)
      : polar(reinterpret_cast<lanes*>(work)),
        circle(reinterpret_cast<complex*>(polar + (p.rings + 1) * p.row)),
        amplitude(reinterpret_cast<lanes*>(circle + p.circle.n)) {}
};

std::size_t planes_from(std::size_t z, std::size_t nz) { return nz - z < width ? nz - z : width; }

void sum(const polar_view<real>& p, const lattice_view<const real>& mesh, std::size_t z, real* out,
         std::size_t out_plane, real* work) {
  const memory w(p, work);
  const std::size_t planes = planes_from(z, mesh.nz), sectors = p.circle.n;
  const lanes zero(real(0));
  for (std::size_t i = 0; i < (p.rings + 1) * p.row; ++i) w.polar[i] = zero;
  lanes v[lane_count];
  const polar_place<real>* place = p.places;
  for (std::size_t y = 0; y < mesh.ny; ++y) {
    for (std::size_t x = 0; x < mesh.nx; x += width) {
      load_columns(v, mesh.data + z * mesh.plane + y * mesh.row + x, mesh.plane, planes);
      for (std::size_t l = 0; l < width && x + l < mesh.nx; ++l, ++place) {
        lanes* ring = w.polar + place->first;
        for (std::size_t a = 0; a < polar_points; ++a, ring += p.row) {
          const lanes q = v[l] * place->ring[a];
#pragma GCC unroll 6
          for (std::size_t b = 0; b < polar_points; ++b) ring[b] += q * place->sector[b];
        }
      }
    }
  }

  for (std::size_t i = 0; i < p.amplitudes + width; ++i) w.amplitude[i] = zero;
  for (std::size_t a = 0; a < p.rings; a += 2) {  // two rings are a complex line
    lanes* one = w.polar + a * p.row;
    lanes* two = one + p.row;
    for (std::size_t b = 0; b + 1 < polar_points; ++b) {
      one[b] += one[sectors + b];
      two[b] += two[sectors + b];
    }
    for (std::size_t b = 0; b < sectors; ++b) w.circle[b] = {one[b], two[b]};
    transform(p.circle, w.circle);
    const bool both = a + 1 < p.rings;
    const real* u = p.radial;
    lanes* to = w.amplitude;
    for (std::size_t m = 0; m < p.modes; ++m) {
      const std::size_t n = p.rank[m];
      const complex right = w.circle[p.circle.position[m]];
      const complex left = w.circle[p.circle.position[m == 0 ? 0 : sectors - m]];
      const lanes half(real(0.5));
      const lanes cos1 = (right.re + left.re) * half, sin1 = (left.im - right.im) * half;
      const lanes cos2 = (right.im + left.im) * half, sin2 = (right.re - left.re) * half;
      const real* u1 = u + a * n;
      const real* u2 = both ? u1 + n : u1;  // times zeros
      for (std::size_t i = 0; i < n; ++i) to[i] += cos1 * u1[i] + cos2 * u2[i];
      to += n;
      if (m > 0) {
        for (std::size_t i = 0; i < n; ++i) to[i] += sin1 * u1[i] + sin2 * u2[i];
        to += n;
      }
      u += p.rings * n;
    }
  }
  for (std::size_t i = 0; i < p.amplitudes; i += width) {
    for (std::size_t l = 0; l < width; ++l) v[l] = w.amplitude[i + l];
    transpose(v);
    for (std::size_t k = 0; k < planes; ++k) v[k].store(out + (z + k) * out_plane + i);
  }
}

void add(const polar_view<real>& p, const lattice_view<real>& mesh, std::size_t z, const real* in,
         std::size_t in_plane, real* work) {
  const memory w(p, work);
  const std::size_t planes = planes_from(z, mesh.nz), sectors = p.circle.n;
  const lanes zero(real(0));
  lanes v[lane_count];
  for (std::size_t i = 0; i < p.amplitudes; i += width) {
    load_columns(v, in + z * in_plane + i, in_plane, planes);
    for (std::size_t l = 0; l < width; ++l) w.amplitude[i + l] = v[l];
  }
  for (std::size_t a = 0; a < p.rings; a += 2) {
    const bool both = a + 1 < p.rings;
    for (std::size_t b = 0; b < sectors; ++b) w.circle[b] = {zero, zero};
    const real* u = p.radial;
    const lanes* from = w.amplitude;
    for (std::size_t m = 0; m < p.modes; ++m) {
      const std::size_t n = p.rank[m];
      const real* u1 = u + a * n;
      const real* u2 = both ? u1 + n : u1;
      lanes cos1 = zero, sin1 = zero, cos2 = zero, sin2 = zero;
      for (std::size_t i = 0; i < n; ++i) {
        cos1 += from[i] * u1[i];
        cos2 += from[i] * u2[i];
      }
      from += n;
      if (m > 0) {
        for (std::size_t i = 0; i < n; ++i) {
          sin1 += from[i] * u1[i];
          sin2 += from[i] * u2[i];
        }
        from += n;
        const lanes half(real(0.5));
        w.circle[p.circle.position[m]] = {(cos1 + sin2) * half, (cos2 - sin1) * half};
        w.circle[p.circle.position[sectors - m]] = {(cos1 - sin2) * half, (cos2 + sin1) * half};
      } else {
        w.circle[p.circle.position[0]] = {cos1, cos2};
      }
      u += p.rings * n;
    }
    transform_back(p.circle, w.circle);
    lanes* one = w.polar + a * p.row;
    lanes* two = one + p.row;
    for (std::size_t b = 0; b < p.row; ++b) {
      const complex c = w.circle[b < sectors ? b : b - sectors];
      one[b] = c.re;
      two[b] = c.im;
    }
  }

  const polar_place<real>* place = p.places;
  for (std::size_t y = 0; y < mesh.ny; ++y) {
    for (std::size_t x = 0; x < mesh.nx; x += width) {
      for (std::size_t l = 0; l < width; ++l) {
        v[l] = zero;
        if (x + l >= mesh.nx) continue;
        const lanes* ring = w.polar + place->first;
        for (std::size_t a = 0; a < polar_points; ++a, ring += p.row) {
          lanes q = ring[0] * place->sector[0];
#pragma GCC unroll 6
          for (std::size_t b = 1; b < polar_points; ++b) q += ring[b] * place->sector[b];
          v[l] += q * place->ring[a];
        }
        ++place;
      }
      transpose(v);
      real* to = mesh.data + z * mesh.plane + y * mesh.row + x;
      for (std::size_t k = 0; k < planes; ++k, to += mesh.plane) (lanes::load(to) + v[k]).store(to);
    }
  }
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_TABLE(i, r) BETATRON_JOIN(round_kernels_, i, r)

extern const round_kernels<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL);

constinit const round_kernels<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL) = {
    .width = width, .sum = sum, .add = add};

}  // namespace betatron::fields
