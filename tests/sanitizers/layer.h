// One layer's calls and their arrays, which go by name: "w_ih[1]" is direction 1's, "final[0][1]" its state 0.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/problem.h"
#include "memory.h"

namespace rnnkern::sanitizers {

using Sizes = std::map<std::string, int64_t>;
using Values = std::map<std::string, std::vector<double>>;

// Each array has memory of its own.
template <class T>
class Arrays {
 public:
  void add(const Values& values) {
    for (const auto& [name, elements] : values) {
      std::copy(elements.begin(), elements.end(), allocate(name, elements.size()));
    }
  }
  // NaN, until a kernel writes them.
  void add(const Sizes& sizes) {
    for (const auto& [name, size] : sizes) allocate(name, size);
  }
  // nullptr for an array that a call does not have.
  T* operator[](const std::string& name) const {
    const auto found = memory_.find(name);
    return found == memory_.end() ? nullptr : static_cast<T*>(found->second.data());
  }

 private:
  T* allocate(const std::string& name, size_t size) {
    return static_cast<T*>(memory_.try_emplace(name, size * sizeof(T)).first->second.data());
  }

  std::map<std::string, Memory> memory_;
};

inline std::string of(const std::string& name, int d) { return name + "[" + std::to_string(d) + "]"; }
inline std::string of(const std::string& name, int k, int d) { return of(of(name, k), d); }

// What a cell is to the memory of a call.
struct Traits {
  const char* name;
  int gates, states, saved;
  bool projection;  // whether it can have one
};

struct Case {
  std::vector<int64_t> active;  // rows alive at each time step
  int64_t input, hidden;
  int64_t projection = 0;
  int directions = 1;
  bool biases = true;
  std::string unwanted = {};  // backward is not asked for gradients whose names begin so
};

class Layer {
 public:
  Layer(const Traits& cell, const Case& own);
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  std::string description() const;
  Sizes weights() const;
  Sizes data() const;             // x and the initial states
  Sizes results() const;          // of forward
  Sizes residuals() const;        // of forward, in training
  Sizes state_gradients() const;  // in and out
  Sizes cotangents() const;       // these, the output's and those of the states after every step
  Sizes gradients() const;

  template <class T>
  ForwardProblem forward_problem(const Arrays<T>& arrays, bool training) const {
    ForwardProblem problem{shape_, training, arrays["x"], {}, arrays["y"]};
    for (int d = 0; d < shape_.directions; ++d) {
      ForwardDirection& direction = problem.direction[d];
      direction.weights = weights_of(arrays, d);
      for (int k = 0; k < cell_.states; ++k) {
        direction.initial[k] = arrays[of("initial", k, d)];
        direction.final[k] = arrays[of("final", k, d)];
        direction.states[k] = arrays[of("states", k, d)];
      }
      direction.saved = arrays[of("saved", d)];
      direction.unprojected = arrays[of("unprojected", d)];
    }
    return problem;
  }

  template <class T>
  BackwardProblem backward_problem(const Arrays<T>& arrays) const {
    BackwardProblem problem{shape_, arrays["x"], arrays["y"], arrays["dy"], {}};
    for (int d = 0; d < shape_.directions; ++d) {
      BackwardDirection& direction = problem.direction[d];
      direction.weights = weights_of(arrays, d);
      for (int k = 0; k < cell_.states; ++k) {
        direction.initial[k] = arrays[of("initial", k, d)];
        direction.states[k] = arrays[of("states", k, d)];
        direction.dstate[k] = arrays[of("dstate", k, d)];
        direction.dstates[k] = arrays[of("dstates", k, d)];
      }
      direction.saved = arrays[of("saved", d)];
      direction.unprojected = arrays[of("unprojected", d)];
      direction.dh_wanted = case_.unwanted != "dstate[0]";
      direction.dx = arrays[of("dx", d)];
      direction.dw_ih = arrays[of("dw_ih", d)];
      direction.dw_hh = arrays[of("dw_hh", d)];
      direction.dw_hr = arrays[of("dw_hr", d)];
      direction.db_ih = arrays[of("db_ih", d)];
      direction.db_hh = arrays[of("db_hh", d)];
    }
    return problem;
  }

 private:
  int64_t width(int k) const { return k == 0 ? shape_.output() : shape_.hidden; }

  template <class T>
  static Weights weights_of(const Arrays<T>& arrays, int d) {
    return {arrays[of("w_ih", d)], arrays[of("w_hh", d)], arrays[of("b_ih", d)],
            arrays[of("b_hh", d)], arrays[of("w_hr", d)], nullptr};
  }

  Traits cell_;
  Case case_;
  std::vector<int64_t> offsets_;
  Shape shape_;
};

}  // namespace rnnkern::sanitizers
