// Backward over one direction: forward's story told in reverse. Included inside an instruction set's namespace.
//
// Between two steps stands a boundary: the gate gradients of the later step, times W_hh, become the gradient of the
// earlier step's output, and the earlier step's cell runs backward on it while it is still in registers' reach. After
// a chunk of steps its gate gradients feed dx, dW and db, so they never exist for the whole sequence.

template <class Cell, class T>
class BackwardPass {
  using V = Vec<T>;

  // At least `count`, and an odd number of cache lines: a column of such rows spreads over all sets of a cache.
  static int64_t odd_lines(int64_t count) {
    constexpr int64_t kLine = 64 / sizeof(T);
    return (ceil_div(count, kLine) | 1) * kLine;
  }

  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates;
  static constexpr int kRows = kTileRows<kPlainColumns>;
  static constexpr int64_t kWidth = kPlainWidth<T>;

 public:
  BackwardPass(const BackwardProblem& problem, int direction, Team team, void* scratch)
      : shape_(problem.shape),
        own_(problem.direction[direction]),
        schedule_(problem.shape, direction == 1),
        team_(team),
        gate_rows_(kGates * shape_.hidden),
        gate_stride_(odd_lines(gate_rows_)),
        w_ih_(own_.weights.w_ih, gate_rows_, shape_.input, shape_.rows, 1),
        w_hh_(own_.weights.w_hh, gate_rows_, shape_.output(), shape_.batch, shape_.steps),
        w_hr_(own_.weights.w_hr, shape_.projection, shape_.hidden, shape_.batch, shape_.steps),
        x_(static_cast<const T*>(problem.x)),
        y_(static_cast<const T*>(problem.y) + direction * shape_.output()),
        dy_(static_cast<const T*>(problem.dy) + direction * shape_.output()),
        y_stride_(shape_.directions * shape_.output()) {
    lay_out(scratch);
  }

  // Of the whole scratch; known also when it was laid out at nullptr.
  size_t scratch_bytes() const { return scratch_bytes_; }

  void run() {
    pack();
    team_.sync();
    for (int64_t end = shape_.steps; end > 0;) {
      const Chunk chunk = schedule_.chunk_until(end, chunk_rows_);
      const Division division = Division::choose(schedule_, chunk, team_, w_hh_.shared());
      for (int64_t step = end; step > chunk.steps.begin; --step) run_boundary(step, chunk, division);
      if (division.by_batch) team_.sync();
      weight_gradients(chunk, end == shape_.steps);
      if (own_.dx != nullptr) input_gradient(chunk);
      carry(chunk);
      team_.sync();
      end = chunk.steps.begin;
    }
    if (!own_.dh_wanted) return;
    const Chunk start{{0, 0}, {0, 0}};
    run_boundary(0, start, {team_.size == 1, {0, INT64_MAX}});
  }

 private:
  void lay_out(void* base) {
    Arena arena(base);
    constexpr int64_t kChunkBytes = 1 << 20, kLeastChunkRows = 512;
    const int64_t row_bytes = gate_rows_ * static_cast<int64_t>(sizeof(T));
    chunk_rows_ = std::max(kLeastChunkRows, kChunkBytes * team_.size / row_bytes);
    chunk_rows_ = std::min(shape_.rows, std::max(shape_.batch, chunk_rows_));
    const bool projected = shape_.projection > 0;
    // One chunk, however many threads the team turns out to have.
    if (shape_.rows <= std::max(shape_.batch, kLeastChunkRows / 2)) w_ih_.go_through_once();
    if (shape_.steps == 1) w_hh_.go_through_once();
    w_hh_.lay_out(arena, team_.rank, team_.size);
    if (own_.dx != nullptr) w_ih_.lay_out(arena, team_.rank, team_.size);
    if (projected) w_hr_.lay_out(arena, team_.rank, team_.size);
    dx_gates_ = arena.take<T>(chunk_rows_ * gate_stride_);
    dr_gates_ = Cell::kSplitGates ? arena.take<T>(chunk_rows_ * gate_stride_) : dx_gates_;
    carried_ = arena.take<T>(shape_.batch * gate_stride_);
    if (projected) dout_ = arena.take<T>(chunk_rows_ * shape_.projection);
    const int64_t right_blocks = std::max({w_ih_.blocks(), w_hh_.blocks(), projected ? w_hr_.blocks() : 0});
    right_ = arena.take<T>(right_blocks * kWidth * chunk_rows_);
    scratch_bytes_ = arena.used();
  }

