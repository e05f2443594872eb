// Runs all cells of the instruction set that RNNKERN_ISA names, and compares what they compute with the reference.
#include <cmath>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cases.h"
#include "cpu/backend.h"
#include "layer.h"
#include "memory.h"
#include "pool.h"
#include "reference.h"

namespace rnnkern::sanitizers {
namespace {

struct Team {
  int threads, pool;
};

// The last is given fewer threads than it asks for.
constexpr Team kTeams[] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {4, 3}};

template <class T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-4 : 1e-10;

template <class Map>
Map joined(Map a, const Map& b) {
  a.insert(b.begin(), b.end());
  return a;
}

template <class Map>
Map without(const std::string& prefix, Map map) {
  std::erase_if(map, [&](const auto& entry) { return !prefix.empty() && entry.first.starts_with(prefix); });
  return map;
}

// To values that float holds, so that kernels of both types read the same ones.
Values rounded(Values values) {
  for (auto& [name, elements] : values) {
    for (double& element : elements) element = static_cast<float>(element);
  }
  return values;
}

Values random(const Sizes& sizes, double range) {
  static std::mt19937 generator(1);
  std::uniform_real_distribution<double> uniform(-range, range);
  Values values;
  for (const auto& [name, size] : sizes) {
    std::vector<double>& elements = values[name];
    for (int64_t i = 0; i < size; ++i) elements.push_back(uniform(generator));
  }
  return rounded(values);
}

Values zeros(const Sizes& sizes) {
  Values values;
  for (const auto& [name, size] : sizes) values[name].resize(size);
  return values;
}

Values values_of(const Arrays<double>& arrays, const Sizes& sizes) {
  Values values;
  for (const auto& [name, size] : sizes) values[name].assign(arrays[name], arrays[name] + size);
  return values;
}

// What a kernel did not write is NaN and differs from anything.
template <class T>
void compare(const Arrays<T>& arrays, const Values& expected) {
  for (const auto& [name, elements] : expected) {
    const T* actual = arrays[name];
    for (size_t i = 0; i < elements.size(); ++i) {
      if (std::abs(actual[i] - elements[i]) <= kTolerance<T> * (1 + std::abs(elements[i]))) continue;
      throw std::runtime_error(name + ": element " + std::to_string(i) + " is " + std::to_string(actual[i]) +
                               " instead of " + std::to_string(elements[i]));
    }
  }
}

template <class Problem>
void call(size_t (*scratch_bytes)(const Problem&, int), void (*kernel)(const Problem&, int, void*),
          const Problem& problem, const Team& team) {
  pool = team.pool;
  const Memory scratch(scratch_bytes(problem, team.threads));
  kernel(problem, team.threads, scratch.data());
}

// A layer: what goes into its calls, and what should come out.
template <class Cell>
class Trial {
 public:
  explicit Trial(const Case& own)
      : layer_({Cell::kName, Cell::kGates, Cell::kStates, Cell::kSaved, !Cell::kDirectH}, own),
        inputs_(joined(random(layer_.weights(), 1 / std::sqrt(own.hidden)), random(layer_.data(), 1))),
        wanted_(without(own.unwanted, layer_.gradients())) {
    run_forward_reference(own.directions);
    backward_inputs_ = joined(inputs_, random(layer_.cotangents(), 1));
    backward_inputs_ = joined(backward_inputs_, rounded(joined(results_, residuals_)));
    run_backward_reference(own.directions);
    gradients_ = without(own.unwanted, gradients_);
  }

  template <class T>
  void run(const cpu::Kernels& kernels, const Team& team) const {
    if (kernels.forward == nullptr) return;  // left out of this program
    announce("inference", sizeof(T), team);
    forward<T>(kernels, team, false);
    announce("training", sizeof(T), team);
    forward<T>(kernels, team, true);
    announce("backward", sizeof(T), team);
    backward<T>(kernels, team);
  }

