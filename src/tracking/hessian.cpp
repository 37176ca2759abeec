#include "tracking/hessian.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>

#include "numerics/reduction.h"
#include "tracking/cpu/executor.h"
#include "tracking/cpu/forward_mode.h"
#include "tracking/cpu/forward_pass.h"
#include "tracking/cpu/second_order_pass.h"
#include "tracking/record_pull.h"
#include "tracking/rewind_scale.h"
#include "tracking/section.h"
#include "tracking/turns.h"

namespace betatron::tracking {

namespace {

/// The columns of a beam in double precision: `memory` holds them where they have another one.
template <class F>
beam::columns<const double> in_double(const beam::columns<const F>& from,
                                      std::vector<double>& memory) {
  if constexpr (std::is_same_v<F, double>) {
    return from;
  } else {
    const std::size_t n = from.size;
    memory.resize(7 * n);
    for (std::size_t c = 0; c < 6; ++c) std::copy_n(from.z[c], n, memory.data() + c * n);
    std::copy_n(from.weight, n, memory.data() + 6 * n);
    beam::columns<const double> to{};
    to.z = columns_in<const double>(memory.data(), n);
    to.weight = memory.data() + 6 * n;
    to.id = from.id;
    to.size = n;
    return to;
  }
}

}  // namespace

struct hessian_product::state {
  hessian_options options;
  lattice::sensitivity plan{};
  std::vector<double> widened{};
  beam::columns<const double> start{};
  std::shared_ptr<double[]> final{}, rates{};
  std::vector<moment_record> records{};
  std::vector<moment_rate> record_rates{};
  std::vector<casualty<double>> casualties{};
  std::vector<std::array<double, 6>> seen_rates{};  // of each of them, where it was seen last
  std::vector<std::size_t> lost{};

  state(const lattice::line& l, const beam::bunch& b, hessian_options o) : options(std::move(o)) {
    const repeated_line whole(l, options.recorded, options.turns);
    lattice::sensitivity_options wanted;
    wanted.knobs = options.knobs;
    wanted.recorded = whole.recorded;
    wanted.record_start = options.record_start;
    wanted.record_end = true;
    wanted.along = options.direction;
    plan = lattice::differentiate(whole.line, b.ref, wanted);
    if (!plan.no_way_back.empty()) {
      throw std::invalid_argument("there are no exact second derivatives through " +
                                  plan.no_way_back + ": it cannot be rewound");
    }
    b.visit([&](const auto& columns) { start = in_double(columns, widened); });
    track(l.elements.size());
    find_rates();
  }

  void track(std::size_t elements) {
    final = std::make_shared_for_overwrite<double[]>(6 * start.size);
    const section all = sections_of(plan).front();
    std::vector<beam::moment_sums> sums;
    forward_pass<double>(plan, elements)
        .run(all, start, columns_in(final.get(), start.size), options.threads, sums, casualties);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      records.push_back(record_of(plan.forward.records[i], elements, sums[i]));
    }
    for (const casualty<double>& d : casualties) lost.push_back(d.index);
  }

  /// d mean_a = sum w dz_a/W and d cov_ab = sum w ((z_b - mean_b) dz_a + (z_a - mean_a) dz_b)/W,
  /// and the final rates, 0 of lost particles.
  void find_rates() {
    const std::size_t n = start.size;
    rates = std::make_shared<double[]>(6 * n);
    const std::array<double*, 6> to = columns_in(rates.get(), n);
    constexpr std::size_t per_record = 42;  // means, and entries (a, b) of half the covariance
    std::vector<std::vector<numerics::compensated_sum>> sums(
        block_count(n), std::vector<numerics::compensated_sum>(per_record * records.size()));
    for (const casualty<double>& d : casualties) {
      std::array<double, 6>& at = seen_rates.emplace_back();
      for (std::size_t c = 0; c < 6 && options.initial_direction[c]; ++c) {
        at[c] = options.initial_direction[c][d.index];
      }
    }
    using moving = forward_mode<double>::moving;
    forward_mode<double>(plan).push(
        options.threads, start, casualties,
        {plan.rates.forward, plan.rates.entrance_energy, options.initial_direction},
        [&](std::size_t block, std::size_t number, const moving& m) {
          double of_tile[per_record] = {};
          for (std::size_t i = 0; i < m.count; ++i) {
            double d[6], rate[6];
            for (std::size_t c = 0; c < 6; ++c) {
              d[c] = m.tile.z[c][i] - records[number].moments.mean[c];
              rate[c] = m.weight[i] * m.tile.v[c][i];
              of_tile[c] += rate[c];
            }
            for (std::size_t a = 0; a < 6; ++a) {
              for (std::size_t b = 0; b < 6; ++b) of_tile[6 + 6 * a + b] += d[a] * rate[b];
            }
          }
          for (std::size_t k = 0; k < per_record; ++k) {
            sums[block][per_record * number + k].add(of_tile[k]);
          }
          for (auto d = std::ranges::lower_bound(casualties, m.first, {}, &casualty<double>::index);
               d != casualties.end() && d->index < m.first + m.count; ++d) {
            if (d->seen == casualty<double>::at_start) continue;
            const auto& record = plan.forward.operations[static_cast<std::size_t>(d->seen)];
            if (record.coefficients != number) continue;
            auto& at = seen_rates[static_cast<std::size_t>(d - casualties.begin())];
            for (std::size_t c = 0; c < 6; ++c) at[c] = m.tile.v[c][d->index - m.first];
          }
        },
        [&](std::size_t, const moving& m) {
          for (std::size_t c = 0; c < 6; ++c) {
            for (std::size_t i = 0; i < m.count; ++i) {
              if (m.weight[i] >= 0) to[c][m.first + i] = m.tile.v[c][i];
            }
          }
        });
    for (std::size_t r = 0; r < records.size(); ++r) {
      double sum[per_record];
      for (std::size_t k = 0; k < per_record; ++k) {
        numerics::compensated_sum all;
        for (const auto& block : sums) all.add(block[per_record * r + k].value());
        sum[k] = all.value() / records[r].moments.weight;
      }
      moment_rate rate;
      for (std::size_t a = 0; a < 6; ++a) {
        rate.mean[a] = sum[a];
        for (std::size_t b = 0; b < 6; ++b) {
          rate.covariance[6 * a + b] = sum[6 + 6 * a + b] + sum[6 + 6 * b + a];
        }
      }
      rate.kinetic = plan.rates.kinetic[r];
      record_rates.push_back(rate);
    }
  }
};