  const T* initial(int state) const { return static_cast<const T*>(own_.initial[state]); }
  const T* all_states(int state) const { return static_cast<const T*>(own_.states[state]); }
  T* dstate(int state) const { return static_cast<T*>(own_.dstate[state]); }

  void pack() {
    const bool recurrent = own_.dh_wanted || shape_.steps > 1;
    if (recurrent) w_hh_.pack(share(w_hh_.blocks(), team_.rank, team_.size));
    if (own_.dx != nullptr) w_ih_.pack(share(w_ih_.blocks(), team_.rank, team_.size));
    if (shape_.projection > 0) w_hr_.pack(share(w_hr_.blocks(), team_.rank, team_.size));
  }

  // From step `step` to the one before it. Rows [0, continuing) belong to both; further rows of `step` started there,
  // so what reaches them is the gradient of their initial state; further rows of the earlier step ended there.
  void run_boundary(int64_t step, const Chunk& chunk, const Division& division) {
    const int64_t continuing = schedule_.continuing(step);
    const Range both = intersect(division.batch, {0, continuing});
    const Range started = intersect(division.batch, {continuing, schedule_.active(step)});
    const Range ended = intersect(division.batch, {continuing, schedule_.active(step - 1)});
    const T* gates = step == chunk.steps.end || step == 0
                         ? carried_
                         : dr_gates_ + (schedule_.offset(step) - chunk.rows.begin) * gate_stride_;
    const Range blocks = division.blocks(w_hh_.blocks(), team_);
    if (own_.dh_wanted)
      recurrent_product(step, started, blocks, gates, [&](int64_t n, int64_t column, int64_t lanes, V value) {
        T* p = dstate(0) + n * shape_.output() + column;
        store_units(Cell::kDirectH ? value + load_units(p, lanes) : value, p, lanes);
      });
    if (step == 0) return;
    if (shape_.projection > 0) {
      gather_output_gradient(step - 1, chunk, both, ended, blocks, gates);
      division.sync(team_);
      run_projected_cells(step - 1, chunk, intersect(division.batch, {0, schedule_.active(step - 1)}), division);
    } else {
      run_cells(step - 1, chunk, both, ended, blocks, gates);
    }
    division.sync(team_);
  }

  // body(n, column, lanes, value) for value = gates[n] * W_hh.
  template <class Body>
  void recurrent_product(int64_t step, Range rows, Range blocks, const T* gates, const Body& body) const {
    if (rows.begin >= rows.end) return;
    alignas(64) T tile[kRows * kWidth];
    const LeftMatrix<T> left{gates, gate_stride_, 1};
    for_blocks(blocks, step, [&](int64_t b) {
      w_hh_.open(b);
      for_tiles(rows, w_hh_.tile_rows(), [&](int64_t n, int64_t tile_rows) {
        w_hh_.multiply(tile_rows, left.from_row(n), b, tile);
        for (int64_t row = 0; row < tile_rows; ++row) {
          for_plain_vectors(shape_.output(), b, tile + row * kWidth,
                            [&](int64_t column, int64_t lanes, V value) { body(n + row, column, lanes, value); });
        }
      });
    });
  }

  void run_cells(int64_t step, const Chunk& chunk, Range both, Range ended, Range blocks, const T* gates) {
    const T* dy = dy_ + schedule_.offset(step) * y_stride_;
    const auto from_output = [&](int64_t n, int64_t unit, int64_t lanes) {
      return load_units(dy + n * y_stride_ + unit, lanes);
    };
    const auto from_later_h = [&](int64_t n, int64_t unit, int64_t lanes) {
      return load_units(dstate(0) + n * shape_.hidden + unit, lanes);
    };
    recurrent_product(step, both, blocks, gates, [&](int64_t n, int64_t unit, int64_t lanes, V value) {
      V dh = value + from_output(n, unit, lanes);
      if constexpr (Cell::kDirectH) dh = dh + from_later_h(n, unit, lanes);
      run_cell(step, chunk, n, unit, lanes, dh);
    });
    const int64_t last = std::min(shape_.hidden, blocks.end * kWidth);
    for (int64_t n = ended.begin; n < ended.end; ++n) {
      for (int64_t unit = blocks.begin * kWidth; unit < last; unit += V::kLanes) {
        const int64_t lanes = last - unit;
        run_cell(step, chunk, n, unit, lanes, from_output(n, unit, lanes) + from_later_h(n, unit, lanes));
      }
    }
  }

