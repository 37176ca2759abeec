#include "tracking/envelope_gradient.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <variant>

#include "lattice/taylor.h"

namespace betatron::tracking {

namespace {

using beam::matrix6;
using beam::product;
using lattice::knob;
using lattice::piece_tangent;
using lattice::varied_piece;
using vector6 = std::array<double, 6>;

/// m^T a; m may have many zeros.
matrix6 transposed_product(const matrix6& m, const matrix6& a) {
  matrix6 r{};
  for (std::size_t k = 0; k < 6; ++k) {
    for (std::size_t i = 0; i < 6; ++i) {
      if (m[6 * k + i] == 0) continue;
      for (std::size_t j = 0; j < 6; ++j) r[6 * i + j] += m[6 * k + i] * a[6 * k + j];
    }
  }
  return r;
}

matrix6 transposed(const matrix6& m) {
  matrix6 r;
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) r[6 * i + j] = m[6 * j + i];
  }
  return r;
}

vector6 transposed_product(const matrix6& m, const vector6& v) {
  vector6 r{};
  for (std::size_t k = 0; k < 6; ++k) {
    for (std::size_t i = 0; i < 6; ++i) r[i] += m[6 * k + i] * v[k];
  }
  return r;
}

double inner(const matrix6& a, const matrix6& b) {
  double sum = 0;
  for (std::size_t i = 0; i < 36; ++i) sum += a[i] * b[i];
  return sum;
}

double inner(const vector6& a, const vector6& b) {
  double sum = 0;
  for (std::size_t i = 0; i < 6; ++i) sum += a[i] * b[i];
  return sum;
}

void add_symmetric(matrix6& to, const matrix6& a) {
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) to[6 * i + j] += (a[6 * i + j] + a[6 * j + i]) / 2;
  }
}

/// c_i(jk) of the map: m_i = ... + sum_{j <= k} c_i(jk) z_j z_k, in the order of numerics/taylor.h.
using quadratic_part = std::array<double, 6 * 21>;

/// sum_ij g_ij d^2 m_i/dz_j dz_k for each k.
vector6 contracted(const quadratic_part& c, const matrix6& g) {
  vector6 r{};
  for (std::size_t i = 0; i < 6; ++i) {
    std::size_t at = 21 * i;
    for (std::size_t j = 0; j < 6; ++j) {
      for (std::size_t k = j; k < 6; ++k, ++at) {
        r[k] += c[at] * g[6 * i + j];
        r[j] += c[at] * g[6 * i + k];
      }
    }
  }
  return r;
}

bool moves_centroid(const piece_tangent& t) {
  return std::ranges::any_of(t.orbit, [](double x) { return x != 0; });
}

/// Variables of a piece that are not knobs.
constexpr std::ptrdiff_t of_kinetic = -1, of_time = -2;

}  // namespace

struct envelope_gradient::state {
  struct varied_knob {
    std::size_t knob;
    const piece_tangent* tangent;
  };
  /// A piece of lattice, or a kick if `element` is null.
  struct step {
    const lattice::element* element;
    int index, count;
    std::size_t kick;      // in `kicks`
    double kinetic, time;  // of the reference, in front
    bool recorded;         // behind it
    vector6 mean;          // in front
    matrix6 covariance, matrix;
    std::vector<varied_knob> knobs{};
    const piece_tangent *by_kinetic = nullptr, *by_time = nullptr;
    const quadratic_part* quadratic = nullptr;
  };
  struct kick_at {
    std::size_t effect;
    kick_place place;
    std::vector<std::size_t> lengths{};  // knobs that turn the length of the element
  };

  envelope_gradient_options options;
  lattice::line line;  // holds the elements that steps look at
  bool clock;
  bool record_start = false;
  beam::reference start_reference;
  std::vector<step> steps{};
  std::vector<kick_at> kicks{};
  std::vector<moment_record> records{};

  // What has been differentiated: element, variable, pieces in the element; energy, time, and centroid in front.
  using point = std::tuple<const lattice::element*, std::ptrdiff_t, int, double, double, vector6>;
  struct known_tangent {
    int index;
    matrix6 matrix;
    std::vector<double> signature;
    std::unique_ptr<piece_tangent> tangent;
  };
  struct family {
    std::optional<lattice::piece_probe> probe{};
    std::vector<known_tangent> known{};
  };
  std::map<point, family> tangents{};
  std::map<point, std::unique_ptr<quadratic_part>> quadratics{};

