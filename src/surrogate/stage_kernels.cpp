// stage_kernels.cpp: a structured plasma stage around its network as loops over packs. Compiled once per BETATRON_ISA and
// BETATRON_REAL; nothing in here may be emitted under a name that another instruction set shares (see numerics/hd.h).
#include "surrogate/stage_kernels.h"

#include "numerics/functions.h"
#include "numerics/native_vector.h"
#include "numerics/pack.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "stage_kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::surrogate {

namespace {

using real = BETATRON_REAL;

constexpr int width = numerics::vector_bytes / static_cast<int>(sizeof(real));

using lanes = numerics::pack<real, width, numerics::isa::BETATRON_ISA>;
using numbers = stage_numbers<real>;
using numerics::exp;
using numerics::select;
using numerics::sincos;
using numerics::sqrt;

BETATRON_INLINE lanes at(const real* const* columns, int which, std::size_t i) {
  return lanes::load(columns[which] + i);
}

void enter(const numbers& c, const stage_bounds<real>& bounds, const real* const* z,
           real* const* columns, real* const* features, std::uint8_t* outside, real* squares,
           std::size_t count) {
  for (std::size_t i = 0; i < count; i += width) {
    const lanes x0 = at(z, 0, i), px0 = at(z, 1, i), y0 = at(z, 2, i), py0 = at(z, 3, i),
                t0 = at(z, 4, i), pt0 = at(z, 5, i);
    const lanes energy = lanes(c.inverse_beta) - pt0;
    const lanes pz =
        sqrt(lanes(1) + pt0 * (pt0 - lanes(2) * lanes(c.inverse_beta)) - px0 * px0 - py0 * py0);
    const lanes flight = t0 / energy;
    const lanes x = x0 - flight * px0, y = y0 - flight * py0, along = -(flight * pz);
    const lanes px = lanes(c.momentum) * px0, py = lanes(c.momentum) * py0;
    const lanes gamma = lanes(c.momentum) * energy;
    const lanes root = sqrt(gamma);
    const lanes slow = lanes(1) / root;
    const lanes inverse_b = root * lanes(c.root_focusing);

    x.store(columns[stage_x] + i);
    y.store(columns[stage_y] + i);
    along.store(columns[stage_z] + i);
    px.store(columns[stage_px] + i);
    py.store(columns[stage_py] + i);
    gamma.store(columns[stage_gamma] + i);
    slow.store(columns[stage_slow] + i);

    const lanes square_r = (x * x + y * y) * inverse_b, square_p = (px * px + py * py) / inverse_b;
    const lanes w = lanes(1) / sqrt(lanes(1) + (square_r + square_p) * lanes(c.inverse_amplitude));
    const lanes f[stage_features] = {lanes(c.xi) + along, slow, w * square_r, w * square_p,
                                     w * (x * px + y * py)};
    for (int k = 0; k < stage_features; ++k) f[k].store(features[k] + i);
    if (outside == nullptr) continue;

    // the axis is never outside: amplitudes have no lower bound
    lanes excess(0), square(0);
#pragma GCC unroll 5
    for (int k = 0; k < stage_features; ++k) {
      const bool has_lower = k != 2 && k != 3;
      if (has_lower) excess = select(f[k] < lanes(bounds.lower[k]), lanes(1), excess);
      excess = select(f[k] <= lanes(bounds.upper[k]), excess, lanes(1));
      lanes row(0);
#pragma GCC unroll 5
      for (int j = 0; j <= k; ++j) {
        row = row + lanes(bounds.whitening[k][j]) * (f[j] - lanes(bounds.centre[j]));
      }
      square = square + row * row;
    }
    square.store(squares + i);
    excess = select(square <= lanes(bounds.limit), excess, lanes(1));
    for (int k = 0; k < width; ++k) outside[i + static_cast<std::size_t>(k)] = excess[k] != real(0);
  }
}

/// What is needed both forwards and backwards.
struct passage {
  lanes gamma2, slow2, e1, e2, sine, cosine;

  BETATRON_INLINE passage(const numbers& c, const real* const* columns, const real* const* o,
                          std::size_t i) {
    const lanes slow = at(columns, stage_slow, i);
    gamma2 = at(columns, stage_gamma, i) + at(o, 5, i);
    slow2 = lanes(1) / sqrt(gamma2);
    // 1/(sqrt gamma + sqrt gamma2) from the inverse roots
    const lanes phase = lanes(c.advance) * slow * slow2 / (slow + slow2) + at(o, 0, i);
    sincos(phase, sine, cosine);
    // e1/sqrt(b1), e2 sqrt(b2) with b = slow/sqrt(K)
    e1 = exp(at(o, 1, i)) * sqrt(lanes(c.root_focusing) / slow);
    e2 = exp(at(o, 3, i)) * sqrt(slow2 / lanes(c.root_focusing));
  }
};

/// One of the two planes.
struct plane {
  lanes u1, u, v, q, p;

