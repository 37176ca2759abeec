// collective.cpp: what a beam does to itself, apart from space charge.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <limits>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "collective/beam_beam.h"
#include "collective/csr.h"
#include "collective/ibs.h"
#include "collective/wake.h"
#include "tracking/cpu/executor.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

using collective::line_density;
using collective::line_options;
using collective::wake_term;

line_options density_options(std::size_t bins, const std::string& shape, int smoothing) {
  line_options o;
  o.bins = bins;
  o.smoothing = smoothing;
  if (shape == "quadratic") {
    o.shape = collective::shape::quadratic;
  } else if (shape != "linear") {
    throw nb::value_error(("shape = '" + shape + "' must be 'linear' or 'quadratic'").c_str());
  }
  return o;
}

std::vector<double> nodes_of(const collective::line_grid& g) {
  std::vector<double> t(g.nodes);
  for (std::size_t i = 0; i < g.nodes; ++i) t[i] = g.node(i);
  return t;
}

/// (t, current-like density dQ/dt, x density, y density) of a beam.
nb::tuple density_of(const beam::bunch& b, const line_options& o, bool dipoles) {
  collective::check(o, "line density");
  line_density d;
  {
    nb::gil_scoped_release unlocked;
    d = collective::deposit(b, collective::grid_over(b, o, "line density", 1), o, dipoles, 1);
  }
  const auto per_metre = [&](std::vector<double> q) {
    for (double& v : q) v /= d.grid.step;
    return array_of(std::move(q));
  };
  nb::object x = nb::none(), y = nb::none();
  if (dipoles) {
    x = nb::cast(per_metre(d.x_charge));
    y = nb::cast(per_metre(d.y_charge));
  }
  return nb::make_tuple(array_of(nodes_of(d.grid)), per_metre(d.charge), x, y);
}

/// Energy gain per metre [eV/m] that csr_cells and csr_field give a beam.
nb::tuple csr_profile(const beam::bunch& b, const line_options& o,
                      const std::vector<std::pair<double, double>>& behind, double gap) {
  collective::check(o, "CSR");
  std::vector<collective::orbit_arc> arcs;
  for (const auto& [length, curvature] : behind) arcs.push_back({length, curvature});
  const auto grid = collective::grid_over(b, o, "CSR", 1);
  const auto d = collective::deposit(b, grid, o, false, 1);
  return nb::make_tuple(
      array_of(nodes_of(grid)),
      array_of(collective::csr_field(
          d, b.ref,
          collective::csr_cells(arcs, b.ref, grid.step * b.ref.beta(), grid.nodes, gap))));
}

/// Potential V = sum_j Q_j W(t - t_j) of a beam [V, or V m for a dipole wake], per metre where the wake is.
nb::tuple wake_profile(const beam::bunch& b, const line_options& o, const wake_term& term) {
  collective::check(o, "Wake");
  const bool x = term.kind == collective::wake_kind::dipole_x;
  const bool y = term.kind == collective::wake_kind::dipole_y;
  const auto grid = collective::grid_over(b, o, "Wake", 1);
  const auto d = collective::deposit(b, grid, o, x || y, 1);
  const auto half = collective::wake_kernel(term, grid.step, grid.nodes);
  std::vector<double> kernel(2 * grid.nodes - 1);
  std::copy(half.begin(), half.end(), kernel.begin() + static_cast<std::ptrdiff_t>(grid.nodes - 1));
  return nb::make_tuple(array_of(nodes_of(grid)), array_of(collective::convolve(x   ? d.x_charge
                                                                                : y ? d.y_charge
                                                                                    : d.charge,
                                                                                kernel)));
}

}  // namespace

