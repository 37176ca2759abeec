// network_map.cpp: coordinates to a network and back, and derivatives the other way.
#include "surrogate/network_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "beam/text.h"

namespace betatron::surrogate {

namespace {

constexpr std::size_t most_lanes = 384;  // of a part of a tile

using six_columns = std::array<std::array<double, most_lanes>, 6>;
using six_pointers = std::array<double*, 6>;

six_pointers pointers(six_columns& c) {
  six_pointers p;
  for (std::size_t k = 0; k < 6; ++k) p[k] = c[k].data();
  return p;
}

/// Where the reference particle is.
struct frame {
  double inverse_beta, momentum /* p0/(m c) */, xi;
};

using six = std::array<double, 6>;

/// x, px, y, py, t, pt to x, y, xi, px, py, pz. NaN for a particle that does not move forward.
six to_fixed_time(const six& z, const frame& f) {
  const auto [x, px, y, py, t, pt] = z;
  const double pz = std::sqrt(1 + pt * (pt - 2 * f.inverse_beta) - px * px - py * py);
  const double path = t / (f.inverse_beta - pt);
  return {x - path * px,   y - path * py,   f.xi - path * pz,
          px * f.momentum, py * f.momentum, pz * f.momentum};
}

/// Derivatives by the result to those by z.
six to_fixed_time_back(const six& z, const six& bar, const frame& f) {
  const auto [x, px, y, py, t, pt] = z;
  const double pz = std::sqrt(1 + pt * (pt - 2 * f.inverse_beta) - px * px - py * py);
  const double energy = f.inverse_beta - pt, path = t / energy;
  const double path_bar = -(bar[0] * px + bar[1] * py + bar[2] * pz);
  const double pz_bar = f.momentum * bar[5] - path * bar[2];
  return {bar[0],
          f.momentum * bar[3] - path * bar[0] - pz_bar * px / pz,
          bar[1],
          f.momentum * bar[4] - path * bar[1] - pz_bar * py / pz,
          path_bar / energy,
          path_bar * path / energy - pz_bar * energy / pz};
}

/// x, y, xi, px, py, pz to x, px, y, py, t, pt. NaN for a particle that does not move forward.
six to_fixed_place(const six& u, const frame& f) {
  const double px = u[3] / f.momentum, py = u[4] / f.momentum, pz = u[5] / f.momentum;
  if (!(pz > 0)) {
    six nowhere;
    nowhere.fill(std::numeric_limits<double>::quiet_NaN());
    return nowhere;
  }
  // E^2 - E0^2 as a product keeps the digits of pt
  const double excess = (pz - 1) * (pz + 1) + px * px + py * py;
  const double energy = std::sqrt(f.inverse_beta * f.inverse_beta + excess);
  const double path = (f.xi - u[2]) / pz;
  return {u[0] + path * px, px,
          u[1] + path * py, py,
          path * energy,    -excess / (energy + f.inverse_beta)};
}

six to_fixed_place_back(const six& u, const six& bar, const frame& f) {
  const double px = u[3] / f.momentum, py = u[4] / f.momentum, pz = u[5] / f.momentum;
  const double excess = (pz - 1) * (pz + 1) + px * px + py * py;
  const double energy = std::sqrt(f.inverse_beta * f.inverse_beta + excess);
  const double path = (f.xi - u[2]) / pz;
  const double path_bar = bar[0] * px + bar[2] * py + bar[4] * energy;
  const double turn = (bar[4] * path - bar[5]) / energy;  // by energy, over energy
  return {bar[0],
          bar[2],
          -path_bar / pz,
          (bar[1] + bar[0] * path + turn * px) / f.momentum,
          (bar[3] + bar[2] * path + turn * py) / f.momentum,
          (turn * pz - path_bar * path / pz) / f.momentum};
}

class fixed_time_map {
 public:
  fixed_time_map(std::shared_ptr<const evaluator> net, double xi_entrance, double xi_exit)
      : net_(std::move(net)), xi_{xi_entrance, xi_exit} {}

  template <class F>
  void push(const elements::code_place& at, const elements::code_tile<F>& tile) const {
    const frame in = frame_of(at.entrance, xi_[0]), out = frame_of(at.exit, xi_[1]);
    six_columns columns;
    const six_pointers u = pointers(columns);
    for (std::size_t first = 0; first < tile.count; first += most_lanes) {
      const std::size_t some = std::min(most_lanes, tile.count - first);
      for_each(some, [&](std::size_t i) { set(u, i, to_fixed_time(get(tile.z, first + i), in)); });
      net_->run(u.data(), u.data(), some);
      for_each(some,
               [&](std::size_t i) { set(tile.z, first + i, to_fixed_place(get(u, i), out)); });
    }
  }

