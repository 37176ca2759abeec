// tracking.cpp: lines, tracking and linear maps.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "beam/summary.h"
#include "betatron/version.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/programmable.h"
#include "lattice/line.h"
#include "lattice/program.h"
#include "lattice/taylor.h"
#include "tracking/cpu/executor.h"
#include "tracking/envelope.h"
#include "tracking/track.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

using lattice::element;
using lattice::line;

array<double> matrix_array(const elements::matrix6& m) { return array_of(m, {6, 6}); }

/// Columns turn, element, slice, and those of beam::summarise (of beams with spins also those of
/// beam::summarise_spin), one entry per record.
nb::dict moment_table(std::span<const tracking::moment_record> records) {
  const std::size_t n = records.size();
  nb::dict table;
  auto column = [&](const char* name) {
    const array<double> values = array_of(std::vector<double>(n));
    table[name] = values;
    return values.data();
  };
  double* turn = column("turn");
  double* element = column("element");
  double* slice = column("slice");
  std::array<double*, beam::summary_names.size()> summary;
  for (std::size_t c = 0; c < summary.size(); ++c)
    summary[c] = column(beam::summary_names[c].data());
  for (std::size_t i = 0; i < n; ++i) {
    const tracking::moment_record& r = records[i];
    turn[i] = static_cast<double>(r.turn);
    element[i] = r.element;
    slice[i] = r.slice;
    const auto row = beam::summarise(r.moments, r.ref);
    for (std::size_t c = 0; c < row.size(); ++c) summary[c][i] = row[c];
  }
  if (!std::ranges::any_of(records, [](const auto& r) { return r.moments.spin.has_value(); })) {
    return table;
  }
  std::array<double*, beam::spin_summary_names.size()> spin;
  for (std::size_t c = 0; c < spin.size(); ++c)
    spin[c] = column(beam::spin_summary_names[c].data());
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = beam::summarise_spin(records[i].moments);
    for (std::size_t c = 0; c < row.size(); ++c) spin[c][i] = row[c];
  }
  return table;
}

/// Covariance matrices of the records, shape (n, 6, 6).
array<double> covariances(const std::vector<tracking::moment_record>& records) {
  std::vector<double> all;
  all.reserve(36 * records.size());
  for (const auto& record : records) {
    all.insert(all.end(), record.moments.cov.begin(), record.moments.cov.end());
  }
  return array_of(std::move(all), {records.size(), 6, 6});
}

/// tracking::track_envelope; the records as a track_result and the envelope at the end.
nb::tuple track_envelope(const line& l, const beam::reference& ref,
                         const std::array<double, 6>& mean, const std::vector<double>& covariance,
                         std::int64_t turns, std::int64_t first_turn,
                         const std::vector<std::uint8_t>& recorded, bool record_slices,
                         bool record_start, const std::vector<tracking::effect>& collective,
                         double charge) {
  tracking::envelope e{ref, mean, {}};
  if (covariance.size() != e.covariance.size()) throw nb::value_error("covariance must be 6 x 6");
  std::copy(covariance.begin(), covariance.end(), e.covariance.begin());
  tracking::track_result result;
  result.records = tracking::track_envelope(
      l, e, {turns, first_turn, recorded, record_slices, record_start, collective, charge});
  return nb::make_tuple(std::move(result), e.ref, e.mean, matrix_array(e.covariance));
}

/// One observation_chunk as NumPy arrays for write(turns, moments, elements, coordinates): the table of moments, and
/// coordinates of shape (places, 6, turns, particles) at these elements.
void pass_on(const tracking::observation_chunk& chunk, std::size_t particles, nb::object write) {
  std::vector<std::int64_t> elements;
  for (const auto& place : chunk.places) elements.push_back(place.element);
  write(array_of<std::int64_t>({chunk.turns.begin(), chunk.turns.end()}, {chunk.turns.size()}),
        moment_table(chunk.moments), elements,
        array_of({chunk.coordinates.begin(), chunk.coordinates.end()},
                 {chunk.places.size(), 6, chunk.turns.size(), particles}));
}

