// kernels.cpp: the loops of field solvers over packs. Compiled once per BETATRON_ISA and BETATRON_REAL; nothing in here
// may be emitted under a name that another instruction set shares (see numerics/hd.h).
#include "fields/kernel_table.h"
#include "numerics/dual.h"
#include "numerics/native_vector.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::fields {

namespace {

using isa = numerics::isa::BETATRON_ISA;
using real = BETATRON_REAL;
using numerics::vector_bytes;

constexpr int lane_count = vector_bytes / static_cast<int>(sizeof(real));
constexpr std::size_t width = static_cast<std::size_t>(lane_count);
using lanes = numerics::pack<real, lane_count, isa>;
using complex = complex_lanes<lanes>;

constexpr std::size_t round_up(std::size_t n) { return (n + width - 1) / width * width; }

/// The complex buffer at the start of a piece of work memory (aligned to packs).
complex* buffer(real* work) { return reinterpret_cast<complex*>(work); }
constexpr std::size_t complex_size = 2 * width;

// --- real numbers padded with zeros -------------------------------------------------------------------------------

/// x(j), j < a.n, as if padded to 2 a.m; emit(plane, re, im). The even frequencies are a transform of a.m real
/// numbers, the odd ones (of real numbers: every second of them, the others are conjugate) one of a.m/2 complex
/// numbers (x_j - i x_{j + m/2}) exp(-i pi j/m). Source: for the former e.g. W. H. Press et al., Numerical Recipes,
/// 3rd ed., sec. 12.3; for the latter the "right-angle" convolution, R. Crandall, B. Fagin, Math. Comp. 62 (1994) 305.
template <class Get, class Emit>
BETATRON_INLINE void real_forward(const axis_view<real>& a, complex* even, complex* odd, Get&& x,
                                  Emit&& emit) {
  const std::size_t h = a.m / 2;
  const lanes zero(real(0));
  for (std::size_t j = 0; j < h; ++j) {
    even[j] = {2 * j < a.n ? x(2 * j) : zero, 2 * j + 1 < a.n ? x(2 * j + 1) : zero};
    const lanes p = j < a.n ? x(j) : zero, q = j + h < a.n ? x(j + h) : zero;
    const real c = a.turn[2 * j], s = a.turn[2 * j + 1];
    odd[j] = {p * lanes(c) + q * lanes(s), p * lanes(s) - q * lanes(c)};
  }
  transform(a.half, even);
  transform(a.half, odd);
  emit(std::size_t{0}, even[0].re + even[0].im, zero);
  emit(h, even[0].re - even[0].im, zero);
  for (std::size_t k = 1; 2 * k <= h; ++k) {
    const complex u = even[a.half.position[k]], v = even[a.half.position[h - k]];
    const complex sum{(u.re + v.re) * real(0.5), (u.im - v.im) * real(0.5)};
    const complex d{(u.re - v.re) * real(0.5), (u.im + v.im) * real(0.5)};
    const real c = a.turn[4 * k], s = a.turn[4 * k + 1];
    // t = -i w d
    const complex t{d.im * lanes(c) + d.re * lanes(s), d.im * lanes(s) - d.re * lanes(c)};
    emit(k, sum.re + t.re, sum.im + t.im);
    if (2 * k != h) emit(h - k, sum.re - t.re, t.im - sum.im);
  }
  for (std::size_t p = 0; p < h; ++p) {
    emit(h + 1 + a.half.frequency[p], odd[p].re, odd[p].im);
  }
}

/// The way back: get(plane) gives complex numbers, put(j, x) takes a.n real ones (times a.m).
template <class Get, class Put>
BETATRON_INLINE void real_backward(const axis_view<real>& a, complex* even, complex* odd, Get&& get,
                                   Put&& put) {
  const std::size_t h = a.m / 2;
  {
    const complex first = get(std::size_t{0}), last = get(h);
    even[0] = {(first.re + last.re) * real(0.5), (first.re - last.re) * real(0.5)};
  }
  for (std::size_t k = 1; 2 * k <= h; ++k) {
    const complex u = get(k), v = get(h - k);
    const complex sum{(u.re + v.re) * real(0.5), (u.im - v.im) * real(0.5)};
    const complex t{(u.re - v.re) * real(0.5), (u.im + v.im) * real(0.5)};
    const real c = a.turn[4 * k], s = a.turn[4 * k + 1];
    // d = i conj(w) t
    const complex d{t.re * lanes(s) - t.im * lanes(c), t.re * lanes(c) + t.im * lanes(s)};
    even[a.half.position[k]] = {sum.re + d.re, sum.im + d.im};
    if (2 * k != h) even[a.half.position[h - k]] = {sum.re - d.re, d.im - sum.im};
  }
  for (std::size_t p = 0; p < h; ++p) odd[p] = get(h + 1 + a.half.frequency[p]);
  transform_back(a.half, even);
  transform_back(a.half, odd);
  for (std::size_t j = 0; j < h; ++j) {
    const real c = a.turn[2 * j], s = a.turn[2 * j + 1];
    odd[j] = detail::times<true>(odd[j], c, s);
  }
  for (std::size_t j = 0; j < a.n; ++j) {
    const lanes e = j % 2 == 0 ? even[j / 2].re : even[j / 2].im;
    put(j, j < h ? e + odd[j].re : e - odd[j - h].im);
  }
}

void forward_z(const axis_view<real>& z, const lattice_view<const real>& in, std::size_t y,
               real* out, std::size_t imaginary, std::size_t plane, real* work) {
  complex* even = buffer(work);
  complex* odd = even + z.m / 2;
  for (std::size_t x = 0; x < in.row; x += width) {
    const real* from = in.data + y * in.row + x;
    real* to = out + x;
    real_forward(
        z, even, odd, [&](std::size_t j) { return lanes::load(from + j * in.plane); },
        [&](std::size_t p, lanes re, lanes im) {
          re.store(to + p * plane);
          im.store(to + p * plane + imaginary);
        });
  }
}

void backward_z(const axis_view<real>& z, const real* in, std::size_t imaginary, std::size_t plane,
                const lattice_view<real>& out, std::size_t y, real* work) {
  complex* even = buffer(work);
  complex* odd = even + z.m / 2;
  for (std::size_t x = 0; x < out.row; x += width) {
    const real* from = in + x;
    real* to = out.data + y * out.row + x;
    real_backward(
        z, even, odd,
        [&](std::size_t p) {
          return complex{lanes::load(from + p * plane), lanes::load(from + p * plane + imaginary)};
        },
        [&](std::size_t j, lanes v) { v.store(to + j * out.plane); });
  }
}

// --- a plane of complex numbers ---------------------------------------------------------------------------------

/// Loads up to W rows of W numbers, the others as zeros, as columns.
BETATRON_INLINE void load_columns(lanes (&v)[lane_count], const real* from, std::size_t row,
                                  std::size_t rows) {
  for (std::size_t i = 0; i < width; ++i) {
    v[i] = i < rows ? lanes::load(from + i * row) : lanes(real(0));
  }
  transpose(v);
}

BETATRON_INLINE void store_columns(lanes (&v)[lane_count], real* to, std::size_t row,
                                   std::size_t rows) {
  transpose(v);
  for (std::size_t i = 0; i < width && i < rows; ++i) v[i].store(to + i * row);
}

void convolve(const axis_view<real>& x, const axis_view<real>& y, real* re, real* im,
              std::size_t row, const real* green, std::size_t green_row, real* work) {
  const std::size_t blocks = (x.m + width - 1) / width,
                    longest = blocks * width > y.m ? blocks * width : y.m;
  complex* even = buffer(work);
  complex* odd = even + longest;
  real* g = work + 2 * longest * complex_size;
  real*
      half[2];  // the transforms along x, even and odd: rows of blocks of real and imaginary lanes
  const std::size_t stride = blocks * complex_size;
  half[0] = g + round_up((y.m + 1) * width);
  half[1] = half[0] + round_up(y.n) * stride;

  lanes a[lane_count], b[lane_count];
  for (std::size_t j = 0; j < y.n; j += width) {
    const std::size_t rows = y.n - j;
    for (std::size_t i = 0; i < x.n; i += width) {
      load_columns(a, re + j * row + i, row, rows);
      load_columns(b, im + j * row + i, row, rows);
      for (std::size_t l = 0; l < width && i + l < x.n; ++l) {
        const complex v{a[l], b[l]};
        even[i + l] = v;
        odd[i + l] = detail::times<false>(v, x.turn[2 * (i + l)], x.turn[2 * (i + l) + 1]);
      }
    }
    const complex zero{lanes(real(0)), lanes(real(0))};
    for (std::size_t i = x.n; i < blocks * width; ++i) even[i] = odd[i] = zero;
    transform(x.complex, even);
    transform(x.complex, odd);
    for (int parity = 0; parity < 2; ++parity) {
      const complex* from = parity == 0 ? even : odd;
      for (std::size_t k = 0; k < blocks; ++k) {
        for (std::size_t l = 0; l < width; ++l) {
          a[l] = from[k * width + l].re;
          b[l] = from[k * width + l].im;
        }
        real* to = half[parity] + j * stride + k * complex_size;
        store_columns(a, to, stride, width);
        store_columns(b, to + width, stride, width);
      }
    }
  }

  for (int parity = 0; parity < 2; ++parity) {
    for (std::size_t k = 0; k < blocks; ++k) {
      std::size_t column[width];
      for (std::size_t l = 0; l < width; ++l) {
        const std::size_t p = k * width + l;
        const std::size_t f =
            2 * (p < x.m ? x.complex.frequency[p] : 0u) + static_cast<std::size_t>(parity);
        column[l] = f <= x.m ? f : 2 * x.m - f;
      }
      for (std::size_t f = 0; f <= y.m; ++f) {
        for (std::size_t l = 0; l < width; ++l) g[f * width + l] = green[f * green_row + column[l]];
      }
      real* here = half[parity] + k * complex_size;
      for (std::size_t j = 0; j < y.m; ++j) {
        if (j < y.n) {
          const complex v{lanes::load(here + j * stride), lanes::load(here + j * stride + width)};
          even[j] = v;
          odd[j] = detail::times<false>(v, y.turn[2 * j], y.turn[2 * j + 1]);
        } else {
          even[j] = odd[j] = {lanes(real(0)), lanes(real(0))};
        }
      }
      transform(y.complex, even);
      transform(y.complex, odd);
      for (std::size_t p = 0; p < y.m; ++p) {
        const std::size_t f = 2 * y.complex.frequency[p];
        const lanes ge = lanes::load(g + (f <= y.m ? f : 2 * y.m - f) * width);
        const lanes go = lanes::load(g + (f + 1 <= y.m ? f + 1 : 2 * y.m - f - 1) * width);
        even[p] = {even[p].re * ge, even[p].im * ge};
        odd[p] = {odd[p].re * go, odd[p].im * go};
      }
      transform_back(y.complex, even);
      transform_back(y.complex, odd);
      for (std::size_t j = 0; j < y.n; ++j) {
        using detail::operator+;
        const complex v = even[j] + detail::times<true>(odd[j], y.turn[2 * j], y.turn[2 * j + 1]);
        v.re.store(here + j * stride);
        v.im.store(here + j * stride + width);
      }
    }
  }

  for (std::size_t j = 0; j < y.n; j += width) {
    const std::size_t rows = y.n - j;
    for (int parity = 0; parity < 2; ++parity) {
      complex* to = parity == 0 ? even : odd;
      for (std::size_t k = 0; k < blocks; ++k) {
        const real* from = half[parity] + j * stride + k * complex_size;
        load_columns(a, from, stride, width);
        load_columns(b, from + width, stride, width);
        for (std::size_t l = 0; l < width; ++l) to[k * width + l] = {a[l], b[l]};
      }
    }
    transform_back(x.complex, even);
    transform_back(x.complex, odd);
    for (std::size_t i = 0; i < x.n; i += width) {
      for (std::size_t l = 0; l < width; ++l) {
        if (i + l < x.n) {
          using detail::operator+;
          const complex v = even[i + l] + detail::times<true>(odd[i + l], x.turn[2 * (i + l)],
                                                              x.turn[2 * (i + l) + 1]);
          a[l] = v.re;
          b[l] = v.im;
        } else {
          a[l] = b[l] = lanes(real(0));
        }
      }
      store_columns(a, re + j * row + i, row, rows);
      store_columns(b, im + j * row + i, row, rows);
    }
  }
}

// --- Green's function -------------------------------------------------------------------------------------------

/// The average of 1/r over a box of edges 1, hy, hz (squares a2, b2, c2) around (x, y, z), to fourth order in box/r:
///   1/r [1 + sum e_i (3 p_i - 1)/24 + sum e_i^2 (105 p_i^2 - 90 p_i + 9)/1920
///          + sum_{i<j} e_i e_j (105 p_i p_j - 15 (p_i + p_j) + 3)/576],   p_i = x_i^2/r^2, e_i = h_i^2/r^2
/// (Taylor series of 1/r, averaged term by term).
template <class T, class Edge>
BETATRON_INLINE T far_average(const T& x2, const T& y2, const T& z2, const Edge& b2,
                              const Edge& c2) {
  const T inv = numerics::rsqrt(x2 + y2 + z2), q = inv * inv;
  const T px = x2 * q, py = y2 * q, pz = z2 * q;
  const T ey = q * b2, ez = q * c2;
  const lanes one(real(1));
  const T second = q * (px * real(3) - one) + ey * (py * real(3) - one) + ez * (pz * real(3) - one);
  const auto own = [](const T& p) {
    return (p * real(105) - lanes(real(90))) * p + lanes(real(9));
  };
  const auto mixed = [](const T& p, const T& r) {
    return (p * real(105) - lanes(real(15))) * r - p * real(15) + lanes(real(3));
  };
  const T fourth = q * q * own(px) + ey * ey * own(py) + ez * ez * own(pz);
  const T cross = q * ey * mixed(px, py) + q * ez * mixed(px, pz) + ey * ez * mixed(py, pz);
  return inv *
         (one + second * real(1.0 / 24) + fourth * real(1.0 / 1920) + cross * real(1.0 / 576));
}

/// The derivative of the same by hy (Axis 1) or hz (Axis 2), with y and z being multiples of them.
template <int Axis>
BETATRON_INLINE lanes far_slope(lanes x2, lanes y2, lanes z2, real hy, real hz) {
  using number = numerics::dual<lanes, 1>;
  number x(x2), y(y2), z(z2), b(lanes(hy * hy)), c(lanes(hz * hz));
  number& square = Axis == 1 ? y : z;
  const real edge = Axis == 1 ? hy : hz;
  square.d[0] = square.v * (2 / edge);
  (Axis == 1 ? b : c).d[0] = lanes(2 * edge);
  return far_average(x, y, z, b, c).d[0];
}

void green_plane(const axis_view<real>& x, const axis_view<real>& y, const green_view<real>& g,
                 std::size_t z, real* out, std::size_t row, real* work) {
  const std::size_t columns = x.m + 1, blocks = (columns + width - 1) / width;
  const std::size_t longest = x.m > y.m ? x.m : y.m;
  complex* even = buffer(work);
  complex* odd = even + longest / 2;
  lanes* values = reinterpret_cast<lanes*>(odd + longest / 2);
  lanes* spectrum = values + longest;
  real* half = reinterpret_cast<real*>(spectrum + round_up(columns));
  const std::size_t stride = blocks * width;

  const real b2 = g.hy * g.hy, c2 = g.hz * g.hz;
  const real zz = static_cast<real>(z) * g.hz;
  lanes count;  // 0, 1, 2, ...
  for (int l = 0; l < lane_count; ++l) count.set(l, static_cast<real>(l));
  lanes a[lane_count];
  for (std::size_t j = 0; j < y.n; j += width) {
    const lanes yy = (lanes(static_cast<real>(j)) + count) * g.hy;
    const lanes y2 = yy * yy, z2(zz * zz);
    const bool some_near = z < g.near_z && j < g.near_y;
    for (std::size_t i = 0; i < x.n; ++i) {
      const real xx = static_cast<real>(i);
      const lanes x2(xx * xx);
      lanes v = g.slope == 0   ? far_average(x2, y2, z2, b2, c2)
                : g.slope == 1 ? far_slope<1>(x2, y2, z2, g.hy, g.hz)
                               : far_slope<2>(x2, y2, z2, g.hy, g.hz);
      if (some_near && i < g.near_x) {
        for (std::size_t l = 0; l < width && j + l < g.near_y; ++l) {
          v.set(static_cast<int>(l),
                static_cast<real>(g.near[(z * g.near_y + j + l) * g.near_x + i]));
        }
      }
      // the half sum of an even function, from its positive side: Re of the padded transform is all of it
      values[i] = v * (i == 0 ? g.scale : 2 * g.scale);
    }
    real_forward(
        x, even, odd, [&](std::size_t i) { return values[i]; },
        [&](std::size_t p, lanes re, lanes) { spectrum[folded_frequency(p, x.m)] = re; });
    for (std::size_t k = 0; k < blocks; ++k) {
      for (std::size_t l = 0; l < width; ++l) {
        a[l] = k * width + l < columns ? spectrum[k * width + l] : lanes(real(0));
      }
      store_columns(a, half + j * stride + k * width, stride, width);
    }
  }
  for (std::size_t k = 0; k < blocks; ++k) {
    const real* from = half + k * width;
    real* to = out + k * width;
    real_forward(
        y, even, odd,
        [&](std::size_t j) {
          return lanes::load(from + j * stride) * (j == 0 ? real(1) : real(2));
        },
        [&](std::size_t p, lanes re, lanes) { re.store(to + folded_frequency(p, y.m) * row); });
  }
}

void green_row(const axis_view<real>& z, real* first, std::size_t count, std::size_t plane,
               real* work) {
  complex* even = buffer(work);
  complex* odd = even + z.m / 2;
  lanes* values = reinterpret_cast<lanes*>(odd + z.m / 2);
  for (std::size_t x = 0; x < count; x += width) {
    for (std::size_t j = 0; j < z.n; ++j) {
      values[j] = lanes::load(first + x + j * plane) * (j == 0 ? real(1) : real(2));
    }
    real_forward(
        z, even, odd, [&](std::size_t j) { return values[j]; },
        [&](std::size_t p, lanes re, lanes) { re.store(first + x + p * plane); });
  }
}

// --- conducting walls ------------------------------------------------------------------------------------------

/// Two real lines z = a + i b, z_j for 0 < j < n, become their sine sums: an odd function of length 2 n has the transform
/// -2 i S.
BETATRON_INLINE void sine_lines(const fft_view<real>& plan, complex* z) {
  const std::size_t n = plan.n / 2;
  const complex zero{lanes(real(0)), lanes(real(0))};
  z[0] = z[n] = zero;
  for (std::size_t j = 1; j < n; ++j) z[2 * n - j] = {-z[j].re, -z[j].im};
  transform(plan, z);
}
BETATRON_INLINE complex sine_sum(const fft_view<real>& plan, const complex* z, std::size_t k) {
  const complex v = z[plan.position[k]];
  return {v.im * real(-0.5), v.re * real(0.5)};
}

void sine_plane(const fft_view<real>& x, const fft_view<real>& y, real* first, std::size_t row,
                real* work) {
  const std::size_t nx = x.n / 2 - 1, ny = y.n / 2 - 1;
  complex* z = buffer(work);
  lanes a[lane_count], b[lane_count];
  for (std::size_t j = 0; j < ny; j += 2 * width) {
    real* upper = first + j * row;
    real* lower = upper + width * row;
    const std::size_t some = ny - j, more = some > width ? some - width : 0;
    for (std::size_t i = 0; i < nx; i += width) {
      load_columns(a, upper + i, row, some);
      load_columns(b, lower + i, row, more);
      for (std::size_t l = 0; l < width && i + l < nx; ++l) z[i + l + 1] = {a[l], b[l]};
    }
    sine_lines(x, z);
    for (std::size_t i = 0; i < nx; i += width) {
      for (std::size_t l = 0; l < width; ++l) {
        const complex v =
            i + l < nx ? sine_sum(x, z, i + l + 1) : complex{lanes(real(0)), lanes(real(0))};
        a[l] = v.re;
        b[l] = v.im;
      }
      store_columns(a, upper + i, row, some);
      store_columns(b, lower + i, row, more);
    }
  }
  for (std::size_t i = 0; i < nx; i += 2 * width) {
    real* left = first + i;
    const bool both = i + width < nx;
    for (std::size_t j = 0; j < ny; ++j) {
      z[j + 1] = {lanes::load(left + j * row),
                  both ? lanes::load(left + j * row + width) : lanes(real(0))};
    }
    sine_lines(y, z);
    for (std::size_t j = 0; j < ny; ++j) {
      const complex v = sine_sum(y, z, j + 1);
      v.re.store(left + j * row);
      if (both) v.im.store(left + j * row + width);
    }
  }
}

void decay_z(real* first, std::size_t count, std::size_t nz, std::size_t plane, const real* self,
             const real* step, const real* decay, real* work) {
  lanes* before = reinterpret_cast<lanes*>(work);
  for (std::size_t i = 0; i < count; i += width) {
    real* z = first + i;
    const lanes s = lanes::load(self + i), t = lanes::load(step + i), d = lanes::load(decay + i);
    lanes sum(real(0));
    for (std::size_t j = 0; j < nz; ++j) {
      before[j] = sum;
      sum = sum * d + lanes::load(z + j * plane);
    }
    sum = lanes(real(0));
    for (std::size_t j = nz; j-- > 0;) {
      const lanes q = lanes::load(z + j * plane);
      (q * s + (before[j] + sum) * t).store(z + j * plane);
      sum = sum * d + q;
    }
  }
}

// --- particles --------------------------------------------------------------------------------------------------

bool extent(const real* x, std::size_t count, real* low, real* high) {
  real least = x[0], most = x[0];
  bool finite = true;
  const auto take = [&](real v) {
    least = v < least ? v : least;
    most = v > most ? v : most;
    finite = finite && v * real(0) == 0;  // NaN for infinities and NaN
  };
  std::size_t i = 0;
  if (count >= 4 * width) {
    lanes a[4], b[4], probe[4];
    for (std::size_t k = 0; k < 4; ++k) {
      a[k] = b[k] = lanes::load(x + k * width);
      probe[k] = lanes(real(0));
    }
    for (; i + 4 * width <= count; i += 4 * width) {
#pragma GCC unroll 4
      for (std::size_t k = 0; k < 4; ++k) {
        const lanes v = lanes::load(x + i + k * width);
        a[k] = select(v < a[k], v, a[k]);
        b[k] = select(v > b[k], v, b[k]);
        probe[k] += v * real(0);
      }
    }
    for (std::size_t k = 0; k < 4; ++k) {
      for (int l = 0; l < lane_count; ++l) {
        take(a[k][l]);
        take(b[k][l]);
        finite = finite && probe[k][l] == 0;
      }
    }
  }
  for (; i < count; ++i) take(x[i]);
  *low = least;
  *high = most;
  return finite;
}

void tiles(const real* __restrict y, const real* __restrict t, std::size_t count,
           const tile_map& given, std::uint32_t* __restrict result) {
  const tile_map map = given;  // a copy cannot alias the result
  for (std::size_t i = 0; i < count; ++i) {
    double u = static_cast<double>(y[i]) * map.scale[0] + map.offset[0];
    double v = static_cast<double>(t[i]) * map.scale[1] + map.offset[1];
    u = u > map.low ? u : map.low;  // for NaN, too
    u = u < map.last[0] ? u : map.last[0];
    v = v > map.low ? v : map.low;
    v = v < map.last[1] ? v : map.last[1];
    const auto row = static_cast<std::uint32_t>(static_cast<std::int32_t>(u * map.tiles_per_row));
    const auto plane = static_cast<std::uint32_t>(static_cast<std::int32_t>(v));
    result[i] = plane / tile_planes * map.tiles_y + row;
  }
}

/// Values of the B-spline of an order at the nodes base, base + 1, ... around u (R. W. Hockney, J. W. Eastwood,
/// Computer Simulation Using Particles, 1988, sec. 5-3); weights[0 ... order].
template <int Order>
BETATRON_INLINE std::size_t spline(real u, real* weights) {
  if constexpr (Order == 1) {
    const std::size_t i = static_cast<std::size_t>(u);
    const real d = u - static_cast<real>(i);
    weights[0] = 1 - d;
    weights[1] = d;
    return i;
  } else if constexpr (Order == 2) {
    const std::size_t i = static_cast<std::size_t>(u + real(0.5));
    const real d = u - static_cast<real>(i);
    weights[0] = real(0.5) * (real(0.5) - d) * (real(0.5) - d);
    weights[1] = real(0.75) - d * d;
    weights[2] = real(0.5) * (real(0.5) + d) * (real(0.5) + d);
    return i - 1;
  } else {
    const std::size_t i = static_cast<std::size_t>(u);
    const real d = u - static_cast<real>(i), e = 1 - d;
    weights[0] = e * e * e * real(1.0 / 6);
    weights[1] = real(2.0 / 3) - d * d * (1 - d * real(0.5));
    weights[2] = real(2.0 / 3) - e * e * (1 - e * real(0.5));
    weights[3] = d * d * d * real(1.0 / 6);
    return i - 1;
  }
}

/// How many particles ahead memory is asked for.
constexpr std::size_t ahead = 12;

template <int Order>
BETATRON_INLINE void deposit_all(const mesh_particle<real>* p, std::size_t count,
                                 const lattice_view<real>& grid) {
  using four = numerics::pack<real, 4, isa>;
  for (std::size_t n = 0; n < count; ++n) {
    real wx[4] = {}, wy[4], wz[4];
    const std::size_t i = spline<Order>(p[n].x, wx), j = spline<Order>(p[n].y, wy),
                      k = spline<Order>(p[n].z, wz);
    const real w = p[n].weight;
    const four x(typename four::vector{wx[0] * w, wx[1] * w, wx[2] * w, wx[3] * w});
    real* plane = grid.data + k * grid.plane + j * grid.row + i;
#pragma GCC unroll 4
    for (int c = 0; c <= Order; ++c, plane += grid.plane) {
      const four xz = x * wz[c];
      real* row = plane;
#pragma GCC unroll 4
      for (int b = 0; b <= Order; ++b, row += grid.row) {
        (four::load(row) + xz * wy[b]).store(row);
      }
    }
  }
}

void deposit(int order, const mesh_particle<real>* p, std::size_t count,
             const lattice_view<real>& grid) {
  if (order == 1) return deposit_all<1>(p, count, grid);
  if (order == 2) return deposit_all<2>(p, count, grid);
  deposit_all<3>(p, count, grid);
}

/// As many numbers as a pack has lanes, put together in registers: they were stored one by one just before.
template <class P, class F>
BETATRON_INLINE P across(const F* v) {
  using vector = typename P::vector;
  if constexpr (P::width == 4) {
    return P(vector{v[0], v[1], v[2], v[3]});
  } else {
    return P(vector{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]});
  }
}

