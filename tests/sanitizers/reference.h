// The two recurrences in double as plain loops over rows, units and gates.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cells/all.h"
#include "common/pack.h"
#include "common/problem.h"

namespace rnnkern::sanitizers {

// The value type that cells compute with here.
struct Real {
  using Element = double;
  double v;

  Real() = default;
  explicit Real(double value) : v(value) {}
};

inline Real operator+(Real a, Real b) { return Real(a.v + b.v); }
inline Real operator-(Real a, Real b) { return Real(a.v - b.v); }
inline Real operator*(Real a, Real b) { return Real(a.v * b.v); }
inline Real operator/(Real a, Real b) { return Real(a.v / b.v); }
inline Real operator-(Real a) { return Real(-a.v); }
inline Real fma(Real a, Real b, Real c) { return Real(std::fma(a.v, b.v, c.v)); }
inline Real at_least(Real low, Real x) { return Real(std::max(low.v, x.v)); }
inline Real zero_where_le0(Real d, Real y) { return Real(y.v <= 0 ? 0 : d.v); }
inline Real tanh(Real x) { return Real(std::tanh(x.v)); }
inline Real sigmoid(Real x) { return Real(1 / (1 + std::exp(-x.v))); }

inline const double* doubles(const void* p) { return static_cast<const double*>(p); }
inline double* doubles(void* p) { return static_cast<double*>(p); }

// start + the dot product of a and b, whose elements are b_stride apart.
inline double dot(const double* a, const double* b, int64_t size, int64_t b_stride = 1, double start = 0) {
  for (int64_t i = 0; i < size; ++i) start += a[i] * b[i * b_stride];
  return start;
}

inline double bias(const void* b, int64_t gate) { return b == nullptr ? 0 : doubles(b)[gate]; }

// One direction of a layer.
template <class Cell>
class ReferenceForward {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, kSaved = Cell::kSaved;

 public:
  ReferenceForward(const ForwardProblem& problem, int direction)
      : problem_(problem), shape_(problem.shape), direction_(direction), own_(problem.direction[direction]) {}

  // The final states double as the current ones: a row that does not take part in a step keeps its own.
  void run() const {
    for (int k = 0; k < kStates; ++k) {
      std::copy_n(doubles(own_.initial[k]), shape_.batch * (k == 0 ? R() : H()), doubles(own_.final[k]));
    }
    for (int64_t step = 0; step < shape_.steps; ++step) {
      const int64_t t = direction_ == 0 ? step : shape_.steps - 1 - step;
      for (int64_t n = 0; n < shape_.active[t]; ++n) run_row(n, shape_.offsets[t] + n);
    }
  }

 private:
  int64_t H() const { return shape_.hidden; }
  int64_t R() const { return shape_.output(); }

  void run_row(int64_t n, int64_t row) const {
    double* current = doubles(own_.final[0]) + n * R();
    const std::vector<double> old_h(current, current + R());
    std::vector<double> h(H());
    for (int64_t unit = 0; unit < H(); ++unit) h[unit] = run_unit(n, row, unit, old_h.data());
    if (shape_.projection > 0) std::copy_n(h.data(), H(), doubles(own_.unprojected) + row * H());
    for (int64_t i = 0; i < R(); ++i) {
      current[i] = shape_.projection == 0 ? h[i] : dot(doubles(own_.weights.w_hr) + i * H(), h.data(), H());
    }
    std::copy_n(current, R(), doubles(problem_.y) + (row * shape_.directions + direction_) * R());
  }

  double run_unit(int64_t n, int64_t row, int64_t unit, const double* old_h) const {
    const Weights& w = own_.weights;
    const int64_t I = shape_.input;
    Pack<Real, kGates> x, r;
    for (int g = 0; g < kGates; ++g) {
      const int64_t gate = g * H() + unit;
      x[g] = Real(dot(doubles(w.w_ih) + gate * I, doubles(problem_.x) + row * I, I, 1, bias(w.b_ih, gate)));
      r[g] = Real(dot(doubles(w.w_hh) + gate * R(), old_h, R(), 1, bias(w.b_hh, gate)));
    }
    Pack<Real, kStates> state;
    if (Cell::kDirectH) state[0] = Real(old_h[unit]);
    for (int k = 1; k < kStates; ++k) state[k] = Real(doubles(own_.final[k])[n * H() + unit]);
    Pack<Real, kSaved> saved;
    Cell::forward(x, r, state, saved);
    for (int k = 1; k < kStates; ++k) {
      doubles(own_.final[k])[n * H() + unit] = doubles(own_.states[k])[row * H() + unit] = state[k].v;
    }
    for (int k = 0; k < kSaved; ++k) doubles(own_.saved)[(row * kSaved + k) * H() + unit] = saved[k].v;
    return state[0].v;
  }

  const ForwardProblem& problem_;
  const Shape& shape_;
  const int direction_;
  const ForwardDirection& own_;
};

// One direction of a layer, all of whose gradients are wanted and zero on entry.
template <class Cell>
class ReferenceBackward {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, kSaved = Cell::kSaved;

 public:
  ReferenceBackward(const BackwardProblem& problem, int direction)
      : problem_(problem),
        shape_(problem.shape),
        direction_(direction),
        own_(problem.direction[direction]),
        dx_gates_(kGates * H()),
        dr_gates_(kGates * H()) {}