/// A monitor from its Python form: None, or a dictionary of the members of tracking::monitor.
tracking::monitor monitor_of(nb::object given) {
  tracking::monitor m;
  if (given.is_none()) return m;
  nb::dict d = nb::cast<nb::dict>(given);
  m.moments_at = nb::cast<std::vector<std::uint8_t>>(d["moments_at"]);
  m.observed_at = nb::cast<std::vector<std::uint8_t>>(d["observed_at"]);
  m.particles = nb::cast<std::vector<std::uint64_t>>(d["particles"]);
  m.every = nb::cast<std::int64_t>(d["every"]);
  m.chunk_bytes = nb::cast<std::size_t>(d["chunk_bytes"]);
  m.write = [write = nb::object(d["write"]),
             n = m.particles.size()](const tracking::observation_chunk& chunk) {
    nb::gil_scoped_acquire locked;
    pass_on(chunk, n, write);
  };
  return m;
}

/// tracking::track with Python's signals and progress; `progress` is None or callable(part).
tracking::track_result track(const line& l, beam::bunch& b, std::int64_t turns,
                             std::int64_t first_turn, bool backward,
                             const std::vector<std::uint8_t>& recorded, bool record_slices,
                             bool record_start, unsigned threads, nb::object progress,
                             const std::string& boundary, double bucket_length, nb::object monitor,
                             bool spin, nb::object radiation,
                             const std::vector<tracking::effect>& collective, nb::object hooks) {
  tracking::track_options options;
  options.turns = turns;
  options.first_turn = first_turn;
  options.way = backward ? lattice::direction::backward : lattice::direction::forward;
  options.recorded = recorded;
  options.record_slices = record_slices;
  options.record_start = record_start;
  options.threads = threads;
  options.boundary = boundary_named(boundary);
  options.bucket_length = bucket_length;
  options.monitor = monitor_of(monitor);
  options.spin = spin;
  options.collective = collective;
  options.hooks = hooks_of(l, hooks);
  options.radiation = radiation_of(radiation);
  std::exception_ptr
      raised;  // by Ctrl-C or by the user's function: passed on when all particles stand still
  options.on_progress = [&](double part) {
    nb::gil_scoped_acquire locked;
    try {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (!progress.is_none()) progress(part);
      return true;
    } catch (...) {
      raised = std::current_exception();
      return false;
    }
  };
  tracking::track_result result;
  {
    nb::gil_scoped_release unlocked;
    result = tracking::track(l, b, options);
  }
  if (raised) std::rethrow_exception(raised);
  return result;
}

}  // namespace

elements::longitudinal_boundary boundary_named(const std::string& name) {
  using enum elements::longitudinal_boundary;
  if (name == "open") return open;
  if (name == "periodic") return periodic;
  if (name == "absorbing") return absorbing;
  if (name == "reflecting") return reflecting;
  throw nb::value_error(
      ("boundary = '" + name + "' must be 'open', 'periodic', 'absorbing' or 'reflecting'")
          .c_str());
}

std::optional<elements::radiation_model> radiation_of(nb::handle given) {
  if (given.is_none()) return {};
  return elements::radiation_model{
      nb::cast<std::string>(given.attr("model")) == "quantum", nb::cast<int>(given.attr("order")),
      nb::cast<bool>(given.attr("reference")), nb::cast<std::uint64_t>(given.attr("seed"))};
}