  BETATRON_INLINE plane(const passage& m, lanes x, lanes px, lanes a1, lanes a2) {
    u1 = x * m.e1;
    const lanes v1 = px / m.e1 + a1 * u1;
    u = m.cosine * u1 + m.sine * v1;
    v = m.cosine * v1 - m.sine * u1;
    q = u * m.e2;
    p = (v - a2 * u) / m.e2;
  }
};

void leave(const numbers& c, const real* const* columns, const real* const* o, real* const* z,
           std::size_t count) {
  for (std::size_t i = 0; i < count; i += width) {
    const passage m(c, columns, o, i);
    const lanes a1 = at(o, 2, i), a2 = at(o, 4, i);
    const plane h(m, at(columns, stage_x, i), at(columns, stage_px, i), a1, a2);
    const plane v(m, at(columns, stage_y, i), at(columns, stage_py, i), a1, a2);
    const lanes along = at(columns, stage_z, i) + at(o, 6, i);
    const lanes pz = sqrt(m.gamma2 * m.gamma2 - lanes(1) - h.p * h.p - v.p * v.p);
    const lanes flight = -along / pz;
    const lanes scale(c.inverse_momentum_behind);
    (h.q + flight * h.p).store(z[0] + i);
    (h.p * scale).store(z[1] + i);
    (v.q + flight * v.p).store(z[2] + i);
    (v.p * scale).store(z[3] + i);
    (flight * m.gamma2 - lanes(c.clock_behind)).store(z[4] + i);
    ((lanes(c.gamma_behind) - m.gamma2) * scale).store(z[5] + i);
  }
}

void leave_back(const numbers& c, const real* const* columns, const real* const* lambda,
                real* const* o, real* const* columns_bar, std::size_t count) {
  for (std::size_t i = 0; i < count; i += width) {
    const passage m(c, columns, o, i);
    const lanes a1 = at(o, 2, i), a2 = at(o, 4, i), slow = at(columns, stage_slow, i);
    const lanes x[2] = {at(columns, stage_x, i), at(columns, stage_y, i)};
    const lanes px[2] = {at(columns, stage_px, i), at(columns, stage_py, i)};
    const plane planes[2] = {{m, x[0], px[0], a1, a2}, {m, x[1], px[1], a1, a2}};
    const lanes along = at(columns, stage_z, i) + at(o, 6, i);
    const lanes pz = sqrt(m.gamma2 * m.gamma2 - lanes(1) - planes[0].p * planes[0].p -
                          planes[1].p * planes[1].p);
    const lanes flight = -along / pz, scale(c.inverse_momentum_behind);
    const lanes lt = at(lambda, 4, i);

    const lanes flight_bar =
        at(lambda, 0, i) * planes[0].p + at(lambda, 2, i) * planes[1].p + lt * m.gamma2;
    const lanes along_bar = -flight_bar / pz, pz_bar = along_bar * flight;
    lanes gamma2_bar = lt * flight - at(lambda, 5, i) * scale + pz_bar * m.gamma2 / pz;

    lanes e1_bar(0), e2_bar(0), a1_bar(0), a2_bar(0), phase_bar(0), x_bar[2], px_bar[2];
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const plane& w = planes[k];
      const lanes q_bar = at(lambda, 2 * k, i);
      const lanes p_bar = at(lambda, 2 * k + 1, i) * scale + q_bar * flight - pz_bar * w.p / pz;
      const lanes v_bar = p_bar / m.e2;
      const lanes u_bar = q_bar * m.e2 - v_bar * a2;
      a2_bar = a2_bar - v_bar * w.u;
      e2_bar = e2_bar + q_bar * w.u - v_bar * w.p;
      phase_bar = phase_bar + u_bar * w.v - v_bar * w.u;
      const lanes v1_bar = u_bar * m.sine + v_bar * m.cosine;
      const lanes u1_bar = u_bar * m.cosine - v_bar * m.sine + v1_bar * a1;
      a1_bar = a1_bar + v1_bar * w.u1;
      px_bar[k] = v1_bar / m.e1;
      x_bar[k] = u1_bar * m.e1;
      e1_bar = e1_bar + u1_bar * x[k] - px_bar[k] * px[k] / m.e1;
    }
    // e1 ~ gamma^(1/4), e2 ~ gamma2^(-1/4), phase = advance/(sqrt gamma + sqrt gamma2) + h
    const lanes ln_e1_bar = e1_bar * m.e1, ln_e2_bar = e2_bar * m.e2;
    const lanes share = slow * m.slow2 / (slow + m.slow2);
    const lanes by_root = lanes(c.advance) * share * share * phase_bar;  // -d/d(sqrt gamma)
    gamma2_bar = gamma2_bar - ln_e2_bar * lanes(real(0.25)) * m.slow2 * m.slow2 -
                 by_root * lanes(real(0.5)) * m.slow2;
    const lanes gamma_bar = gamma2_bar + ln_e1_bar * lanes(real(0.25)) * slow * slow -
                            by_root * lanes(real(0.5)) * slow;

    phase_bar.store(o[0] + i);
    ln_e1_bar.store(o[1] + i);
    a1_bar.store(o[2] + i);
    ln_e2_bar.store(o[3] + i);
    a2_bar.store(o[4] + i);
    gamma2_bar.store(o[5] + i);
    along_bar.store(o[6] + i);
    x_bar[0].store(columns_bar[stage_x] + i);
    x_bar[1].store(columns_bar[stage_y] + i);
    along_bar.store(columns_bar[stage_z] + i);
    px_bar[0].store(columns_bar[stage_px] + i);
    px_bar[1].store(columns_bar[stage_py] + i);
    gamma_bar.store(columns_bar[stage_gamma] + i);
  }
}