void bind_collective(nb::module_& m) {
  nb::class_<tracking::effect>(m, "Effect", "Kicks of a collective effect on one line.")
      .def_ro("name", &tracking::effect::name)
      .def("remark",
           [](const tracking::effect& e) { return e.remark ? e.remark() : std::string(); });

  nb::class_<line_options>(m, "LineOptions")
      .def(
          "__init__",
          [](line_options* self, std::size_t bins, const std::string& shape, int smoothing) {
            new (self) line_options(density_options(bins, shape, smoothing));
          },
          nb::arg("bins"), nb::arg("shape"), nb::arg("smoothing"));

  m.def("line_density", &density_of, nb::arg("bunch"), nb::arg("options"), nb::arg("dipoles"));

  m.def(
      "csr",
      [](const lattice::line& l, const line_options& density, bool transient, bool drifts,
         double gap, int order, double spacing) {
        return collective::csr({density, transient, drifts, gap, order, spacing}, l);
      },
      nb::arg("line"), nb::arg("density"), nb::arg("transient"), nb::arg("drifts"), nb::arg("gap"),
      nb::arg("order"), nb::arg("spacing"));
  m.def("csr_profile", &csr_profile, nb::arg("bunch"), nb::arg("density"), nb::arg("behind"),
        nb::arg("gap"),
        "(t, energy gain per metre [eV/m]); behind: (length, curvature) backwards.");

  nb::class_<wake_term>(m, "WakeTerm", "A wake function.")
      .def_ro("per_metre", &wake_term::per_metre)
      .def_ro("reach", &wake_term::reach)
      .def_prop_ro("is_dipole",
                   [](const wake_term& w) {
                     return w.kind == collective::wake_kind::dipole_x ||
                            w.kind == collective::wake_kind::dipole_y;
                   })
      .def(
          "at",
          [](const wake_term& w, const std::vector<double>& t) {
            std::vector<double> values;
            for (const double s : t) values.push_back(s < 0 ? 0.0 : w.at(s));
            return array_of(std::move(values));
          },
          nb::arg("t"))
      .def(
          "loss_factor",
          [](const wake_term& w, const beam::bunch& b, const line_options& o) {
            collective::check(o, "Wake");
            const auto grid = collective::grid_over(b, o, "Wake", 1);
            return collective::loss_factor(w, collective::deposit(b, grid, o, false, 1));
          },
          nb::arg("bunch"), nb::arg("options"));
  m.def("wake_profile", &wake_profile, nb::arg("bunch"), nb::arg("density"), nb::arg("term"));
  m.def(
      "resonator",
      [](const std::string& kind, double shunt, double quality, double frequency) {
        return collective::resonator(collective::wake_kind_named(kind), shunt, quality, frequency);
      },
      nb::arg("kind"), nb::arg("shunt_impedance"), nb::arg("quality"), nb::arg("frequency"));
  m.def("resistive_wall", &collective::resistive_wall, nb::arg("radius"), nb::arg("conductivity"),
        nb::arg("flat"), nb::arg("relaxation_time"));
  m.def("periodic_structure", &collective::periodic_structure, nb::arg("iris_radius"),
        nb::arg("gap"), nb::arg("period"));
  m.def(
      "wake_table",
      [](const std::string& kind, std::vector<double> t, std::vector<double> values,
         bool per_metre) {
        return collective::wake_table(collective::wake_kind_named(kind), std::move(t),
                                      std::move(values), per_metre);
      },
      nb::arg("kind"), nb::arg("t"), nb::arg("values"), nb::arg("per_metre"));
  m.def(
      "wake",
      [](const std::vector<wake_term>& terms, const line_options& density, double length,
         int memory, int order, double spacing, std::vector<std::uint8_t> at) {
        collective::wake_options o;
        o.terms = terms;
        o.density = density;
        o.length = length;
        o.memory = memory;
        o.order = order;
        o.spacing = spacing;
        o.at = std::move(at);
        return collective::wake(o);
      },
      nb::arg("terms"), nb::arg("density"), nb::arg("length"), nb::arg("memory"), nb::arg("order"),
      nb::arg("spacing"), nb::arg("at"));

  m.def(
      "beam_beam",
      [](double charge, const std::array<double, 4>& x, const std::array<double, 4>& y,
         double sigma_t, int slices, double half_angle, double plane, double other_beta,
         std::vector<std::uint8_t> at) {
        collective::beam_beam_options o;
        o.charge = charge;
        o.x = {x[0], x[1], x[2], x[3]};
        o.y = {y[0], y[1], y[2], y[3]};
        o.sigma_t = sigma_t;
        o.slices = slices;
        o.half_angle = half_angle;
        o.plane = plane;
        o.other_beta = other_beta;
        o.at = std::move(at);
        return collective::beam_beam(o);
      },
      nb::arg("charge"), nb::arg("x"), nb::arg("y"), nb::arg("sigma_t"), nb::arg("slices"),
      nb::arg("half_angle"), nb::arg("plane"), nb::arg("other_beta"), nb::arg("at"),
      "x, y: sigma, beta, alpha, offset.");
  m.def(
      "collide",
      [](beam::bunch& a, beam::bunch& b, int slices, double half_angle, double plane,
         const std::array<std::size_t, 2>& cells, unsigned threads) {
        nb::gil_scoped_release unlocked;
        collective::collide(a, b, {slices, half_angle, plane, cells},
                            threads != 0 ? threads : tracking::available_threads());
      },
      nb::arg("first"), nb::arg("second"), nb::arg("slices"), nb::arg("half_angle"),
      nb::arg("plane"), nb::arg("cells"), nb::arg("threads"));

  m.def(
      "ibs",
      [](std::optional<double> logarithm, const line_options& density, std::uint64_t seed,
         int order,
         double spacing) { return collective::ibs({logarithm, density, seed, order, spacing}); },
      nb::arg("coulomb_log").none(), nb::arg("density"), nb::arg("seed"), nb::arg("order"),
      nb::arg("spacing"));
  m.def(
      "ibs_rates",
      [](const lattice::line& l, const beam::reference& start, const std::array<double, 36>& normal,
         const std::array<double, 3>& emittances, double particles, std::optional<double> logarithm,
         double spacing) {
        const auto r =
            collective::ibs_rates(l, start, normal, emittances, particles, logarithm, spacing);
        return nb::make_tuple(r.rate, r.logarithm);
      },
      nb::arg("line"), nb::arg("start"), nb::arg("normal"), nb::arg("emittances"),
      nb::arg("particles"), nb::arg("coulomb_log").none(), nb::arg("spacing"));
}

}  // namespace betatron::bindings
