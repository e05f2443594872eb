// All kernels of one instruction set: included inside its namespace and target region, after its Vec and constants.

#include "cpu/gemm.inl"

#include "cpu/schedule.inl"

#include "cpu/backward.inl"
#include "cpu/forward.inl"

template <template <class, class> class Pass, class Cell, class T, class Problem>
size_t team_scratch_bytes(const Problem& problem, int threads) {
  return Pass<Cell, T>(problem, 0, {0, threads, nullptr}, nullptr).scratch_bytes();
}

template <template <class, class> class Pass, class Cell, class T, class Problem>
size_t scratch_bytes(const Problem& problem, int threads) {
  return most_teams(problem.shape.directions, threads) * team_scratch_bytes<Pass, Cell, T>(problem, threads);
}

template <template <class, class> class Pass, class Cell, class T, class Problem>
void run(const Problem& problem, int threads, void* scratch) {
  const size_t team_bytes = team_scratch_bytes<Pass, Cell, T>(problem, threads);
  Barrier barriers[2];
  run_team(threads, [&](int rank, int size) {
    const TeamSplit split(problem.shape.directions, size);
    const int team = rank / split.team_size;
    for (int direction = team; direction < problem.shape.directions; direction += split.teams) {
      const Team members{rank % split.team_size, split.team_size, &barriers[team]};
      Pass<Cell, T>(problem, direction, members, static_cast<char*>(scratch) + team * team_bytes).run();
      members.sync();
    }
  });
}

template <class Cell, class T>
size_t freeze(const ForwardProblem& problem, void* memory) {
  return ForwardPass<Cell, T>(problem, 0, {0, 1, nullptr}, nullptr).freeze(memory);
}

template <class Cell, class T>
Plan forward_plan(const ForwardProblem& problem, int threads) {
  const TeamSplit split(problem.shape.directions, threads);
  Plan plan = ForwardPass<Cell, T>(problem, 0, {0, split.team_size, nullptr}, nullptr).plan();
  plan.teams = split.teams;
  return plan;
}

template <class Cell, class T>
constexpr Kernels kernels_of() {
  return {freeze<Cell, T>,
          scratch_bytes<ForwardPass, Cell, T, ForwardProblem>,
          run<ForwardPass, Cell, T, ForwardProblem>,
          scratch_bytes<BackwardPass, Cell, T, BackwardProblem>,
          run<BackwardPass, Cell, T, BackwardProblem>,
          forward_plan<Cell, T>};
}

template <class... Cells>
constexpr Backend backend_of(CellList<Cells...>, const char* name, bool (*supported)()) {
  return {name, supported, {{kernels_of<Cells, float>(), kernels_of<Cells, double>()}...}};
}

constexpr Backend make_backend(const char* name, bool (*supported)()) {
  return backend_of(AllCells{}, name, supported);
}