template <int Order>
BETATRON_INLINE void gather_all(const mesh_particle<real>* p, std::size_t count,
                                const lattice_view<const real>& grid, const real* factor, real* px,
                                real* py, real* pz) {
  constexpr int nodes = Order + 3;
  using wide = numerics::pack<real, (nodes > 4 ? 8 : 4), isa>;
  for (std::size_t n = 0; n < count; ++n) {
    if (n + ahead < count) {
      const std::uint32_t next = p[n + ahead].index;
      __builtin_prefetch(px + next, 1);
      __builtin_prefetch(py + next, 1);
      __builtin_prefetch(pz + next, 1);
    }
    // s[1 ... order + 1]: the shape, 0 around it; d: its central difference
    real s[3][10] = {}, d[3][8] = {};
    const std::size_t i = spline<Order>(p[n].x, s[0] + 1), j = spline<Order>(p[n].y, s[1] + 1),
                      k = spline<Order>(p[n].z, s[2] + 1);
#pragma GCC unroll 3
    for (int axis = 0; axis < 3; ++axis) {
      d[axis][0] = s[axis][1] * real(0.5);
#pragma GCC unroll 8
      for (int l = 1; l < nodes; ++l) d[axis][l] = (s[axis][l + 1] - s[axis][l - 1]) * real(0.5);
    }
    wide along_x(real(0)), along_y(real(0)), along_z(real(0));
    const real* corner = grid.data + (k - 1) * grid.plane + (j - 1) * grid.row + (i - 1);
#pragma GCC unroll 8
    for (int c = 0; c < nodes; ++c) {
      const bool inside = c > 0 && c < nodes - 1;
      wide plain(real(0)), sloped(real(0));  // sums over rows of this plane
#pragma GCC unroll 8
      for (int b = 0; b < nodes; ++b) {
        const bool within = b > 0 && b < nodes - 1;
        if (!inside && !within) continue;
        const wide v = wide::load(corner + static_cast<std::size_t>(c) * grid.plane +
                                  static_cast<std::size_t>(b) * grid.row);
        if (within) plain += v * s[1][b];
        if (inside) sloped += v * d[1][b];
      }
      if (inside) {
        along_x += plain * s[2][c];
        along_y += sloped * s[2][c];
      }
      along_z += plain * d[2][c];
    }
    const wide sx = across<wide>(s[0]), dx = across<wide>(d[0]);
    const wide ex = along_x * dx, ey = along_y * sx, ez = along_z * sx;
    real fx = ex[0], fy = ey[1], fz = ez[1];
#pragma GCC unroll 8
    for (int l = 1; l < nodes; ++l) fx += ex[l];
#pragma GCC unroll 8
    for (int l = 2; l < nodes - 1; ++l) {
      fy += ey[l];
      fz += ez[l];
    }
    px[p[n].index] += fx * factor[0];
    py[p[n].index] += fy * factor[1];
    pz[p[n].index] += fz * factor[2];
  }
}

