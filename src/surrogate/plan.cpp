// plan.cpp: slots of memory, by first fit over the time that each value lives.
#include "surrogate/plan.h"

#include <algorithm>

namespace betatron::surrogate {

namespace {

/// Slots for values that live from made[v] to read[v], both included, given in the order in which they are made.
/// Returns the number of slots.
std::size_t assign(const std::vector<std::size_t>& order, const std::vector<std::size_t>& made,
                   const std::vector<std::size_t>& read, std::vector<std::size_t>& slot) {
  std::vector<std::size_t> busy_until;  // by slot, plus one; 0: never used
  slot.assign(order.size(), 0);
  for (const std::size_t v : order) {
    const auto free = std::ranges::find_if(busy_until, [&](std::size_t t) { return t <= made[v]; });
    slot[v] = static_cast<std::size_t>(free - busy_until.begin());
    if (free == busy_until.end()) busy_until.push_back(0);
    busy_until[slot[v]] = read[v] + 1;
  }
  return busy_until.size();
}

}  // namespace

evaluation_plan make_plan(const network& n) {
  const std::size_t last = n.layers.size();
  evaluation_plan plan;
  std::vector<std::size_t> order(last + 1), made(last + 1), read(last + 1);
  for (std::size_t v = 0; v <= last; ++v) {
    order[v] = v;
    made[v] = v;
    read[v] = v + 1;
  }
  plan.begins_at.resize(last + 1, last);
  for (std::size_t v = 0; v < last; ++v) plan.begins_at[v] = v + 1;
  for (std::size_t k = 1; k <= last; ++k) {
    const dense_layer& l = n.layers[k - 1];
    plan.kept_at.push_back(plan.kept);
    if (l.function != activation::identity) plan.kept += l.outputs;
    if (l.skip < 0) continue;
    const auto v = static_cast<std::size_t>(l.skip);
    read[v] = std::max(read[v], k);
    plan.begins_at[v] = std::max(plan.begins_at[v], k);
  }
  plan.forward_slots = assign(order, made, read, plan.forward);

  // backwards, time runs from 0 at the last layer: layer k at last - k
  std::ranges::reverse(order);
  for (std::size_t v = 0; v <= last; ++v) {
    made[v] = last - plan.begins_at[v];
    read[v] = v == 0 ? last : last - v;
  }
  std::ranges::stable_sort(order, {}, [&](std::size_t v) { return made[v]; });
  plan.backward_slots = assign(order, made, read, plan.backward);
  return plan;
}

}  // namespace betatron::surrogate