  state(const lattice::line& l, const envelope& start, envelope_gradient_options o)
      : options(std::move(o)),
        line(l),
        clock(lattice::follows_clock(l)),
        start_reference(start.ref) {
    for (const effect& e : options.collective) {
      if (!e.envelope_pull) {
        throw std::invalid_argument(e.name + " has no derivatives for envelopes");
      }
    }
    std::map<const lattice::element*, std::vector<std::size_t>> knobs;
    for (std::size_t k = 0; k < options.knobs.size(); ++k) {
      const knob& one = options.knobs[k];
      lattice::check(one);
      if (std::ranges::none_of(line.elements, [&](const auto& e) { return e == one.of; })) {
        throw std::invalid_argument(lattice::describe(*one.of) + ": its " + one.parameter +
                                    " has no effect, the element is not in the line");
      }
      knobs[one.of.get()].push_back(k);
    }
    forward(start);
    differentiate(knobs);
  }

  void forward(const envelope& start) {
    check_flags("record", options.recorded, line);
    envelope_options o;
    o.recorded = options.recorded;
    o.recorded.resize(line.elements.size());
    if (!o.recorded.empty()) o.recorded.back() = 1;
    o.record_start = record_start = options.record_start || line.elements.empty();
    o.collective = options.collective;
    o.charge = options.charge;
    o.varied = lattice::varied_lengths(line, options.knobs);
    o.visit = [&](const envelope_step& now) {
      const beam::reference& ref = now.front.ref;
      const bool piece = now.kick == nullptr;
      if (!piece) kicks.push_back({now.effect, *now.kick, {}});
      steps.push_back({piece ? line.elements[now.piece->element].get() : nullptr,
                       piece ? now.piece->index : 0, piece ? now.piece->count : 1, kicks.size() - 1,
                       ref.kinetic, ref.t, now.recorded, now.front.mean, now.front.covariance,
                       now.matrix});
    };
    std::size_t expected = 0;  // saves moving them
    for (const auto& e : line.elements) {
      expected +=
          static_cast<std::size_t>(lattice::slice_count(*e)) * (1 + 2 * options.collective.size());
    }
    steps.reserve(std::min<std::size_t>(expected, 1 << 20));
    envelope e = start;
    records = track_envelope(line, e, o);
  }

  point point_of(const step& s, std::ptrdiff_t variable) const {
    return {s.element, variable, s.count, s.kinetic, clock ? s.time : 0.0, s.mean};
  }

  /// The reference in front of a step; where it stands in the laboratory does not matter.
  beam::reference front_of(const step& s) const {
    beam::reference r = start_reference;
    r.kinetic = s.kinetic;
    r.t = s.time;
    return r;
  }

  /// The derivative of a piece by a knob, or by energy or time of the reference.
  const piece_tangent* tangent(const step& s, std::ptrdiff_t variable) {
    varied_piece v{*s.element, s.index, s.count, front_of(s)};
    v.clock = clock;
    if (variable >= 0) {
      v.by = varied_piece::variable::knob;
      v.turned = &options.knobs[static_cast<std::size_t>(variable)];
    } else {
      v.by =
          variable == of_kinetic ? varied_piece::variable::kinetic : varied_piece::variable::time;
    }
    family& like = tangents[point_of(s, variable)];
    for (const known_tangent& t : like.known) {
      if (t.index == s.index) return t.tangent.get();
    }
    std::vector<double> own;
    if (s.count > 1) {
      if (!like.probe) like.probe.emplace(v);
      if (!like.probe->read(v, own)) own.clear();
    }
    for (const known_tangent& t : like.known) {
      if (!own.empty() && t.matrix == s.matrix && t.signature == own) return t.tangent.get();
    }
    like.known.push_back({s.index, s.matrix, std::move(own),
                          std::make_unique<piece_tangent>(lattice::differentiate(v, s.mean))});
    return like.known.back().tangent.get();
  }

  const quadratic_part* quadratic(const step& s) {
    auto& c = quadratics[point_of(s, s.index)];
    if (c) return c.get();
    c = std::make_unique<quadratic_part>();
    beam::reference ref = front_of(s);
    const auto series = lattice::expand(*s.element, s.index, s.count, ref, 2, s.mean);
    constexpr std::size_t terms = 28, linear = 7;
    for (std::size_t i = 0; i < 6; ++i) {
      std::copy_n(series.coefficients.data() + terms * i + linear, terms - linear,
                  c->data() + (terms - linear) * i);
    }
    return c.get();
  }

  void differentiate(const std::map<const lattice::element*, std::vector<std::size_t>>& knobs) {
    for (kick_at& k : kicks) {
      const auto active = knobs.find(line.elements[k.place.element].get());
      if (active == knobs.end()) continue;
      for (const std::size_t number : active->second) {
        if (options.knobs[number].parameter == "length") k.lengths.push_back(number);
      }
    }
    bool reference_moves = options.reference_energy, centroid_moves = options.initial_mean;
    for (step& s : steps) {
      if (s.element == nullptr) continue;
      if (centroid_moves) s.quadratic = quadratic(s);
      if (reference_moves) {
        s.by_kinetic = tangent(s, of_kinetic);
        const bool follows = std::visit([](const auto& b) { return requires { b.follows_clock; }; },
                                        s.element->body);
        if (follows) s.by_time = tangent(s, of_time);
        centroid_moves = centroid_moves || moves_centroid(*s.by_kinetic) ||
                         (follows && moves_centroid(*s.by_time));
      }
      const auto active = knobs.find(s.element);
      if (active == knobs.end()) continue;
      for (const std::size_t k : active->second) {
        const piece_tangent* t = tangent(s, static_cast<std::ptrdiff_t>(k));
        s.knobs.push_back({k, t});
        reference_moves = reference_moves || t->kinetic != 0 || (clock && t->time != 0);
        centroid_moves = centroid_moves || moves_centroid(*t);
      }
    }
  }