void gather(int order, const mesh_particle<real>* p, std::size_t count,
            const lattice_view<const real>& grid, const real* factor, real* px, real* py,
            real* pz) {
  if (order == 1) return gather_all<1>(p, count, grid, factor, px, py, pz);
  if (order == 2) return gather_all<2>(p, count, grid, factor, px, py, pz);
  gather_all<3>(p, count, grid, factor, px, py, pz);
}

// --- the adjoint of particles on a grid --------------------------------------------------------------------------

/// The derivatives of the weights of spline<Order>.
template <int Order>
BETATRON_INLINE void spline_slopes(real u, real* slopes) {
  if constexpr (Order == 1) {
    slopes[0] = -1;
    slopes[1] = 1;
  } else if constexpr (Order == 2) {
    const real d = u - static_cast<real>(static_cast<std::size_t>(u + real(0.5)));
    slopes[0] = d - real(0.5);
    slopes[1] = -2 * d;
    slopes[2] = d + real(0.5);
  } else {
    const real d = u - static_cast<real>(static_cast<std::size_t>(u)), e = 1 - d;
    slopes[0] = real(-0.5) * e * e;
    slopes[1] = d * (real(1.5) * d - 2);
    slopes[2] = e * (2 - real(1.5) * e);
    slopes[3] = real(0.5) * d * d;
  }
}