  void run() {
    for (int64_t step = shape_.steps - 1; step >= 0; --step) {
      const int64_t t = direction_ == 0 ? step : shape_.steps - 1 - step;
      for (int64_t n = 0; n < shape_.active[t]; ++n) run_row(t, n);
    }
  }

 private:
  int64_t H() const { return shape_.hidden; }
  int64_t R() const { return shape_.output(); }
  int64_t gate_rows() const { return kGates * H(); }

  const double* y_row(int64_t row) const { return doubles(problem_.y) + (row * shape_.directions + direction_) * R(); }
  // Where a row's output before this time step is, or else its initial state.
  const double* old_state(int k, int64_t t, int64_t n) const {
    const int64_t before = direction_ == 0 ? t - 1 : t + 1;
    const bool fresh = before < 0 || before >= shape_.steps || n >= shape_.active[before];
    if (fresh) return doubles(own_.initial[k]) + n * (k == 0 ? R() : H());
    const int64_t row = shape_.offsets[before] + n;
    return k == 0 ? y_row(row) : doubles(own_.states[k]) + row * H();
  }

  void run_row(int64_t t, int64_t n) {
    const int64_t row = shape_.offsets[t] + n, I = shape_.input;
    double* dh = doubles(own_.dstate[0]) + n * R();
    const double* dy = doubles(problem_.dy) + (row * shape_.directions + direction_) * R();
    for (int64_t i = 0; i < R(); ++i) dh[i] += dy[i];
    const std::vector<double> direct = run_cells(t, n, dh);
    for (int64_t i = 0; i < R(); ++i) {
      const double* column = doubles(own_.weights.w_hh) + i;
      dh[i] = dot(dr_gates_.data(), column, gate_rows(), R(), Cell::kDirectH ? direct[i] : 0);
    }
    for (int64_t i = 0; i < I; ++i) {
      doubles(own_.dx)[row * I + i] = dot(dx_gates_.data(), doubles(own_.weights.w_ih) + i, gate_rows(), I);
    }
    add_product(dx_gates_, doubles(problem_.x) + row * I, I, own_.dw_ih);
    add_product(dr_gates_, old_state(0, t, n), R(), own_.dw_hh);
    const double one = 1;
    if (own_.db_ih != nullptr) add_product(dx_gates_, &one, 1, own_.db_ih);
    if (own_.db_hh != nullptr) add_product(dr_gates_, &one, 1, own_.db_hh);
  }

  // From the gradient of the output to gate gradients; returns the direct part of the gradient of the old h.
  std::vector<double> run_cells(int64_t t, int64_t n, const double* doutput) {
    const int64_t row = shape_.offsets[t] + n, P = shape_.projection;
    std::vector<double> dh(doutput, doutput + R());
    const double* new_h = y_row(row);
    if (P > 0) {
      new_h = doubles(own_.unprojected) + row * H();
      add_product(dh, new_h, H(), own_.dw_hr);
      dh.resize(H());
      for (int64_t i = 0; i < H(); ++i) dh[i] = dot(doutput, doubles(own_.weights.w_hr) + i, P, H());
    }
    for (int64_t unit = 0; unit < H(); ++unit) dh[unit] = run_unit(t, n, unit, new_h[unit], dh[unit]);
    return dh;
  }

  double run_unit(int64_t t, int64_t n, int64_t unit, double new_h, double dh) {
    const int64_t row = shape_.offsets[t] + n;
    Pack<Real, kStates> old_states, new_states, dstates;
    if (Cell::kDirectH) old_states[0] = Real(old_state(0, t, n)[unit]);
    new_states[0] = Real(new_h);
    dstates[0] = Real(dh);
    for (int k = 1; k < kStates; ++k) {
      old_states[k] = Real(old_state(k, t, n)[unit]);
      new_states[k] = Real(doubles(own_.states[k])[row * H() + unit]);
      dstates[k] = Real(doubles(own_.dstate[k])[n * H() + unit] + doubles(own_.dstates[k])[row * H() + unit]);
    }
    Pack<Real, kSaved> saved;
    for (int k = 0; k < kSaved; ++k) saved[k] = Real(doubles(own_.saved)[(row * kSaved + k) * H() + unit]);
    Pack<Real, kGates> dx, dr;
    Cell::backward(saved, old_states, new_states, dstates, dx, dr);
    for (int k = 1; k < kStates; ++k) doubles(own_.dstate[k])[n * H() + unit] = dstates[k].v;
    for (int g = 0; g < kGates; ++g) {
      dx_gates_[g * H() + unit] = dx[g].v;
      dr_gates_[g * H() + unit] = (Cell::kSplitGates ? dr : dx)[g].v;
    }
    return dstates[0].v;
  }

  // sum [left, size] += left * right.
  static void add_product(const std::vector<double>& left, const double* right, int64_t size, void* sum) {
    double* out = doubles(sum);
    for (const double factor : left) {
      for (int64_t i = 0; i < size; ++i) *out++ += factor * right[i];
    }
  }

  const BackwardProblem& problem_;
  const Shape& shape_;
  const int direction_;
  const BackwardDirection& own_;
  std::vector<double> dx_gates_, dr_gates_;
};

}  // namespace rnnkern::sanitizers