hessian_product::hessian_product(const lattice::line& l, const beam::bunch& b,
                                 hessian_options options) {
  check_flags("record", options.recorded, l);
  check_turns(options.turns, 1);
  if (options.direction.size() != options.knobs.size() || options.knobs.empty()) {
    throw std::invalid_argument("a direction of " + std::to_string(options.direction.size()) +
                                " numbers for " + std::to_string(options.knobs.size()) +
                                " knobs; allowed: one number for each of at least one knob");
  }
  if (options.threads == 0) options.threads = available_threads();
  state_ = std::make_unique<state>(l, b, std::move(options));
}

hessian_product::~hessian_product() = default;
hessian_product::hessian_product(hessian_product&&) noexcept = default;
hessian_product& hessian_product::operator=(hessian_product&&) noexcept = default;

const std::vector<moment_record>& hessian_product::records() const { return state_->records; }
const std::vector<moment_rate>& hessian_product::record_rates() const {
  return state_->record_rates;
}
const std::vector<std::size_t>& hessian_product::lost() const { return state_->lost; }
std::shared_ptr<double[]> hessian_product::final_coordinates() const { return state_->final; }
std::shared_ptr<double[]> hessian_product::final_rates() const { return state_->rates; }

second_order_result hessian_product::pull(const second_order_request& request) const {
  const state& s = *state_;
  if (request.by_moments.size() != request.by_moments_rates.size()) {
    throw std::invalid_argument("derivatives by moments come with their rates, or not at all");
  }
  std::vector<record_pull> records = pulls_of(request.by_moments, s.records);
  std::vector<record_pull> rates = pulls_of(request.by_moments_rates, s.records);
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].active = records[i].active || rates[i].active;
    records[i].mean = s.records[i].moments.mean;
    rates[i].mean = s.record_rates[i].mean;
  }
  const std::size_t n = s.start.size;
  if ((request.initial[0] == nullptr) != (request.initial_product[0] == nullptr)) {
    throw std::invalid_argument(
        "derivatives by initial coordinates come with their rates, or not at all");
  }
  second_order_pass::request pass_request;
  pass_request.casualties = s.casualties;
  pass_request.seen_rates = s.seen_rates;
  pass_request.records = records;
  pass_request.record_rates = rates;
  pass_request.start = s.start;
  pass_request.start_rates = s.options.initial_direction;
  pass_request.by_start = request.initial;
  pass_request.by_start_rates = request.initial_product;
  pass_request.end = {columns_in<const double>(s.final.get(), n),
                      columns_in<const double>(s.rates.get(), n)};
  pass_request.by_end = {request.by_particles, request.by_particles_rates};
  const second_order_pass::result r =
      second_order_pass(s.plan).run(s.options.threads, pass_request);

  second_order_result result;
  const std::array<double, 6> scale =
      rewind_scale<double>(s.start.z, pass_request.end.value, n, s.plan.length);
  result.relative_rewind_error = relative_error(r.squares, n, scale);
  for (std::size_t c = 0; c < 6; ++c) {
    // rates are 0 at the start, where those on the way are worth less as the beam grew; those that are much smaller
    // than a direction that changes things so fast could make them are due to rounding
    const double growth = std::max(1.0, reach_of(pass_request.end.value[c], n) / scale[c]);
    const double of = std::max(r.rate_extent[c] / growth, 0.1 * s.plan.rates.fastest * scale[c]);
    if (r.rate_error[c] == 0) continue;
    if (!(r.rate_error[c] / of <= result.relative_rewind_error)) {
      result.relative_rewind_error = r.rate_error[c] / of;
    }
  }
  const double tolerance = request.tolerance > 0 ? request.tolerance : 1e-11;
  if (!(result.relative_rewind_error <= tolerance)) {
    std::ostringstream message;
    message << "the rewound beam, or its rates, are off by " << result.relative_rewind_error
            << " of their extent; allowed: tolerance = " << tolerance;
    throw std::runtime_error(message.str());
  }
  std::vector<lattice::rated> by_kinetic;
  for (std::size_t i = 0; i < request.by_moments.size(); ++i) {
    by_kinetic.push_back(second_order_pass::with_rate(request.by_moments[i].kinetic,
                                                      request.by_moments_rates[i].kinetic));
  }
  for (const lattice::rated& k : s.plan.collect(r.sums, by_kinetic, s.options.knobs.size()).knobs) {
    result.gradient.push_back(k.v);
    result.product.push_back(k.d[0]);
  }
  return result;
}

}  // namespace betatron::tracking
