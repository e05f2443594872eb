// Forward over one direction. Included inside an instruction set's namespace.

// Vectors of units whose gates share one register tile.
template <class Cell>
inline constexpr int kUnitVectors = Cell::kGates >= 3 ? 1 : (Cell::kGates == 2 ? 2 : 4);

template <class Cell, class T>
class ForwardPass {
  using V = Vec<T>;
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  static constexpr int kColumns = kGates * kUnitVectors<Cell>;
  static constexpr int64_t kBlockUnits = kUnitVectors<Cell> * V::kLanes;
  static constexpr int64_t kWidth = kColumns * V::kLanes;
  static constexpr int kRows = kTileRows<kColumns>;

 public:
  ForwardPass(const ForwardProblem& problem, int direction, Team team, void* scratch)
      : problem_(problem),
        shape_(problem.shape),
        own_(problem.direction[direction]),
        schedule_(problem.shape, direction == 1),
        team_(team),
        w_ih_(own_.weights.w_ih, kGates, shape_.hidden, shape_.input, shape_.rows, 1),
        w_hh_(own_.weights.w_hh, kGates, shape_.hidden, shape_.output(), shape_.batch, shape_.steps),
        w_hr_(own_.weights.w_hr, 1, shape_.projection, shape_.hidden, shape_.batch, shape_.steps),
        x_(static_cast<const T*>(problem.x)),
        y_(static_cast<T*>(problem.y) + direction * shape_.output()),
        y_stride_(shape_.directions * shape_.output()) {
    lay_out(scratch);
  }

  // Of the whole scratch; known also when it was laid out at nullptr.
  size_t scratch_bytes() const { return scratch_bytes_; }

  Plan plan() const {
    const Chunk first = schedule_.chunk_from(0, chunk_rows_);
    const bool by_batch = Division::choose(schedule_, first, team_, w_hh_.shared()).by_batch;
    return {shape_.directions, team_.size, by_batch, w_hh_.packed(), chunk_rows_};
  }

  // See Kernels::freeze; for a team of one.
  size_t freeze(void* memory) {
    const size_t bytes = lay_out_frozen(memory);
    if (memory != nullptr) pack_weights();
    return bytes;
  }

  void run() {
    prepare();
    team_.sync();
    for (int64_t step = 0; step < shape_.steps;) {
      const Chunk chunk = schedule_.chunk_from(step, chunk_rows_);
      const Division division = Division::choose(schedule_, chunk, team_, w_hh_.shared());
      project_input(chunk, division);
      for (; step < chunk.steps.end; ++step) run_step(step, chunk, division);
      if (division.by_batch) team_.sync();
    }
    finish();
  }

 private:
  void lay_out(void* base) {
    Arena arena(base);
    // A member's share of the input's gates stays in its L2, and W_ih is read often enough to be worth it.
    constexpr int64_t kChunkBytes = 512 << 10, kLeastChunkRows = 256;
    const int64_t row_bytes = w_hh_.blocks() * kWidth * static_cast<int64_t>(sizeof(T));
    chunk_rows_ = std::max(kLeastChunkRows, kChunkBytes * team_.size / row_bytes);
    chunk_rows_ = std::min(shape_.rows, std::max(shape_.batch, chunk_rows_));
    // One chunk, however many threads the team turns out to have.
    if (shape_.rows <= std::max(shape_.batch, kLeastChunkRows)) w_ih_.go_through_once();
    if (shape_.steps == 1) w_hh_.go_through_once();
    if (own_.weights.frozen == nullptr) {
      lay_out_weights(arena);
    } else {
      lay_out_frozen(const_cast<void*>(own_.weights.frozen));
    }
    x_gates_ = arena.take<T>(w_hh_.blocks() * chunk_rows_ * kWidth);
    if (shape_.projection > 0 && !problem_.training) unprojected_ = arena.take<T>(shape_.batch * shape_.hidden);
    scratch_bytes_ = arena.used();
  }

  void lay_out_weights(Arena& arena) {
    w_ih_.lay_out(arena, team_.rank, team_.size);
    w_hh_.lay_out(arena, team_.rank, team_.size);
    w_hr_.lay_out(arena, team_.rank, team_.size);
    b_ih_ = arena.take<T>(w_hh_.blocks() * kWidth);
    b_hh_ = arena.take<T>(w_hh_.blocks() * kWidth);
  }

  size_t lay_out_frozen(void* memory) {
    w_ih_.pack_in_any_case();
    w_hh_.pack_in_any_case();
    w_hr_.pack_in_any_case();
    Arena arena(memory);
    lay_out_weights(arena);
    return arena.used();
  }