void bind_tracking(nb::module_& m) {
  nb::class_<line>(m, "Line", "An ordered list of references to elements.")
      .def(
          "__init__",
          [](line* self, std::vector<std::shared_ptr<element>> elements, std::string name) {
            new (self) line{std::move(elements), std::move(name)};
          },
          nb::arg("elements"), nb::arg("name") = "")
      .def_rw("name", &line::name)
      .def("__len__", [](const line& l) { return l.elements.size(); })
      .def(
          "element",
          [](const line& l, std::size_t i) {
            if (i >= l.elements.size()) throw nb::index_error("no such element");
            return l.elements[i];
          },
          nb::arg("index"), "The element at a position, counted from 0.")
      .def(
          "length", [](const line& l) { return lattice::length(l); },
          "Path length of the reference orbit [m].")
      .def("survey", &lattice::survey, nb::arg("start"),
           "The reference particle at the start and behind each element.")
      .def(
          "derivative",
          [](const line& l, beam::reference ref, const std::array<double, 6>& start) {
            const auto r = lattice::derivative(l, 0, l.elements.size(), ref, start);
            return nb::make_tuple(matrix_array(r.matrix), r.orbit, ref);
          },
          nb::arg("reference"), nb::arg("start") = std::array<double, 6>{},
          "(matrix, coordinates at the end, reference at the end) of the particle `start`.")
      .def(
          "piece_derivative",
          [](const line& l, std::size_t place, int index, int count, beam::reference ref,
             const std::array<double, 6>& start) {
            const auto r = lattice::derivative(*l.elements.at(place), index, count, ref, start);
            return nb::make_tuple(matrix_array(r.matrix), r.orbit, ref);
          },
          nb::arg("place"), nb::arg("index"), nb::arg("count"), nb::arg("reference"),
          nb::arg("start") = std::array<double, 6>{},
          "The same through piece `index` of `count` of the element at a place, `count` a multiple of its slices.")
      .def(
          "expand",
          [](const line& l, beam::reference ref, int order, const std::array<double, 6>& start) {
            lattice::taylor_series r = lattice::expand(l, 0, l.elements.size(), ref, order, start);
            const std::size_t terms = r.coefficients.size() / 6;
            return nb::make_tuple(array_of(std::move(r.coefficients), {6, terms}), ref);
          },
          nb::arg("reference"), nb::arg("order"), nb::arg("start") = std::array<double, 6>{},
          "(coefficients of the power series behind the line in those at the start less `start`, reference at the "
          "end); six rows by degree, within a degree by ascending indices.")
      .def(
          "spin_derivative",
          [](const line& l, beam::reference ref, const std::array<double, 6>& start) {
            const auto r = lattice::spin_derivative(l, ref, start);
            return nb::make_tuple(r.rotation, r.slopes, matrix_array(r.matrix), r.orbit, ref);
          },
          nb::arg("reference"), nb::arg("start") = std::array<double, 6>{},
          "(rotation of the spin, 9 numbers; slopes, 18 numbers; matrix, coordinates and reference at the end) of the "
          "particle `start`.");

  nb::class_<tracking::track_result>(m, "TrackResult")
      .def_ro("lost", &tracking::track_result::lost, "Particles lost in this call.")
      .def(
          "table", [](const tracking::track_result& r) { return moment_table(r.records); },
          "The recorded moments: a dictionary of columns, one entry per record; element is -1 for the start.")
      .def(
          "covariances", [](const tracking::track_result& r) { return covariances(r.records); },
          "Covariance matrices of the records, shape (n, 6, 6).");

  m.def(
      "track", &track, nb::arg("line"), nb::arg("bunch"), nb::arg("turns") = 1,
      nb::arg("first_turn") = 0, nb::arg("backward") = false,
      nb::arg("recorded") = std::vector<std::uint8_t>{}, nb::arg("record_slices") = false,
      nb::arg("record_start") = false, nb::arg("threads") = 0, nb::arg("progress") = nb::none(),
      nb::arg("boundary") = "open", nb::arg("bucket_length") = 0.0, nb::arg("monitor") = nb::none(),
      nb::arg("spin") = false, nb::arg("radiation") = nb::none(),
      nb::arg("collective") = std::vector<tracking::effect>{}, nb::arg("hooks") = nb::none(),
      "Track a bunch through a line, in place. An exception out of `progress` (or Ctrl-C) stops with all "
      "particles at the same place.");

  m.def(
      "track_envelope", &track_envelope, nb::arg("line"), nb::arg("reference"), nb::arg("mean"),
      nb::arg("covariance"), nb::arg("turns") = 1, nb::arg("first_turn") = 0,
      nb::arg("recorded") = std::vector<std::uint8_t>{}, nb::arg("record_slices") = false,
      nb::arg("record_start") = false, nb::arg("collective") = std::vector<tracking::effect>{},
      nb::arg("charge") = 0.0,
      "(records, reference, mean, covariance) behind the line of a beam given by its first and second moments.");

  m.def("instruction_set", &tracking::instruction_set,
        "Vector instructions in use: v2, v3, v4, base.");
  m.def("available_threads", &tracking::available_threads, "Processors this process may use.");
  m.attr("version") = betatron::version;
  m.attr("compiler") =
#if defined(__clang__)
      "clang " __clang_version__;
#else
      "gcc " __VERSION__;
#endif
}

}  // namespace betatron::bindings
