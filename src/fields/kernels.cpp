// kernels.cpp: the loops of field solvers over packs. Compiled once per BETATRON_ISA and BETATRON_REAL; nothing in here
// may be emitted under a name that another instruction set shares (see numerics/hd.h).
#include <cstring>
#include <type_traits>
#include <utility>

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

/// Back from load_columns.
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
  real* g = work + 2 * longest * complex_size;  // with another first column
  // the transforms along x, in the order of axis_plan::pairs: rows of blocks of real and imaginary lanes
  real* half[2];
  const std::size_t stride = blocks * complex_size;
  half[0] = g + round_up((y.m + 1) * width);
  half[1] = half[0] + round_up(y.n) * stride;

  lanes a[lane_count], b[lane_count];
  complex* odd_x = even + x.m;
  for (std::size_t j = 0; j < y.n; j += width) {
    const std::size_t rows = y.n - j;
    for (std::size_t i = 0; i < x.n; i += width) {
      load_columns(a, re + j * row + i, row, rows);
      load_columns(b, im + j * row + i, row, rows);
      for (std::size_t l = 0; l < width && i + l < x.n; ++l) {
        const complex v{a[l], b[l]};
        even[i + l] = v;
        odd_x[i + l] = detail::times<false>(v, x.turn[2 * (i + l)], x.turn[2 * (i + l) + 1]);
      }
    }
    const complex zero{lanes(real(0)), lanes(real(0))};
    for (std::size_t i = x.n; i < x.m; ++i) even[i] = odd_x[i] = zero;
    transform(x.complex, even);
    transform(x.complex, odd_x);
    for (std::size_t of = 0; of < 2; ++of) {
      const std::uint32_t* position = x.pairs + of * x.m;
      for (std::size_t k = 0; k < blocks; ++k) {
        for (std::size_t l = 0; l < width; ++l) {
          const complex v = k * width + l < x.m ? even[position[k * width + l]] : zero;
          a[l] = v.re;
          b[l] = v.im;
        }
        real* to = half[of] + j * stride + k * complex_size;
        store_columns(a, to, stride, width);
        store_columns(b, to + width, stride, width);
      }
    }
  }

  for (std::size_t k = 0; k < blocks; ++k) {
    for (int of = 0; of < 2; ++of) {
      // both of a pair have the same column, but for the first
      const real* column = green + k * width;
      std::size_t column_row = green_row;
      if (k == 0 && of == 1) {
        for (std::size_t f = 0; f <= y.m; ++f) {
          lanes v = lanes::load(green + f * green_row);
          v.set(0, green[f * green_row + x.m]);
          v.store(g + f * width);
        }
        column = g;
        column_row = width;
      }
      real* here = half[of] + k * complex_size;
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
        const lanes ge = lanes::load(column + (f <= y.m ? f : 2 * y.m - f) * column_row);
        const lanes go =
            lanes::load(column + (f + 1 <= y.m ? f + 1 : 2 * y.m - f - 1) * column_row);
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
    for (std::size_t of = 0; of < 2; ++of) {
      const std::uint32_t* position = x.pairs + of * x.m;
      for (std::size_t k = 0; k < blocks; ++k) {
        const real* from = half[of] + j * stride + k * complex_size;
        load_columns(a, from, stride, width);
        load_columns(b, from + width, stride, width);
        for (std::size_t l = 0; l < width && k * width + l < x.m; ++l) {
          even[position[k * width + l]] = {a[l], b[l]};
        }
      }
    }
    transform_back(x.complex, even);
    transform_back(x.complex, odd_x);
    for (std::size_t i = 0; i < x.n; i += width) {
      for (std::size_t l = 0; l < width; ++l) {
        if (i + l < x.n) {
          using detail::operator+;
          const complex v = even[i + l] + detail::times<true>(odd_x[i + l], x.turn[2 * (i + l)],
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
        [&](std::size_t p, lanes re, lanes) {
          spectrum[green_column(folded_frequency(p, x.m), x.m)] = re;
        });
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

// Particles go through in blocks: first their shapes are computed, a particle per lane, and written down; then each
// meets the nodes around it. A block is so long that one step does not wait for the end of the other.
//
// What is read from the nodes, or is added to them as derivatives, is a vector of four. The nodes that the particles of
// a tile touch are therefore copied into a box of vectors, which stays in cache.

constexpr std::size_t block_size = 32;
static_assert(block_size % width == 0);
using four = numerics::pack<real, 4, isa>;

/// Base, and place relative to it, of splines: base is the first node that a particle at u touches.
template <int Order>
BETATRON_INLINE lanes nearest_node(lanes u) {
  const lanes v = Order == 2 ? u + real(0.5) : u, nearest = round_to_integer(v);
  return select(nearest > v, nearest - real(1), nearest);
}
template <int Order>
constexpr int nodes_below = Order == 1 ? 0 : 1;
template <int Order>
BETATRON_INLINE std::ptrdiff_t first_node(real u) {
  return static_cast<std::ptrdiff_t>(Order == 2 ? u + real(0.5) : u) - nodes_below<Order>;
}

/// Values of the B-spline of an order at the nodes i, i + 1, ... around u (R. W. Hockney, J. W. Eastwood, Computer
/// Simulation Using Particles, 1988, sec. 5-3), and with Slopes their derivatives by u; returns i.
template <int Order, bool Slopes>
BETATRON_INLINE lanes spline(lanes u, lanes* weights, lanes* slopes = nullptr) {
  const lanes i = nearest_node<Order>(u), d = u - i, one(real(1)), half(real(0.5)), e = one - d;
  if constexpr (Order == 1) {
    weights[0] = e;
    weights[1] = d;
    if constexpr (Slopes) {
      slopes[0] = -one;
      slopes[1] = one;
    }
  } else if constexpr (Order == 2) {
    weights[0] = half * (half - d) * (half - d);
    weights[1] = real(0.75) - d * d;
    weights[2] = half * (half + d) * (half + d);
    if constexpr (Slopes) {
      slopes[0] = d - half;
      slopes[1] = real(-2) * d;
      slopes[2] = d + half;
    }
  } else {
    weights[0] = e * e * e * real(1.0 / 6);
    weights[1] = real(2.0 / 3) - d * d * (one - d * half);
    weights[2] = real(2.0 / 3) - e * e * (one - e * half);
    weights[3] = d * d * d * real(1.0 / 6);
    if constexpr (Slopes) {
      slopes[0] = real(-0.5) * e * e;
      slopes[1] = d * (real(1.5) * d - real(2));
      slopes[2] = e * (real(2) - real(1.5) * e);
      slopes[3] = half * d * d;
    }
  }
  return i - real(nodes_below<Order>);
}

/// lane_count particles, the last of `some` repeated.
struct particle_lanes {
  lanes u[3], weight;

  BETATRON_INLINE particle_lanes(const mesh_particle<real>* p, std::size_t some) {
    if (some >= width) {
      take(p, std::make_index_sequence<width>());
      return;
    }
    mesh_particle<real> filled[width];
    for (std::size_t l = 0; l < width; ++l) filled[l] = p[l < some ? l : some - 1];
    take(filled, std::make_index_sequence<width>());
  }

 private:
  template <std::size_t... L>
  BETATRON_INLINE void take(const mesh_particle<real>* p, std::index_sequence<L...>) {
    using vector = typename lanes::vector;
    u[0] = vector{p[L].x...};
    u[1] = vector{p[L].y...};
    u[2] = vector{p[L].z...};
    weight = vector{p[L].weight...};
  }
};

/// The nodes that particles touch: n from `first` on, along each axis, of a grid with these strides.
struct node_box {
  std::ptrdiff_t first[3], n[3], row, plane;

  BETATRON_INLINE std::size_t size() const { return static_cast<std::size_t>(n[2] * plane); }
};

/// Those of count >= 1 particles, where they are side by side, rows filled up to whole packs.
template <int Order>
BETATRON_INLINE node_box box_of(const mesh_particle<real>* p, std::size_t count) {
  constexpr std::size_t chains = 4;  // that do not wait for each other
  constexpr std::size_t size = width < 4 ? width : 4, parts = 4 / size;
  using part = numerics::pack<real, static_cast<int>(size), isa>;
  part low[chains][parts], high[chains][parts];
  for (std::size_t k = 0; k < chains; ++k) {
    for (std::size_t i = 0; i < parts; ++i) low[k][i] = high[k][i] = part::load(&p->x + i * size);
  }
  for (std::size_t n = 0; n < count; n += chains) {
#pragma GCC unroll 4
    for (std::size_t k = 0; k < chains; ++k) {
      const real* at = &p[n + k < count ? n + k : count - 1].x;
#pragma GCC unroll 2
      for (std::size_t i = 0; i < parts; ++i) {
        const part here = part::load(at + i * size);
        low[k][i] = select(here < low[k][i], here, low[k][i]);
        high[k][i] = select(here > high[k][i], here, high[k][i]);
      }
    }
  }
  real least[4], most[4];
  for (std::size_t i = 0; i < parts; ++i) {
    for (std::size_t k = 1; k < chains; ++k) {
      low[0][i] = select(low[k][i] < low[0][i], low[k][i], low[0][i]);
      high[0][i] = select(high[k][i] > high[0][i], high[k][i], high[0][i]);
    }
    low[0][i].store(least + i * size);
    high[0][i].store(most + i * size);
  }
  node_box b{};
  for (int a = 0; a < 3; ++a) {
    b.first[a] = first_node<Order>(least[a]);
    b.n[a] = first_node<Order>(most[a]) + Order + 1 - b.first[a];
  }
  b.row = static_cast<std::ptrdiff_t>(round_up(static_cast<std::size_t>(b.n[0])));
  b.plane = b.row * b.n[1];
  return b;
}

/// The shapes of lane_count particles: factors along x, and products along y and z, [z][y]; with Slopes the derivative by x
/// of the former, and those by y and by z of the latter. first: of the nodes in a box or grid.
template <int Order, bool Slopes>
struct shapes {
  static constexpr int nodes = Order + 1, none = 0, by_y = 1, by_z = 2;
  alignas(64) real x[Slopes ? 2 : 1][nodes][width];
  alignas(64) real yz[Slopes ? 3 : 1][nodes][nodes][width];
  alignas(64) std::ptrdiff_t first[width];

  BETATRON_INLINE void set(const particle_lanes& p, const node_box& box) {
    lanes s[3][nodes], t[3][nodes];
    alignas(64) real base[3][width];
    for (int a = 0; a < 3; ++a) spline<Order, Slopes>(p.u[a], s[a], t[a]).store(base[a]);
    for (int k = 0; k < nodes; ++k) {
      s[0][k].store(x[0][k]);
      if constexpr (Slopes) t[0][k].store(x[1][k]);
    }
    for (int c = 0; c < nodes; ++c) {
      for (int b = 0; b < nodes; ++b) {
        (s[1][b] * s[2][c]).store(yz[none][c][b]);
        if constexpr (Slopes) {
          (t[1][b] * s[2][c]).store(yz[by_y][c][b]);
          (s[1][b] * t[2][c]).store(yz[by_z][c][b]);
        }
      }
    }
    for (std::size_t l = 0; l < width; ++l) {
      std::ptrdiff_t i[3];
      for (int a = 0; a < 3; ++a) i[a] = static_cast<std::ptrdiff_t>(base[a][l]) - box.first[a];
      first[l] = i[2] * box.plane + i[1] * box.row + i[0];
    }
  }
};

/// work(n, shapes, lane) for each of count particles: its shape is in that lane. box: what the places of nodes are counted in.
template <int Order, bool Slopes, class Work>
BETATRON_INLINE void for_shapes(const mesh_particle<real>* p, std::size_t count,
                                const node_box& box, Work&& work) {
  shapes<Order, Slopes> of_block[block_size / width];
  for (std::size_t first = 0; first < count; first += block_size) {
    const std::size_t some = count - first < block_size ? count - first : block_size;
    for (std::size_t q = 0; q * width < some; ++q) {
      of_block[q].set(particle_lanes(p + first + q * width, some - q * width), box);
    }
    for (std::size_t n = 0; n < some; ++n) work(first + n, of_block[n / width], n % width);
  }
}

template <int Order>
BETATRON_INLINE void deposit_all(const mesh_particle<real>* p, std::size_t count,
                                 const lattice_view<real>& grid) {
  constexpr int nodes = Order + 1;
  const node_box whole{
      {}, {}, static_cast<std::ptrdiff_t>(grid.row), static_cast<std::ptrdiff_t>(grid.plane)};
  const auto each = [&](std::size_t n, const auto& s, std::size_t l)
      __attribute__((always_inline)) {
    const real w = p[n].weight;
    const auto& sx = s.x[0];
    const four x(typename four::vector{sx[0][l] * w, sx[1][l] * w,
                                       nodes > 2 ? sx[nodes > 2 ? 2 : 0][l] * w : 0,
                                       nodes > 3 ? sx[nodes > 3 ? 3 : 0][l] * w : 0});
    real* plane = grid.data + s.first[l];
#pragma GCC unroll 4
    for (int c = 0; c < nodes; ++c, plane += grid.plane) {
      real* row = plane;
#pragma GCC unroll 4
      for (int b = 0; b < nodes; ++b, row += grid.row) {
        (four::load(row) + x * s.yz[0][c][b][l]).store(row);
      }
    }
  };
  for_shapes<Order, false>(p, count, whole, each);
}

void deposit(int order, const mesh_particle<real>* p, std::size_t count,
             const lattice_view<real>& grid) {
  if (order == 1) return deposit_all<1>(p, count, grid);
  if (order == 2) return deposit_all<2>(p, count, grid);
  deposit_all<3>(p, count, grid);
}

/// a_0 b_0 c_0 d_0 a_1 ... : four packs side by side.
BETATRON_INLINE void store_vectors(const lanes (&v)[4], real* to) {
  using vector = typename lanes::vector;
  const auto part = [&]<int K, int... L>(std::integer_sequence<int, K>,
                                         std::integer_sequence<int, L...>)
      __attribute__((always_inline)) {
    constexpr int w = lane_count;
    const vector ab = __builtin_shufflevector(v[0].v, v[1].v,
                                              ((L % 2 == 0 ? 0 : w) + (K * w + L) / 4)...),
                 cd = __builtin_shufflevector(v[2].v, v[3].v,
                                              ((L % 2 == 0 ? 0 : w) + (K * w + L) / 4)...);
    lanes(vector(__builtin_shufflevector(ab, cd, ((K * w + L) % 4 < 2 ? L : w + L)...)))
        .store(to + K * w);
  };
  constexpr auto all = std::make_integer_sequence<int, lane_count>();
  part(std::integer_sequence<int, 0>(), all);
  part(std::integer_sequence<int, 1>(), all);
  part(std::integer_sequence<int, 2>(), all);
  part(std::integer_sequence<int, 3>(), all);
}

/// Back again.
BETATRON_INLINE void load_vectors(const real* from, lanes (&v)[4]) {
  using vector = typename lanes::vector;
  constexpr int w = lane_count;
  const vector r[4] = {lanes::load(from).v, lanes::load(from + w).v, lanes::load(from + 2 * w).v,
                       lanes::load(from + 3 * w).v};
  const auto part = [&]<int C, int... L>(std::integer_sequence<int, C>,
                                         std::integer_sequence<int, L...>)
      __attribute__((always_inline)) {
    const vector low = __builtin_shufflevector(r[0], r[1], (4 * (L % (w / 2)) + C + 2 * L / w)...),
                 high = __builtin_shufflevector(r[2], r[3], (4 * (L % (w / 2)) + C + 2 * L / w)...);
    v[C] = __builtin_shufflevector(low, high, (L < w / 2 ? L : w / 2 + L)...);
    v[C + 1] = __builtin_shufflevector(low, high, (L < w / 2 ? w / 2 + L : w + L)...);
  };
  constexpr auto all = std::make_integer_sequence<int, w>();
  part(std::integer_sequence<int, 0>(), all);
  part(std::integer_sequence<int, 2>(), all);
}

/// Fills a box with E = factor times the difference of the potential across each node, and with the dual potential, if
/// there is one.
BETATRON_INLINE void fill(const node_box& box, const lattice_view<const real>& potential,
                          const real* factor, const real* dual, real* vectors) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(potential.row),
                       plane = static_cast<std::ptrdiff_t>(potential.plane);
  const real half[3] = {factor[0] / 2, factor[1] / 2, factor[2] / 2};
  for (std::ptrdiff_t z = 0; z < box.n[2]; ++z) {
    for (std::ptrdiff_t y = 0; y < box.n[1]; ++y) {
      const std::ptrdiff_t at =
          (box.first[2] + z) * plane + (box.first[1] + y) * row + box.first[0];
      real* to = vectors + 4 * (z * box.plane + y * box.row);
      for (std::ptrdiff_t x = 0; x < box.row; x += lane_count) {
        const real* phi = potential.data + at + x;
        const auto across = [&](std::ptrdiff_t step, real f) {
          return (lanes::load(phi - step) - lanes::load(phi + step)) * f;
        };
        const lanes v[4] = {across(1, half[0]), across(row, half[1]), across(plane, half[2]),
                            dual ? lanes::load(dual + at + x) : lanes(real(0))};
        store_vectors(v, to + 4 * x);
      }
    }
  }
}

template <int Order>
BETATRON_INLINE void gather_all(const mesh_particle<real>* p, std::size_t count,
                                const lattice_view<const real>& potential, const real* factor,
                                triple<real>* kicks, real* vectors) {
  constexpr int nodes = Order + 1;
  const node_box box = box_of<Order>(p, count);
  fill(box, potential, factor, nullptr, vectors);
  const auto each = [&](std::size_t n, const auto& s, std::size_t l)
      __attribute__((always_inline)) {
    const real* plane = vectors + 4 * s.first[l];
    four sum(real(0));
#pragma GCC unroll 4
    for (int c = 0; c < nodes; ++c, plane += 4 * box.plane) {
      const real* row = plane;
#pragma GCC unroll 4
      for (int b = 0; b < nodes; ++b, row += 4 * box.row) {
        four along = four::load(row) * s.x[0][0][l];
#pragma GCC unroll 4
        for (int a = 1; a < nodes; ++a) along += four::load(row + 4 * a) * s.x[0][a][l];
        sum += along * s.yz[0][c][b][l];
      }
    }
    kicks[n] = {sum[0], sum[1], sum[2]};
  };
  for_shapes<Order, false>(p, count, box, each);
}

void gather(int order, const mesh_particle<real>* p, std::size_t count,
            const lattice_view<const real>& potential, const real* factor, triple<real>* kicks,
            real* work) {
  if (count == 0) return;
  if (order == 1) return gather_all<1>(p, count, potential, factor, kicks, work);
  if (order == 2) return gather_all<2>(p, count, potential, factor, kicks, work);
  gather_all<3>(p, count, potential, factor, kicks, work);
}

// --- the adjoint of particles on a grid --------------------------------------------------------------------------

/// Adds a box of vectors (m_x, m_y, m_z, w) to the density (w) and the dual charges (differences of m across each node).
/// Behind the vectors there is room for a row and two packs.
BETATRON_INLINE void add(const node_box& box, real* vectors, const lattice_view<real>& density,
                         const lattice_view<real>& dual) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(dual.row),
                       plane = static_cast<std::ptrdiff_t>(dual.plane);
  const auto to = [](real* at, lanes v) { (lanes::load(at) + v).store(at); };
  const real half = real(0.5);
  real* const mx = vectors + 4 * box.size() + width;  // of a row, between zeros
  for (std::size_t l = 0; l < width; ++l)
    mx[l - width] = mx[box.row + static_cast<std::ptrdiff_t>(l)] = 0;
  for (std::ptrdiff_t z = 0; z < box.n[2]; ++z) {
    for (std::ptrdiff_t y = 0; y < box.n[1]; ++y) {
      const std::ptrdiff_t at =
          (box.first[2] + z) * plane + (box.first[1] + y) * row + box.first[0];
      const real* from = vectors + 4 * (z * box.plane + y * box.row);
      real* const sigma = dual.data + at;
      for (std::ptrdiff_t x = 0; x < box.row; x += lane_count) {
        lanes m[4];
        load_vectors(from + 4 * x, m);
        m[0].store(mx + x);
        to(sigma + x - row, m[1] * half);
        to(sigma + x + row, m[1] * -half);
        to(sigma + x - plane, m[2] * half);
        to(sigma + x + plane, m[2] * -half);
        to(density.data + at + x, m[3]);
      }
      for (std::ptrdiff_t x = -1; x <= box.n[0]; x += lane_count) {
        to(sigma + x, (lanes::load(mx + x + 1) - lanes::load(mx + x - 1)) * half);
      }
    }
  }
}

template <int Order>
BETATRON_INLINE void deposit_pull_all(const mesh_particle<real>* p, std::size_t count,
                                      const triple<real>* pulls, const lattice_view<real>& density,
                                      const lattice_view<real>& dual, real* vectors) {
  constexpr int nodes = Order + 1;
  const node_box box = box_of<Order>(p, count);
  std::memset(vectors, 0, 4 * box.size() * sizeof(real));
  const auto each = [&](std::size_t n, const auto& s, std::size_t l)
      __attribute__((always_inline)) {
    const triple<real>& m = pulls[n];
    const four all(typename four::vector{m.x, m.y, m.z, p[n].weight});
    real* plane = vectors + 4 * s.first[l];
#pragma GCC unroll 4
    for (int c = 0; c < nodes; ++c, plane += 4 * box.plane) {
      real* row = plane;
#pragma GCC unroll 4
      for (int b = 0; b < nodes; ++b, row += 4 * box.row) {
        const four here = all * s.yz[0][c][b][l];
#pragma GCC unroll 4
        for (int a = 0; a < nodes; ++a) {
          (four::load(row + 4 * a) + here * s.x[0][a][l]).store(row + 4 * a);
        }
      }
    }
  };
  for_shapes<Order, false>(p, count, box, each);
  add(box, vectors, density, dual);
}

void deposit_pull(int order, const mesh_particle<real>* p, std::size_t count,
                  const triple<real>* pulls, const lattice_view<real>& density,
                  const lattice_view<real>& dual, real* work) {
  if (count == 0) return;
  if (order == 1) return deposit_pull_all<1>(p, count, pulls, density, dual, work);
  if (order == 2) return deposit_pull_all<2>(p, count, pulls, density, dual, work);
  deposit_pull_all<3>(p, count, pulls, density, dual, work);
}

/// Lane r: the sum of what is in v[r].
BETATRON_INLINE four sums_across(const four (&v)[4]) {
  const auto pair = [](const four& a, const four& b) __attribute__((always_inline)) {
    return __builtin_shufflevector(a.v, b.v, 0, 4, 2, 6) +
           __builtin_shufflevector(a.v, b.v, 1, 5, 3, 7);
  };
  const auto a = pair(v[0], v[1]), b = pair(v[2], v[3]);
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}

template <int Order>
BETATRON_INLINE void gather_pull_all(const mesh_particle<real>* p, std::size_t count,
                                     const lattice_view<const real>& potential,
                                     const lattice_view<const real>& dual, const double* centre,
                                     triple<real>* fields, triple<real>* pulls, double* result,
                                     real* vectors) {
  constexpr int nodes = Order + 1;
  const node_box box = box_of<Order>(p, count);
  const real unit[3] = {1, 1, 1};
  fill(box, potential, unit, dual.data, vectors);
  using shape = shapes<Order, true>;
  double sums[9] = {};
  const auto each = [&](std::size_t n, const shape& s, std::size_t l)
      __attribute__((always_inline)) {
    const real* plane = vectors + 4 * s.first[l];
    // of the vectors (E, psi): what the particle sees, and its derivatives by the place
    four sum(real(0)), by_x(real(0)), by_y(real(0)), by_z(real(0));
#pragma GCC unroll 4
    for (int c = 0; c < nodes; ++c, plane += 4 * box.plane) {
      const real* row = plane;
#pragma GCC unroll 4
      for (int b = 0; b < nodes; ++b, row += 4 * box.row) {
        four along = four::load(row) * s.x[0][0][l], slope = four::load(row) * s.x[1][0][l];
#pragma GCC unroll 4
        for (int a = 1; a < nodes; ++a) {
          along += four::load(row + 4 * a) * s.x[0][a][l];
          slope += four::load(row + 4 * a) * s.x[1][a][l];
        }
        sum += along * s.yz[shape::none][c][b][l];
        by_x += slope * s.yz[shape::none][c][b][l];
        by_y += along * s.yz[shape::by_y][c][b][l];
        by_z += along * s.yz[shape::by_z][c][b][l];
      }
    }
    const mesh_particle<real>& here = p[n];
    triple<real>& pull = pulls[n];
    const four m(typename four::vector{pull.x, pull.y, pull.z, here.weight});
    const four work = m * sum, nu = sums_across({by_x * m, by_y * m, by_z * m, four(real(0))});
    fields[n] = {sum[0], sum[1], sum[2]};
    pull = {nu[0], nu[1], nu[2]};
    const real u[3] = {here.x, here.y, here.z};
#pragma GCC unroll 3
    for (int a = 0; a < 3; ++a) {
      const double slope = static_cast<double>(nu[a]);
      sums[a] += slope;
      sums[3 + a] += slope * (static_cast<double>(u[a]) - centre[a]);
      sums[6 + a] += static_cast<double>(work[a]);
    }
  };
  for_shapes<Order, true>(p, count, box, each);
  for (int k = 0; k < 9; ++k) result[k] += sums[k];
}

void gather_pull(int order, const mesh_particle<real>* p, std::size_t count,
                 const lattice_view<const real>& potential, const lattice_view<const real>& dual,
                 const double* centre, triple<real>* fields, triple<real>* pulls, double* sums,
                 real* work) {
  if (count == 0) return;
  const auto run = [&]<int Order>(std::integral_constant<int, Order>) {
    gather_pull_all<Order>(p, count, potential, dual, centre, fields, pulls, sums, work);
  };
  if (order == 1) {
    run(std::integral_constant<int, 1>());
  } else if (order == 2) {
    run(std::integral_constant<int, 2>());
  } else {
    run(std::integral_constant<int, 3>());
  }
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