  template <class F>
  void pull(const elements::code_place& at, const elements::code_tile<F>& tile,
            F* const lambda[6]) const {
    const frame in = frame_of(at.entrance, xi_[0]), out = frame_of(at.exit, xi_[1]);
    six_columns columns;
    const six_pointers u = pointers(columns);
    for (std::size_t first = 0; first < tile.count; first += most_lanes) {
      const std::size_t some = std::min(most_lanes, tile.count - first);
      for_each(some, [&](std::size_t i) { set(u, i, to_fixed_time(get(tile.z, first + i), in)); });
      const evaluator::turn<double> turn = [&](std::size_t begin, std::size_t count,
                                               double* const* o) {
        for_each(count, [&](std::size_t i) {
          set(o, i, to_fixed_place_back(get(o, i), get(lambda, first + begin + i), out));
        });
      };
      net_->pull(u.data(), turn, u.data(), some);
      for_each(some, [&](std::size_t i) {
        set(lambda, first + i, to_fixed_time_back(get(tile.z, first + i), get(u, i), in));
      });
    }
  }

 private:
  static frame frame_of(const beam::reference& ref, double xi) {
    return {ref.inverse_beta(), ref.beta_gamma(), xi};
  }
  template <class Body>
  static void for_each(std::size_t count, Body&& body) {
    for (std::size_t i = 0; i < count; ++i) body(i);
  }
  template <class Columns>
  static six get(const Columns& c, std::size_t i) {
    six z;
    for (std::size_t k = 0; k < 6; ++k) z[k] = static_cast<double>(c[k][i]);
    return z;
  }
  template <class Columns>
  static void set(const Columns& c, std::size_t i, const six& z) {
    for (std::size_t k = 0; k < 6; ++k) {
      c[k][i] = static_cast<std::remove_cvref_t<decltype(c[k][i])>>(z[k]);
    }
  }

  std::shared_ptr<const evaluator> net_;
  double xi_[2];
};

[[noreturn]] void reject(const network_map& m, const std::string& what) {
  throw std::invalid_argument("Surrogate '" + m.name + "': " + what);
}

}  // namespace

coordinate_form coordinate_form_named(std::string_view name) {
  if (name == "canonical") return coordinate_form::canonical;
  if (name == "fixed_time") return coordinate_form::fixed_time;
  throw std::invalid_argument("coordinates = '" + std::string(name) +
                              "' must be 'canonical' or 'fixed_time'");
}

std::shared_ptr<const elements::tile_code> code_of(const network_map& m) {
  if (m.net.inputs() != 6 || m.net.outputs() != 6) {
    reject(m, "its network has " + std::to_string(m.net.inputs()) + " inputs and " +
                  std::to_string(m.net.outputs()) + " outputs, expected 6 and 6");
  }
  if (!(std::isfinite(m.length) && m.length >= 0)) {
    reject(m, "length = " + beam::number_text(m.length) + " m must be >= 0");
  }
  for (const auto& [what, v] : {std::pair{"energy_gain", m.energy_gain},
                                {"xi_entrance", m.xi_entrance},
                                {"xi_exit", m.xi_exit}}) {
    if (!std::isfinite(v)) reject(m, what + (" = " + beam::number_text(v)) + " must be finite");
  }
  const auto net = std::make_shared<const evaluator>(m.net, m.format);
  auto code = std::make_shared<elements::tile_code>();
  code->name = "Surrogate '" + m.name + "'";
  code->cost = std::max(1.0, m.net.operations() / 100);  // [ns], at 100 operations per nanosecond
  if (m.coordinates == coordinate_form::fixed_time) {
    const auto map = std::make_shared<const fixed_time_map>(net, m.xi_entrance, m.xi_exit);
    const auto push = [map](const auto& at, const auto& tile) { map->push(at, tile); };
    const auto pull = [map](const auto& at, const auto& tile, auto lambda) {
      map->pull(at, tile, lambda);
    };
    code->push_double = push;
    code->push_single = push;
    code->pull_double = pull;
    code->pull_single = pull;
  } else {
    const auto push = [net](const auto&, const auto& tile) {
      net->run(tile.z, tile.z, tile.count);
    };
    const auto pull = [net](const auto&, const auto& tile, auto lambda) {
      net->pull(tile.z, lambda, lambda, tile.count);
    };
    code->push_double = push;
    code->push_single = push;
    code->pull_double = pull;
    code->pull_single = pull;
  }
  return code;
}

void advance(const network_map& m, beam::reference& ref, const elements::reference_place& piece) {
  const double share = piece.to - piece.from, length = m.length * share;
  const double gain = m.energy_gain / ref.particle.mass_eV * share;
  const double gamma = ref.gamma(), momentum = ref.beta_gamma();
  if (std::abs(piece.length - m.length) > 1e-12 * m.length) {
    throw std::domain_error("length = " + beam::number_text(piece.length) +
                            " m; allowed: what it was made with, " + beam::number_text(m.length) +
                            " m");
  }
  if (!(ref.kinetic + gain > 0)) {
    throw std::domain_error("energy_gain = " + beam::number_text(m.energy_gain) +
                            " eV leaves the reference particle no kinetic energy (it has " +
                            beam::number_text(ref.kinetic * ref.particle.mass_eV) + " eV)");
  }
  ref.kinetic += gain;
  ref.s += length;
  // the mean of 1/beta over an energy that grows linearly is the difference of momenta over that of energies
  ref.t += length * (gamma + ref.gamma()) / (momentum + ref.beta_gamma());
  for (std::size_t i = 0; i < 3; ++i) ref.position[i] += length * ref.frame[6 + i];
}

}  // namespace betatron::surrogate