  const T* initial(int state) const { return static_cast<const T*>(own_.initial[state]); }
  T* final_state(int state) const { return static_cast<T*>(own_.final[state]); }
  T* all_states(int state) const { return static_cast<T*>(own_.states[state]); }

  void pack_weights() {
    const Range blocks = share(w_hh_.blocks(), team_.rank, team_.size);
    w_ih_.pack(blocks);
    w_hh_.pack(blocks);
    w_hr_.pack(share(w_hr_.blocks(), team_.rank, team_.size));
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      pack_bias(static_cast<const T*>(own_.weights.b_ih), kGates, shape_.hidden, b, kBlockUnits, b_ih_ + b * kWidth);
      pack_bias(static_cast<const T*>(own_.weights.b_hh), kGates, shape_.hidden, b, kBlockUnits, b_hh_ + b * kWidth);
    }
  }

  void prepare() {
    if (own_.weights.frozen == nullptr) pack_weights();
    // When nothing is kept, the final states double as the current ones.
    if (problem_.training) return;
    const Range batch = share(shape_.batch, team_.rank, team_.size);
    for (int k = 1; k < kStates; ++k) {
      std::copy(initial(k) + batch.begin * shape_.hidden, initial(k) + batch.end * shape_.hidden,
                final_state(k) + batch.begin * shape_.hidden);
    }
  }

  // x_gates_ [block][row of the chunk][width] = W_ih x + b_ih.
  void project_input(const Chunk& chunk, const Division& division) {
    const int64_t count = chunk.rows.size();
    const bool by_rows = division.by_batch && w_ih_.shared();
    const Range rows = by_rows ? share(count, team_.rank, team_.size) : Range{0, count};
    const Range blocks = by_rows ? Range{0, w_ih_.blocks()} : share(w_ih_.blocks(), team_.rank, team_.size);
    const LeftMatrix<T> x{x_ + chunk.rows.begin * shape_.input, shape_.input, 1};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      w_ih_.open(b);
      for_tiles(rows, w_ih_.tile_rows(), [&](int64_t row, int64_t tile_rows) {
        w_ih_.multiply(tile_rows, x.from_row(row), b, b_ih_ + b * kWidth, x_gates_ + (b * chunk_rows_ + row) * kWidth);
      });
    }
    if (division.by_batch) team_.sync();
  }

  void run_step(int64_t step, const Chunk& chunk, const Division& division) {
    const int64_t active = schedule_.active(step), continuing = schedule_.continuing(step);
    const Range blocks = division.blocks(w_hh_.blocks(), team_);
    if (continuing > 0) {
      const LeftMatrix<T> previous{y_ + schedule_.offset(step - 1) * y_stride_, y_stride_, 1};
      run_rows(step, chunk, blocks, intersect(division.batch, {0, continuing}), previous);
    }
    const LeftMatrix<T> h0{initial(0), shape_.output(), 1};
    run_rows(step, chunk, blocks, intersect(division.batch, {continuing, active}), h0);
    division.sync(team_);
    if (shape_.projection > 0) {
      project_output(step, intersect(division.batch, {0, active}), division.blocks(w_hr_.blocks(), team_));
      division.sync(team_);
    }
  }

  void run_rows(int64_t step, const Chunk& chunk, Range blocks, Range rows, LeftMatrix<T> h) {
    if (rows.begin >= rows.end) return;
    alignas(64) T tile[kRows * kWidth];
    const int64_t chunk_row = schedule_.offset(step) - chunk.rows.begin;
    for_blocks(blocks, step, [&](int64_t b) {
      w_hh_.open(b);
      for_tiles(rows, w_hh_.tile_rows(), [&](int64_t n, int64_t tile_rows) {
        w_hh_.multiply(tile_rows, h.from_row(n), b, b_hh_ + b * kWidth, tile);
        const T* x_tile = x_gates_ + (b * chunk_rows_ + chunk_row + n) * kWidth;
        for (int64_t row = 0; row < tile_rows; ++row) {
          run_cell(step, b, n + row, x_tile + row * kWidth, tile + row * kWidth, h.data + (n + row) * h.row_stride);
        }
      });
    });
  }

  // One row of the batch and one block of units, from gate pre-activations to the new state.
  void run_cell(int64_t step, int64_t block, int64_t n, const T* x_gates, const T* r_gates, const T* old_h) {
    const int64_t H = shape_.hidden, row = schedule_.offset(step) + n;
    const T* old_state[kStates] = {old_h};
    T* new_state[kStates] = {h_row(row, n)};
    for (int k = 1; k < kStates; ++k) {
      const bool fresh = n >= schedule_.continuing(step);
      if (!problem_.training) {
        old_state[k] = new_state[k] = final_state(k) + n * H;
      } else {
        old_state[k] = fresh ? initial(k) + n * H : all_states(k) + (schedule_.offset(step - 1) + n) * H;
        new_state[k] = all_states(k) + row * H;
      }
    }
    T* saved_row = problem_.training ? static_cast<T*>(own_.saved) + row * Cell::kSaved * H : nullptr;
    for (int64_t vector = 0; vector < kUnitVectors<Cell>; ++vector) {
      const int64_t unit = block * kBlockUnits + vector * V::kLanes, lanes = H - unit;
      if (lanes <= 0) return;
      Pack<V, kGates> x, r;
      RNNKERN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        x[g] = V::load(x_gates + g * kBlockUnits + vector * V::kLanes);
        r[g] = V::load(r_gates + g * kBlockUnits + vector * V::kLanes);
      }
      Pack<V, kStates> state;
      RNNKERN_UNROLL
      for (int k = Cell::kDirectH ? 0 : 1; k < kStates; ++k) state[k] = load_units(old_state[k] + unit, lanes);
      Pack<V, Cell::kSaved> saved;
      Cell::forward(x, r, state, saved);
      RNNKERN_UNROLL
      for (int k = 0; k < kStates; ++k) store_units(state[k], new_state[k] + unit, lanes);
      if (saved_row == nullptr) continue;
      RNNKERN_UNROLL
      for (int k = 0; k < Cell::kSaved; ++k) store_units(saved[k], saved_row + k * H + unit, lanes);
    }
  }

  // Where the cell's h goes: the output, or with a projection the place that it is projected from.
  T* h_row(int64_t row, int64_t n) const {
    if (shape_.projection == 0) return y_ + row * y_stride_;
    return problem_.training ? static_cast<T*>(own_.unprojected) + row * shape_.hidden
                             : unprojected_ + n * shape_.hidden;
  }

  void project_output(int64_t step, Range rows, Range y_blocks) {
    constexpr int kPlainRows = kTileRows<kPlainColumns>;
    alignas(64) static constexpr T kNoBias[kPlainWidth<T>] = {};
    alignas(64) T tile[kPlainRows * kPlainWidth<T>];
    const int64_t first = schedule_.offset(step);
    const LeftMatrix<T> h{h_row(first, 0), shape_.hidden, 1};
    for (int64_t b = y_blocks.begin; b < y_blocks.end; ++b) {
      for_tiles(rows, w_hr_.tile_rows(), [&](int64_t n, int64_t tile_rows) {
        w_hr_.multiply(tile_rows, h.from_row(n), b, kNoBias, tile);
        for (int64_t row = 0; row < tile_rows; ++row) {
          T* out = y_ + (first + n + row) * y_stride_;
          for_plain_vectors(shape_.projection, b, tile + row * kPlainWidth<T>,
                            [&](int64_t column, int64_t lanes, V value) { store_units(value, out + column, lanes); });
        }
      });
    }
  }

  // Final states: what each row of the batch had at its own last step.
  void finish() {
    const Range mine = share(shape_.batch, team_.rank, team_.size);
    for (int64_t step = shape_.steps - 1; step >= 0; --step) {
      const Range ended = intersect(mine, {schedule_.continuing(step + 1), schedule_.active(step)});
      const int64_t row = schedule_.offset(step);
      for (int64_t n = ended.begin; n < ended.end; ++n) {
        const T* h = y_ + (row + n) * y_stride_;
        std::copy(h, h + shape_.output(), final_state(0) + n * shape_.output());
        for (int k = 1; k < kStates && problem_.training; ++k) {
          const T* state = all_states(k) + (row + n) * shape_.hidden;
          std::copy(state, state + shape_.hidden, final_state(k) + n * shape_.hidden);
        }
      }
      if (schedule_.active(step) == shape_.batch) return;
    }
  }

  const ForwardProblem& problem_;
  const Shape& shape_;
  const ForwardDirection& own_;
  const Schedule schedule_;
  const Team team_;
  TransposedMatrix<T, kColumns> w_ih_, w_hh_;
  TransposedMatrix<T, kPlainColumns> w_hr_;
  const T* const x_;
  T* const y_;
  const int64_t y_stride_;

  size_t scratch_bytes_ = 0;
  int64_t chunk_rows_ = 0;
  T *b_ih_ = nullptr, *b_hh_ = nullptr;
  T* x_gates_ = nullptr;
  T* unprojected_ = nullptr;  // [N, H]
};