void enter_back(const numbers& c, const real* const* z, const real* const* columns,
                const real* const* columns_bar, const real* const* features_bar,
                real* const* lambda, std::size_t count) {
  for (std::size_t i = 0; i < count; i += width) {
    const lanes px0 = at(z, 1, i), py0 = at(z, 3, i), t0 = at(z, 4, i), pt0 = at(z, 5, i);
    const lanes energy = lanes(c.inverse_beta) - pt0;
    const lanes pz =
        sqrt(lanes(1) + pt0 * (pt0 - lanes(2) * lanes(c.inverse_beta)) - px0 * px0 - py0 * py0);
    const lanes flight = t0 / energy;
    const lanes x = at(columns, stage_x, i), y = at(columns, stage_y, i);
    const lanes px = at(columns, stage_px, i), py = at(columns, stage_py, i);
    const lanes slow = at(columns, stage_slow, i);
    const lanes inverse_b = lanes(c.root_focusing) / slow, b = slow / lanes(c.root_focusing);
    const lanes two(2), half(real(0.5));
    const lanes square_r = (x * x + y * y) * inverse_b, square_p = (px * px + py * py) * b;
    const lanes square_w =
        lanes(1) / (lanes(1) + (square_r + square_p) * lanes(c.inverse_amplitude));
    const lanes w = sqrt(square_w);
    const lanes g2 = w * at(features_bar, 2, i), g3 = w * at(features_bar, 3, i),
                f4 = w * at(features_bar, 4, i);
    // w depends on the sum of the squares
    const lanes by_sum = -half * square_w * lanes(c.inverse_amplitude) *
                         (g2 * square_r + g3 * square_p + f4 * (x * px + y * py));
    const lanes f1 = at(features_bar, 1, i), f2 = g2 + by_sum, f3 = g3 + by_sum;

    const lanes x_bar = at(columns_bar, stage_x, i) + two * f2 * inverse_b * x + f4 * px;
    const lanes y_bar = at(columns_bar, stage_y, i) + two * f2 * inverse_b * y + f4 * py;
    const lanes px_bar = at(columns_bar, stage_px, i) + two * f3 * b * px + f4 * x;
    const lanes py_bar = at(columns_bar, stage_py, i) + two * f3 * b * py + f4 * y;
    const lanes along_bar = at(columns_bar, stage_z, i) + at(features_bar, 0, i);
    // 1/sqrt(gamma), 1/b ~ sqrt(gamma), b ~ 1/sqrt(gamma)
    const lanes gamma_bar = at(columns_bar, stage_gamma, i) +
                            half * slow * slow * (f2 * square_r - f3 * square_p - f1 * slow);

    const lanes flight_bar = -(x_bar * px0 + y_bar * py0 + along_bar * pz);
    const lanes pz_bar = -(along_bar * flight) / pz;
    const lanes energy_bar =
        gamma_bar * lanes(c.momentum) + pz_bar * energy - flight_bar * flight / energy;
    x_bar.store(lambda[0] + i);
    (px_bar * lanes(c.momentum) - x_bar * flight - pz_bar * px0).store(lambda[1] + i);
    y_bar.store(lambda[2] + i);
    (py_bar * lanes(c.momentum) - y_bar * flight - pz_bar * py0).store(lambda[3] + i);
    (flight_bar / energy).store(lambda[4] + i);
    (-energy_bar).store(lambda[5] + i);
  }
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_EXPAND(a, b, c) BETATRON_JOIN(a, b, c)
#define BETATRON_TABLE BETATRON_EXPAND(stage_kernels_, BETATRON_ISA, BETATRON_REAL)

extern const stage_kernels<real> BETATRON_TABLE;
constinit const stage_kernels<real> BETATRON_TABLE = {enter, leave, leave_back, enter_back,
                                                      static_cast<std::size_t>(width)};

}  // namespace betatron::surrogate