  envelope_pull_result pull(std::span<const moment_derivative> by_moments) const {
    if (by_moments.size() != records.size()) {
      throw std::invalid_argument("derivatives of " + std::to_string(by_moments.size()) +
                                  " records were given; there are " +
                                  std::to_string(records.size()));
    }
    envelope_pull_result r;
    r.knobs.assign(options.knobs.size(), 0.0);
    r.strengths.assign(options.collective.size(), 0.0);
    vector6 mean{};
    matrix6 covariance{};  // symmetric
    double kinetic = 0, time = 0;
    std::size_t record = records.size();
    const auto take_record = [&] {
      const moment_derivative& d = by_moments[--record];
      for (std::size_t i = 0; i < 6; ++i) mean[i] += d.mean[i];
      add_symmetric(covariance, d.covariance);
      kinetic += d.kinetic;
    };
    for (auto s = steps.rbegin(); s != steps.rend(); ++s) {
      if (s->recorded) take_record();
      // half = L' M, by_matrix = 2 half S
      const matrix6 half = transposed(transposed_product(s->matrix, covariance));
      covariance = transposed_product(s->matrix, half);
      for (std::size_t i = 0; i < 6; ++i) {  // to rounding it is symmetric: exactly so
        for (std::size_t j = 0; j < i; ++j) covariance[6 * i + j] = covariance[6 * j + i];
      }
      if (s->element == nullptr) {
        // kicks change momenta by positions
        matrix6 by_matrix{};
        for (std::size_t i = 1; i < 6; i += 2) {
          for (std::size_t k = 0; k < 6; ++k) {
            for (std::size_t j = 0; j < 6; j += 2) {
              by_matrix[6 * i + j] += 2 * half[6 * i + k] * s->covariance[6 * k + j];
            }
          }
        }
        const kick_at& at = kicks[s->kick];
        const envelope_kick_pull k = options.collective[at.effect].envelope_pull(
            s->mean, s->covariance, options.charge, at.place, by_matrix);
        add_symmetric(covariance, k.covariance);
        kinetic += k.kinetic;
        for (const std::size_t number : at.lengths) {
          // kicks share the length of their element
          r.knobs[number] += k.length * (at.place.to - at.place.from);
        }
        r.charge += k.charge;
        r.strengths[at.effect] += k.strength;
        continue;
      }
      matrix6 by_matrix{};
      if (!s->knobs.empty() || s->by_kinetic || s->by_time || s->quadratic) {
        by_matrix = product(half, s->covariance);
        for (double& g : by_matrix) g *= 2;
      }
      const auto through = [&](const piece_tangent& t) {
        return inner(mean, t.orbit) + inner(by_matrix, t.matrix) + kinetic * t.kinetic +
               time * t.time;
      };
      for (const varied_knob& k : s->knobs) r.knobs[k.knob] += through(*k.tangent);
      const double by_kinetic = s->by_kinetic ? through(*s->by_kinetic) : kinetic;
      const double by_time = s->by_time ? through(*s->by_time) : time;
      kinetic = by_kinetic;
      time = by_time;
      mean = transposed_product(s->matrix, mean);
      if (s->quadratic != nullptr) {
        const vector6 more = contracted(*s->quadratic, by_matrix);
        for (std::size_t i = 0; i < 6; ++i) mean[i] += more[i];
      }
    }
    if (record_start) take_record();
    if (options.reference_energy) r.kinetic = kinetic;
    if (options.initial_mean) r.mean = mean;
    r.covariance = covariance;
    return r;
  }
};

envelope_gradient::envelope_gradient(const lattice::line& l, const envelope& start,
                                     envelope_gradient_options options)
    : state_(std::make_unique<state>(l, start, std::move(options))) {}
envelope_gradient::~envelope_gradient() = default;
envelope_gradient::envelope_gradient(envelope_gradient&&) noexcept = default;
envelope_gradient& envelope_gradient::operator=(envelope_gradient&&) noexcept = default;

const std::vector<moment_record>& envelope_gradient::records() const { return state_->records; }

envelope_pull_result envelope_gradient::pull(std::span<const moment_derivative> by_moments) const {
  return state_->pull(by_moments);
}

}  // namespace betatron::tracking