/// Half of the difference of neighbours: d_l = (s_{l+1} - s_{l-1})/2, what `nodes` numbers from -1 on give.
template <int Nodes>
BETATRON_INLINE void central_differences(const real* s, real* d) {
  d[0] = s[1] * real(0.5);
#pragma GCC unroll 8
  for (int l = 1; l < Nodes; ++l) d[l] = (s[l + 1] - s[l - 1]) * real(0.5);
}

template <int Order>
BETATRON_INLINE void deposit_pull_all(const mesh_particle<real>* p, std::size_t count,
                                      const pull_columns<real>& given, real* pulls,
                                      const lattice_view<real>& grid) {
  constexpr int nodes = Order + 3;
  using wide = numerics::pack<real, (nodes > 4 ? 8 : 4), isa>;
  const pull_columns<real> c = given;
  for (std::size_t n = 0; n < count; ++n) {
    if (n + ahead < count) {
      const std::uint32_t next = p[n + ahead].index;
      for (int a = 0; a < 3; ++a) __builtin_prefetch(c.by_momentum[a] + next);
    }
    real s[3][10] = {}, d[3][8] = {};
    const std::size_t i = spline<Order>(p[n].x, s[0] + 1), j = spline<Order>(p[n].y, s[1] + 1),
                      k = spline<Order>(p[n].z, s[2] + 1);
#pragma GCC unroll 3
    for (int a = 0; a < 3; ++a) central_differences<nodes>(s[a], d[a]);
    const std::uint32_t at = p[n].index;
    const real mx = c.factor[0] * c.by_momentum[0][at], my = c.factor[1] * c.by_momentum[1][at],
               mz = c.factor[2] * c.by_momentum[2][at];
    pulls[3 * n] = mx;
    pulls[3 * n + 1] = my;
    pulls[3 * n + 2] = mz;
    const wide plain = across<wide>(s[0]), sloped = across<wide>(d[0]) * mx;
    real* corner = grid.data + (k - 1) * grid.plane + (j - 1) * grid.row + (i - 1);
#pragma GCC unroll 8
    for (int z = 0; z < nodes; ++z) {
      const bool inside = z > 0 && z < nodes - 1;
#pragma GCC unroll 8
      for (int y = 0; y < nodes; ++y) {
        const bool within = y > 0 && y < nodes - 1;
        if (!inside && !within) continue;
        real* row = corner + static_cast<std::size_t>(z) * grid.plane +
                    static_cast<std::size_t>(y) * grid.row;
        wide v = wide::load(row);
        v += plain * (my * d[1][y] * s[2][z] + mz * s[1][y] * d[2][z]);
        if (inside && within) v += sloped * (s[1][y] * s[2][z]);
        v.store(row);
      }
    }
  }
}

