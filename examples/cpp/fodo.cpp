// fodo.cpp: a matched proton beam through 100 FODO cells, with the installed library.
#include <cmath>
#include <cstdio>
#include <memory>

#include "beam/bunch.h"
#include "betatron/version.h"
#include "tracking/track.h"

using namespace betatron;

namespace {

std::shared_ptr<lattice::element> make(const char* kind, const char* name, double length,
                                       double k1 = 0) {
  lattice::element e = lattice::make_element(kind);
  lattice::set(e, "name", std::string(name));
  lattice::set(e, "length", length);
  if (k1 != 0) lattice::set(e, "k1", k1);
  return std::make_shared<lattice::element>(e);
}

/// Courant-Snyder parameters of the periodic solution of a 2x2 block of the one-cell matrix.
beam::courant_snyder_parameters matched(const elements::matrix6& m, std::size_t plane,
                                        double emittance) {
  const double a = m[7 * plane], b = m[7 * plane + 1], d = m[7 * (plane + 1)];
  const double cosine = (a + d) / 2;
  const double sine = std::copysign(std::sqrt(1 - cosine * cosine), b);
  return {b / sine, (a - d) / (2 * sine), emittance};
}

}  // namespace

int main() {
  lattice::line cell;
  cell.elements = {make("Quadrupole", "qf", 0.2, 1.5), make("Drift", "d", 0.8),
                   make("Quadrupole", "qd", 0.2, -1.5), make("Drift", "d", 0.8)};

  const auto ref = beam::reference::from_kinetic_energy(beam::make_species("proton"), 250e6);
  beam::reference end = ref;
  const auto map = lattice::derivative(cell, 0, cell.elements.size(), end);

  const auto spread = beam::distribution::from_twiss(
      beam::shape::waterbag,
      {matched(map.matrix, 0, 1e-6), matched(map.matrix, 2, 1e-6), {1, 0, 1e-9}});
  auto bunch = beam::bunch::sample(ref, spread, 100000, 1);

  tracking::track_options options;
  options.turns = 100;
  options.record_start = true;
  options.recorded = {0, 0, 0, 1};
  const auto result = tracking::track(cell, bunch, options);

  const auto& first = result.records.front().moments;
  const auto& last = result.records.back().moments;
  std::printf("betatron %s, %zu protons, s = %.1f m, %zu lost\n", betatron::version, bunch.size(),
              bunch.ref.s, result.lost);
  std::printf("sigma_x  %.4g -> %.4g mm\n", 1e3 * first.sigma(0), 1e3 * last.sigma(0));
  std::printf("sigma_y  %.4g -> %.4g mm\n", 1e3 * first.sigma(2), 1e3 * last.sigma(2));
  const bool stays = std::fabs(last.sigma(0) / first.sigma(0) - 1) < 0.02 &&
                     std::fabs(last.sigma(2) / first.sigma(2) - 1) < 0.02;
  std::puts(stays ? "matched" : "not matched");
  return stays ? 0 : 1;
}