 private:
  void run_forward_reference(int directions) {
    Arrays<double> arrays;
    arrays.add(inputs_);
    arrays.add(joined(layer_.results(), layer_.residuals()));
    const ForwardProblem problem = layer_.forward_problem(arrays, true);
    for (int d = 0; d < directions; ++d) ReferenceForward<Cell>(problem, d).run();
    results_ = values_of(arrays, layer_.results());
    residuals_ = values_of(arrays, layer_.residuals());
  }

  void run_backward_reference(int directions) {
    Arrays<double> arrays;
    arrays.add(backward_inputs_);
    arrays.add(zeros(layer_.gradients()));
    const BackwardProblem problem = layer_.backward_problem(arrays);
    for (int d = 0; d < directions; ++d) ReferenceBackward<Cell>(problem, d).run();
    gradients_ = values_of(arrays, joined(layer_.gradients(), layer_.state_gradients()));
  }

  // The last line before a report says what ran.
  void announce(const char* pass, size_t element_bytes, const Team& team) const {
    std::printf("%s in %zu bytes, %d of %d threads, %s\n", pass, element_bytes, team.pool, team.threads,
                layer_.description().c_str());
    std::fflush(stdout);
  }

  template <class T>
  void forward(const cpu::Kernels& kernels, const Team& team, bool training) const {
    Arrays<T> arrays;
    arrays.add(inputs_);
    arrays.add(layer_.results());
    if (training) arrays.add(layer_.residuals());
    call(kernels.forward_scratch, kernels.forward, layer_.forward_problem(arrays, training), team);
    compare(arrays, training ? joined(results_, residuals_) : results_);
    if (!training) frozen_forward<T>(kernels, team);
  }

  // With weights that were packed before the call.
  template <class T>
  void frozen_forward(const cpu::Kernels& kernels, const Team& team) const {
    Arrays<T> arrays;
    arrays.add(inputs_);
    arrays.add(layer_.results());
    ForwardProblem problem = layer_.forward_problem(arrays, false);
    std::vector<std::unique_ptr<Memory>> packed;
    for (int d = 0; d < problem.shape.directions; ++d) {
      ForwardProblem alone = problem;
      alone.direction[0] = problem.direction[d];
      packed.push_back(std::make_unique<Memory>(kernels.freeze(alone, nullptr)));
      kernels.freeze(alone, packed.back()->data());
      problem.direction[d].weights.frozen = packed.back()->data();
    }
    call(kernels.forward_scratch, kernels.forward, problem, team);
    compare(arrays, results_);
  }

  template <class T>
  void backward(const cpu::Kernels& kernels, const Team& team) const {
    Arrays<T> arrays;
    arrays.add(backward_inputs_);
    arrays.add(wanted_);
    call(kernels.backward_scratch, kernels.backward, layer_.backward_problem(arrays), team);
    compare(arrays, gradients_);
  }

  Layer layer_;
  Values inputs_, results_, residuals_;
  Values backward_inputs_, gradients_;
  Sizes wanted_;
};

// Cells share the recurrences: a layer meets the teams in turn, another with each cell and type.
template <class Cell>
void run_cell(const cpu::Kernels (&kernels)[2], size_t turn) {
  for (const Case& own : all_cases()) {
    const Trial<Cell> trial(own);
    trial.template run<float>(kernels[0], kTeams[turn % std::size(kTeams)]);
    trial.template run<double>(kernels[1], kTeams[(turn + 2) % std::size(kTeams)]);
    ++turn;
  }
}

template <class... Cells>
void run_cells(CellList<Cells...>) {
  const cpu::Kernels(*kernels)[2] = cpu::active_backend().kernels;
  size_t turn = 0;
  (run_cell<Cells>(*kernels++, turn++), ...);
}

}  // namespace
}  // namespace rnnkern::sanitizers

int main() {
  try {
    rnnkern::sanitizers::run_cells(rnnkern::AllCells{});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    return 1;
  }
}