void deposit_pull(int order, const mesh_particle<real>* p, std::size_t count,
                  const pull_columns<real>& c, real* pulls, const lattice_view<real>& grid) {
  if (order == 1) return deposit_pull_all<1>(p, count, c, pulls, grid);
  if (order == 2) return deposit_pull_all<2>(p, count, c, pulls, grid);
  deposit_pull_all<3>(p, count, c, pulls, grid);
}

/// The sum of all lanes, by halves.
template <class P>
BETATRON_INLINE real total(const P& v) {
  const auto a = v.v;
  if constexpr (P::width == 8) {
    const auto b =
        __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
    const auto c = __builtin_shufflevector(b, b, 0, 1) + __builtin_shufflevector(b, b, 2, 3);
    return c[0] + c[1];
  } else {
    const auto c = __builtin_shufflevector(a, a, 0, 1) + __builtin_shufflevector(a, a, 2, 3);
    return c[0] + c[1];
  }
}

template <int Order>
BETATRON_INLINE void gather_pull_all(const mesh_particle<real>* p, std::size_t count,
                                     const lattice_view<const real>& potential,
                                     const lattice_view<const real>& dual,
                                     const pull_columns<real>& given, const real* pulls,
                                     double* sums) {
  constexpr int nodes = Order + 3;
  using wide = numerics::pack<real, (nodes > 4 ? 8 : 4), isa>;
  const pull_columns<real> c = given;
  double sum[9] = {};
  for (std::size_t n = 0; n < count; ++n) {
    if (n + ahead < count) {
      const std::uint32_t next = p[n + ahead].index;
#pragma GCC unroll 3
      for (int a = 0; a < 3; ++a) {
        __builtin_prefetch(c.by_place[a] + next, 1);
        __builtin_prefetch(c.momentum[a] + next, 1);
      }
    }
    // the shape s, its slope t, and central differences of both
    real s[3][10] = {}, t[3][10] = {}, d[3][8] = {}, e[3][8] = {};
    const std::size_t i = spline<Order>(p[n].x, s[0] + 1), j = spline<Order>(p[n].y, s[1] + 1),
                      k = spline<Order>(p[n].z, s[2] + 1);
    spline_slopes<Order>(p[n].x, t[0] + 1);
    spline_slopes<Order>(p[n].y, t[1] + 1);
    spline_slopes<Order>(p[n].z, t[2] + 1);
#pragma GCC unroll 3
    for (int a = 0; a < 3; ++a) {
      central_differences<nodes>(s[a], d[a]);
      central_differences<nodes>(t[a], e[a]);
    }
    const std::uint32_t at = p[n].index;
    const real m[3] = {pulls[3 * n], pulls[3 * n + 1], pulls[3 * n + 2]};
    // sums over rows and planes of the potential with weights along y and z: the first letter says which along y
    wide ss(real(0)), ds(real(0)), sd(real(0)), ts(real(0)), st(real(0));
    wide es(real(0)), dt(real(0)), td(real(0)), se(real(0));
    const std::size_t start = (k - 1) * potential.plane + (j - 1) * potential.row + (i - 1);
    const real* corner = potential.data + start;
#pragma GCC unroll 8
    for (int z = 0; z < nodes; ++z) {
      const bool inside = z > 0 && z < nodes - 1;
      wide by_s(real(0)), by_d(real(0)), by_t(real(0)), by_e(real(0));
#pragma GCC unroll 8
      for (int y = 0; y < nodes; ++y) {
        const bool within = y > 0 && y < nodes - 1;
        if (!inside && !within) continue;
        const wide v = wide::load(corner + static_cast<std::size_t>(z) * potential.plane +
                                  static_cast<std::size_t>(y) * potential.row);
        if (within) {
          by_s += v * s[1][y];
          by_t += v * t[1][y];
        }
        if (inside) {
          by_d += v * d[1][y];
          by_e += v * e[1][y];
        }
      }
      if (inside) {
        ss += by_s * s[2][z];
        ds += by_d * s[2][z];
        ts += by_t * s[2][z];
        es += by_e * s[2][z];
        st += by_s * t[2][z];
        dt += by_d * t[2][z];
      }
      sd += by_s * d[2][z];
      td += by_t * d[2][z];
      se += by_s * e[2][z];
    }
    // the same of the potential of the dual charges
    wide dual_ss(real(0)), dual_ts(real(0)), dual_st(real(0));
    const real* dual_corner = dual.data + start;
#pragma GCC unroll 8
    for (int z = 1; z < nodes - 1; ++z) {
      wide by_s(real(0)), by_t(real(0));
#pragma GCC unroll 8
      for (int y = 1; y < nodes - 1; ++y) {
        const wide v = wide::load(dual_corner + static_cast<std::size_t>(z) * dual.plane +
                                  static_cast<std::size_t>(y) * dual.row);
        by_s += v * s[1][y];
        by_t += v * t[1][y];
      }
      dual_ss += by_s * s[2][z];
      dual_ts += by_t * s[2][z];
      dual_st += by_s * t[2][z];
    }
    const wide sx = across<wide>(s[0]), tx = across<wide>(t[0]), dx = across<wide>(d[0]),
               ex = across<wide>(e[0]);
    const real w = p[n].weight;
    const real field[3] = {total(ss * dx), total(ds * sx), total(sd * sx)};
    const real by_place[3] = {total(ss * ex * m[0] + tx * (ds * m[1] + sd * m[2] + dual_ss * w)),
                              total(ts * dx * m[0] + sx * (es * m[1] + td * m[2] + dual_ts * w)),
                              total(st * dx * m[0] + sx * (dt * m[1] + se * m[2] + dual_st * w))};
    const real u[3] = {p[n].x, p[n].y, p[n].z};
#pragma GCC unroll 3
    for (int a = 0; a < 3; ++a) {
      c.momentum[a][at] -= c.undo[a] * field[a];
      c.by_place[a][at] += c.scale[a] * by_place[a];
      const double slope = static_cast<double>(by_place[a]);
      sum[a] += slope;
      sum[3 + a] += slope * (static_cast<double>(u[a]) - c.centre[a]);
      sum[6 + a] += static_cast<double>(m[a]) * static_cast<double>(field[a]);
    }
  }
  for (int a = 0; a < 9; ++a) sums[a] += sum[a];
}