  // With a projection: dout_ = gradient of the projected output.
  void gather_output_gradient(int64_t step, const Chunk& chunk, Range both, Range ended, Range blocks, const T* gates) {
    const int64_t P = shape_.projection;
    const T* dy = dy_ + schedule_.offset(step) * y_stride_;
    T* out = dout_ + (schedule_.offset(step) - chunk.rows.begin) * P;
    recurrent_product(step, both, blocks, gates, [&](int64_t n, int64_t column, int64_t lanes, V value) {
      store_units(value + load_units(dy + n * y_stride_ + column, lanes), out + n * P + column, lanes);
    });
    const int64_t last = std::min(P, blocks.end * kWidth);
    for (int64_t n = ended.begin; n < ended.end; ++n) {
      for (int64_t column = blocks.begin * kWidth; column < last; ++column) {
        out[n * P + column] = dy[n * y_stride_ + column] + dstate(0)[n * P + column];
      }
    }
  }

  void run_projected_cells(int64_t step, const Chunk& chunk, Range rows, const Division& division) {
    alignas(64) T tile[kRows * kWidth];
    const int64_t P = shape_.projection;
    const LeftMatrix<T> left{dout_ + (schedule_.offset(step) - chunk.rows.begin) * P, P, 1};
    const Range blocks = division.blocks(w_hr_.blocks(), team_);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      for_tiles(rows, w_hr_.tile_rows(), [&](int64_t n, int64_t tile_rows) {
        w_hr_.multiply(tile_rows, left.from_row(n), b, tile);
        for (int64_t row = 0; row < tile_rows; ++row) {
          for_plain_vectors(shape_.hidden, b, tile + row * kWidth, [&](int64_t unit, int64_t lanes, V value) {
            run_cell(step, chunk, n + row, unit, lanes, value);
          });
        }
      });
    }
  }

  // One vector of units of one row, from the full gradient dh of its new h to gate gradients.
  void run_cell(int64_t step, const Chunk& chunk, int64_t n, int64_t unit, int64_t lanes, V dh) {
    const int64_t H = shape_.hidden, row = schedule_.offset(step) + n;
    const bool fresh = n >= schedule_.continuing(step);
    const int64_t old_row = fresh ? 0 : schedule_.offset(step - 1) + n;
    Pack<V, kStates> old_state, new_state, dstates;
    if constexpr (Cell::kDirectH) {
      old_state[0] = load_units((fresh ? initial(0) + n * H : y_ + old_row * y_stride_) + unit, lanes);
    }
    new_state[0] = load_units(new_h(row) + unit, lanes);
    dstates[0] = dh;
    RNNKERN_UNROLL
    for (int k = 1; k < kStates; ++k) {
      old_state[k] = load_units((fresh ? initial(k) + n * H : all_states(k) + old_row * H) + unit, lanes);
      new_state[k] = load_units(all_states(k) + row * H + unit, lanes);
      dstates[k] = load_units(dstate(k) + n * H + unit, lanes);
    }
    if (kStates > 1 && own_.dstates[1] != nullptr) {
      RNNKERN_UNROLL
      for (int k = 1; k < kStates; ++k) {
        dstates[k] = dstates[k] + load_units(static_cast<const T*>(own_.dstates[k]) + row * H + unit, lanes);
      }
    }
    Pack<V, Cell::kSaved> saved;
    RNNKERN_UNROLL
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] = load_units(static_cast<const T*>(own_.saved) + (row * Cell::kSaved + k) * H + unit, lanes);
    }
    Pack<V, kGates> dx, dr;
    Cell::backward(saved, old_state, new_state, dstates, dx, dr);
    RNNKERN_UNROLL
    for (int k = Cell::kDirectH ? 0 : 1; k < kStates; ++k) {
      store_units(dstates[k], dstate(k) + n * H + unit, lanes);
    }
    const int64_t gates = (row - chunk.rows.begin) * gate_stride_ + unit;
    RNNKERN_UNROLL
    for (int g = 0; g < kGates; ++g) {
      store_units(dx[g], dx_gates_ + gates + g * H, lanes);
      if constexpr (Cell::kSplitGates) store_units(dr[g], dr_gates_ + gates + g * H, lanes);
    }
  }

  const T* new_h(int64_t row) const {
    return shape_.projection > 0 ? static_cast<const T*>(own_.unprojected) + row * shape_.hidden : y_ + row * y_stride_;
  }

  // dW and db of the chunk's steps; the first chunk sets them, the others add. Each member owns rows of the weights.
  void weight_gradients(const Chunk& chunk, bool first) {
    const int64_t count = chunk.rows.size();
    bias_gradient(dx_gates_, count, first, own_.db_ih);
    bias_gradient(dr_gates_, count, first, own_.db_hh);
    if (own_.dw_ih != nullptr) {
      pack_right(chunk, shape_.input,
                 [&](int64_t step, int64_t n) { return x_ + (schedule_.offset(step) + n) * shape_.input; });
      outer_product({dx_gates_, 1, gate_stride_}, gate_rows_, count, shape_.input, first, own_.dw_ih);
    }
    if (own_.dw_hh != nullptr) {
      pack_right(chunk, shape_.output(), [&](int64_t step, int64_t n) {
        return n < schedule_.continuing(step) ? y_ + (schedule_.offset(step - 1) + n) * y_stride_
                                              : initial(0) + n * shape_.output();
      });
      outer_product({dr_gates_, 1, gate_stride_}, gate_rows_, count, shape_.output(), first, own_.dw_hh);
    }
    if (own_.dw_hr != nullptr) {
      pack_right(chunk, shape_.hidden, [&](int64_t step, int64_t n) { return new_h(schedule_.offset(step) + n); });
      outer_product({dout_, 1, shape_.projection}, shape_.projection, count, shape_.hidden, first, own_.dw_hr);
    }
  }

  Range my_tiles(int64_t rows) const { return share(ceil_div(rows, kRows), team_.rank, team_.size); }

  void bias_gradient(const T* gates, int64_t count, bool first, void* db) const {
    if (db == nullptr) return;
    const Range tiles = my_tiles(gate_rows_);
    const int64_t end = std::min(tiles.end * kRows, gate_rows_);
    for (int64_t gate = tiles.begin * kRows; gate < end; gate += V::kLanes) {
      const int64_t lanes = end - gate;
      T* out = static_cast<T*>(db) + gate;
      // Sums of a few rows, added up with Kahan's compensation: there may be very many rows.
      V sum = first ? V(0) : load_units(out, lanes), lost = V(0);
      for_tiles({0, count}, 16, [&](int64_t row, int64_t rows) {
        V part = V(0);
        for (int64_t k = row; k < row + rows; ++k) part = part + load_units(gates + k * gate_stride_ + gate, lanes);
        part = part - lost;
        const V next = sum + part;
        lost = (next - sum) - part;
        sum = next;
      });
      store_units(sum, out, lanes);
    }
  }

  // right_ [block], as a product takes it: rows row(step, n) of the chunk, in the order of the sequence.
  template <class Row>
  void pack_right(const Chunk& chunk, int64_t columns, const Row& row) {
    const int64_t count = chunk.rows.size();
    const Range mine = share(ceil_div(columns, kWidth), team_.rank, team_.size);
    for (int64_t step = chunk.steps.begin; step < chunk.steps.end; ++step) {
      const int64_t first = schedule_.offset(step) - chunk.rows.begin;
      for (int64_t b = mine.begin; b < mine.end; ++b) {
        pack_plain<T>([&](int64_t k) { return row(step, k - first); }, {first, first + schedule_.active(step)}, count,
                      columns, b, right_ + b * count * kWidth);
      }
    }
    team_.sync();
  }

  // dw [rows, columns] (+)= left * right_, left being [rows, count].
  void outer_product(LeftMatrix<T> left, int64_t rows, int64_t count, int64_t columns, bool first, void* dw) {
    const Range tiles = my_tiles(rows);
    // What a group of tiles reads of left stays in the L2 while all of right_ goes by.
    constexpr int64_t kGroupBytes = 128 << 10;
    const int64_t fit = kGroupBytes / (kRows * count * static_cast<int64_t>(sizeof(T)));
    // So few that right_ would go by too often: then the other way round, a block of right_ stays.
    const int64_t most = fit < 4 ? std::max<int64_t>(1, tiles.size()) : fit;
    for_tiles(tiles, most, [&](int64_t tile, int64_t group) {
      for (int64_t b = 0; b < ceil_div(columns, kWidth); ++b) {
        for (int64_t row = tile * kRows; row < std::min(rows, (tile + group) * kRows); row += kRows) {
          outer_tile(left.from_row(row), std::min<int64_t>(kRows, rows - row), count, columns, b, first,
                     static_cast<T*>(dw) + row * columns);
        }
      }
    });
    team_.sync();
  }

  // One block of columns of outer_product, of at most kRows rows.
  void outer_tile(LeftMatrix<T> left, int64_t rows, int64_t count, int64_t columns, int64_t block, bool first,
                  T* dw) const {
    alignas(64) T tile[kRows * kWidth];
    const T* right = right_ + block * count * kWidth;
    // By the end of the product it has come from wherever it is.
    for (int64_t row = 0; row < rows && !first; ++row) {
      prefetch(dw + row * columns + block * kWidth, std::min(kWidth, columns - block * kWidth));
    }
    product<T, kPlainColumns, kGradientDepthBlock>(rows, left, count, right, nullptr, tile);
    for (int64_t row = 0; row < rows; ++row) {
      T* out = dw + row * columns;
      for_plain_vectors(columns, block, tile + row * kWidth, [&](int64_t column, int64_t lanes, V value) {
        store_units(first ? value : value + load_units(out + column, lanes), out + column, lanes);
      });
    }
  }

  void input_gradient(const Chunk& chunk) {
    alignas(64) T tile[kRows * kWidth];
    const int64_t count = chunk.rows.size();
    const bool by_rows = w_ih_.shared();
    const Range rows = by_rows ? share(count, team_.rank, team_.size) : Range{0, count};
    const Range blocks = by_rows ? Range{0, w_ih_.blocks()} : share(w_ih_.blocks(), team_.rank, team_.size);
    const LeftMatrix<T> gates{dx_gates_, gate_stride_, 1};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      w_ih_.open(b);
      for_tiles(rows, w_ih_.tile_rows(), [&](int64_t first, int64_t tile_rows) {
        w_ih_.multiply(tile_rows, gates.from_row(first), b, tile);
        for (int64_t row = 0; row < tile_rows; ++row) {
          T* out = static_cast<T*>(own_.dx) + (chunk.rows.begin + first + row) * shape_.input;
          for_plain_vectors(shape_.input, b, tile + row * kWidth,
                            [&](int64_t column, int64_t lanes, V value) { store_units(value, out + column, lanes); });
        }
      });
    }
  }

  // Keeps the gate gradients of the chunk's first step for the boundary before it.
  void carry(const Chunk& chunk) {
    const int64_t step = chunk.steps.begin;
    const Range mine = share(schedule_.active(step), team_.rank, team_.size);
    const T* gates = dr_gates_ + (schedule_.offset(step) - chunk.rows.begin) * gate_stride_;
    std::copy(gates + mine.begin * gate_stride_, gates + mine.end * gate_stride_, carried_ + mine.begin * gate_stride_);
  }

  const Shape& shape_;
  const BackwardDirection& own_;
  const Schedule schedule_;
  const Team team_;
  const int64_t gate_rows_, gate_stride_;  // G*H, and the distance of two rows of gate gradients
  PlainMatrix<T> w_ih_, w_hh_, w_hr_;
  const T *const x_, *const y_, *const dy_;
  const int64_t y_stride_;

  size_t scratch_bytes_ = 0;
  int64_t chunk_rows_ = 0;
  T *dx_gates_ = nullptr, *dr_gates_ = nullptr;  // [row of the chunk, gate_stride]; one array unless kSplitGates
  T* carried_ = nullptr;                         // [N, gate_stride]
  T* dout_ = nullptr;                            // [row of the chunk, P]
  T* right_ = nullptr;                           // the weight gradients' right-hand operand
};
