#include "tracking/gpu/executor.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <string>

#include "tracking/gpu/interpreter.h"

namespace betatron::tracking::gpu {

namespace {

constexpr unsigned threads_per_block = 128;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: cannot ") + what + ": " + cudaGetErrorString(status));
}

struct device_delete {
  void operator()(void* p) const { cudaFree(p); }
};

/// n values in device memory.
template <class T>
class device_array {
 public:
  explicit device_array(std::size_t n, const char* what) : size_(n) {
    if (n == 0) return;
    void* p = nullptr;
    check(cudaMalloc(&p, n * sizeof(T)), what);
    memory_.reset(static_cast<T*>(p));
  }
  device_array(const T* host, std::size_t n, const char* what) : device_array(n, what) {
    if (n != 0) check(cudaMemcpy(data(), host, n * sizeof(T), cudaMemcpyHostToDevice), what);
  }

  T* data() const { return memory_.get(); }

  void copy_to(T* host, const char* what) const {
    if (size_ == 0) return;
    check(cudaMemcpy(host, data(), size_ * sizeof(T), cudaMemcpyDeviceToHost), what);
  }

 private:
  std::unique_ptr<T, device_delete> memory_;
  std::size_t size_;
};

template <class F>
struct device_columns {
  F* z[6];
  std::size_t size;
};

/// One thread per particle. Threads of a warp run the same operation on neighbouring particles: loads of
/// coordinates are contiguous, those of coefficients the same for all, and branches do not diverge until
/// particles are lost.
template <class F>
__global__ void __launch_bounds__(threads_per_block)
    track_particles(program_view<F> program, std::int64_t turns, device_columns<F> particles,
                    fate* fates, unsigned* any_lost) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= particles.size) return;
  elements::phase_space<F> z{particles.z[0][i], particles.z[1][i], particles.z[2][i],
                             particles.z[3][i], particles.z[4][i], particles.z[5][i]};
  const fate r = run_particle(program, turns, z);
  particles.z[0][i] = z.x;
  particles.z[1][i] = z.px;
  particles.z[2][i] = z.y;
  particles.z[3][i] = z.py;
  particles.z[4][i] = z.t;
  particles.z[5][i] = z.pt;
  fates[i] = r;
  if (r.is_lost()) *any_lost = 1;  // all that write write the same
}

template <class F>
std::vector<beam::bunch::loss> run_on_device(const lattice::program& p,
                                             const device_columns<F>& particles,
                                             const run_options& how) {
  std::vector<instruction> instructions;
  instructions.reserve(p.operations.size());
  for (const lattice::operation& op : p.operations) {
    instructions.push_back({op.code, op.coefficients});
  }
  const std::vector<F> coefficients(p.coefficients.begin(), p.coefficients.end());
  const device_array<instruction> device_instructions(instructions.data(), instructions.size(),
                                                      "store the program");
  const device_array<F> device_coefficients(coefficients.data(), coefficients.size(),
                                            "store the coefficients");
  const device_array<fate> device_fates(particles.size, "store what is lost");
  unsigned any_lost = 0;
  const device_array<unsigned> device_any_lost(&any_lost, 1, "store what is lost");

  const program_view<F> view{device_instructions.data(),
                             static_cast<std::int32_t>(instructions.size()),
                             device_coefficients.data(), static_cast<F>(p.entrance_energy[0]),
                             static_cast<F>(p.entrance_energy[1])};
  const std::size_t blocks = (particles.size + threads_per_block - 1) / threads_per_block;
  track_particles<F><<<static_cast<unsigned>(blocks), threads_per_block>>>(
      view, how.turns, particles, device_fates.data(), device_any_lost.data());
  check(cudaGetLastError(), "start tracking");
  check(cudaDeviceSynchronize(), "track");

  std::vector<beam::bunch::loss> losses;
  device_any_lost.copy_to(&any_lost, "read what is lost");
  if (any_lost == 0) return losses;
  std::vector<fate> fates(particles.size);
  device_fates.copy_to(fates.data(), "read what is lost");
  for (std::size_t i = 0; i < fates.size(); ++i) {
    if (!fates[i].is_lost()) continue;
    const lattice::operation& op = p.operations[static_cast<std::size_t>(fates[i].operation)];
    losses.push_back({i, op.s, how.first_turn + fates[i].turn, op.element, fates[i].reason});
  }
  return losses;
}

void check_arguments(const lattice::program& p, const run_options& how) {
  if (!p.records.empty()) {
    throw std::invalid_argument(
        "the device takes no moments: the program has " + std::to_string(p.records.size()) +
        " records, the first behind element " + std::to_string(p.records.front().element) +
        "; allowed: none (record nothing, or track on the CPU)");
  }
  if (!p.observations.empty()) {
    throw std::invalid_argument(
        "the device observes no particles: the program has " +
        std::to_string(p.observations.size()) +
        " observations; allowed: none (use no monitor, or track on the CPU)");
  }
  if (!p.calls.empty()) {
    const elements::code_call& first = p.calls.front();
    throw std::invalid_argument(
        "the device calls no code of others: the program calls '" +
        (first.tiles ? first.tiles->name : std::string("code of the beam")) +
        "'; track on the CPU");
  }
  if (p.radiation) {
    throw std::invalid_argument(
        "the device tracks no radiation: compile the program without, or track on the CPU");
  }
  if (p.spin) {
    throw std::invalid_argument(
        "the device tracks no spins: compile the program without, or track on the CPU");
  }
  if (how.turns < 0) {
    throw std::invalid_argument("turns = " + std::to_string(how.turns) +
                                " is not allowed; allowed: >= 0");
  }
}

}  // namespace

int device_count() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

template <class F>
std::vector<beam::bunch::loss> run(const lattice::program& p, const beam::columns<F>& particles,
                                   const run_options& how, memory where) {
  check_arguments(p, how);
  if (particles.size == 0 || how.turns == 0) return {};
  device_columns<F> on_device{{}, particles.size};
  if (where == memory::device) {
    std::copy(particles.z.begin(), particles.z.end(), on_device.z);
    return run_on_device(p, on_device, how);
  }
  std::vector<device_array<F>> copies;
  for (std::size_t c = 0; c < 6; ++c) {
    copies.emplace_back(particles.z[c], particles.size, "copy the particles to the device");
    on_device.z[c] = copies.back().data();
  }
  std::vector<beam::bunch::loss> losses = run_on_device(p, on_device, how);
  for (std::size_t c = 0; c < 6; ++c) copies[c].copy_to(particles.z[c], "copy the particles back");
  return losses;
}

template std::vector<beam::bunch::loss> run(const lattice::program&, const beam::columns<float>&,
                                            const run_options&, memory);
template std::vector<beam::bunch::loss> run(const lattice::program&, const beam::columns<double>&,
                                            const run_options&, memory);

}  // namespace betatron::tracking::gpu