void gather_pull(int order, const mesh_particle<real>* p, std::size_t count,
                 const lattice_view<const real>& potential, const lattice_view<const real>& dual,
                 const pull_columns<real>& c, const real* pulls, double* sums) {
  if (order == 1) return gather_pull_all<1>(p, count, potential, dual, c, pulls, sums);
  if (order == 2) return gather_pull_all<2>(p, count, potential, dual, c, pulls, sums);
  gather_pull_all<3>(p, count, potential, dual, c, pulls, sums);
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_TABLE(i, r) BETATRON_JOIN(field_kernels_, i, r)
#define BETATRON_TEXT(i) #i
#define BETATRON_NAME(i) BETATRON_TEXT(i)

extern const field_kernels<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL);

constinit const field_kernels<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL) = {
    .forward_z = forward_z,
    .backward_z = backward_z,
    .convolve = convolve,
    .green_plane = green_plane,
    .green_row = green_row,
    .sine_plane = sine_plane,
    .decay_z = decay_z,
    .extent = extent,
    .tiles = tiles,
    .deposit = deposit,
    .gather = gather,
    .deposit_pull = deposit_pull,
    .gather_pull = gather_pull,
    .width = width,
    .isa = BETATRON_NAME(BETATRON_ISA)};

}  // namespace betatron::fields
