// Who does what when. Included inside an instruction set's namespace.

// The members of one direction's team.
struct Team {
  int rank, size;
  Barrier* barrier;

  void sync() const { barrier->wait(size); }
};

// The directions of a layer run side by side where the threads divide evenly, else one after the other.
struct TeamSplit {
  int teams, team_size;

  TeamSplit(int directions, int threads)
      : teams(threads % directions == 0 ? directions : 1), team_size(threads / teams) {}
};

inline int most_teams(int directions, int threads) { return threads >= directions ? directions : 1; }

// Consecutive steps handled together, and the rows of the sequence they cover, contiguous in memory.
struct Chunk {
  Range steps;
  Range rows;
};

// Steps in the order in which a direction runs them: step s is time step s, or T - 1 - s in reverse.
class Schedule {
 public:
  Schedule(const Shape& shape, bool reverse) : shape_(shape), reverse_(reverse) {}

  int64_t time(int64_t step) const { return reverse_ ? shape_.steps - 1 - step : step; }
  // Rows alive at a step; 0 before the first and after the last.
  int64_t active(int64_t step) const { return step < 0 || step >= shape_.steps ? 0 : shape_.active[time(step)]; }
  // Rows [0, continuing) of a step carry on from the step before, the rest start at their initial state.
  int64_t continuing(int64_t step) const { return std::min(active(step - 1), active(step)); }
  // First row of a step within the sequence.
  int64_t offset(int64_t step) const { return shape_.offsets[time(step)]; }

  Chunk chunk(Range steps) const {
    const int64_t low = std::min(time(steps.begin), time(steps.end - 1));
    const int64_t high = std::max(time(steps.begin), time(steps.end - 1));
    return {steps, {shape_.offsets[low], shape_.offsets[high + 1]}};
  }
  // The chunk that starts, or ends, at a step: as many steps as fit into `rows`, at least one.
  Chunk chunk_from(int64_t step, int64_t rows) const {
    int64_t end = step + 1;
    for (int64_t sum = active(step); end < shape_.steps && sum + active(end) <= rows; ++end) sum += active(end);
    return chunk({step, end});
  }
  Chunk chunk_until(int64_t end, int64_t rows) const {
    int64_t begin = end - 1;
    for (int64_t sum = active(begin); begin > 0 && sum + active(begin - 1) <= rows; --begin) sum += active(begin - 1);
    return chunk({begin, end});
  }

  // Splits the batch so that each member of a team gets the same share of a chunk's rows.
  Range share_batch(const Chunk& chunk, int rank, int size) const {
    return {batch_boundary(chunk, rank, size), batch_boundary(chunk, rank + 1, size)};
  }

 private:
  int64_t batch_boundary(const Chunk& chunk, int part, int parts) const {
    if (part == parts) return shape_.batch;
    const int64_t wanted = (chunk.rows.end - chunk.rows.begin) * part / parts;
    const int64_t least = std::min(active(chunk.steps.begin), active(chunk.steps.end - 1));
    const int64_t steps = chunk.steps.end - chunk.steps.begin;
    if (wanted <= least * steps) return wanted / steps;  // rows alive in every step of the chunk
    int64_t covered = least * steps, row = least;
    for (; covered < wanted && row < shape_.batch; ++row) covered += steps_alive(chunk, row);
    return row;
  }
  int64_t steps_alive(const Chunk& chunk, int64_t row) const {
    int64_t count = 0;
    for (int64_t s = chunk.steps.begin; s < chunk.steps.end; ++s) count += active(s) > row;
    return count;
  }

  const Shape& shape_;
  bool reverse_;
};

// How a team divides a chunk. By batch, each member runs the chunk's steps alone on its rows; with too few rows for
// that, each member owns hidden units and they meet at a barrier after every product.
struct Division {
  bool by_batch;
  Range batch;  // this member's rows

  static Division choose(const Schedule& schedule, const Chunk& chunk, const Team& team) {
    constexpr int64_t kRowsPerMember = 4;  // fewer would stream the weights for too little work
    const int64_t steps = chunk.steps.end - chunk.steps.begin;
    const bool by_batch = chunk.rows.end - chunk.rows.begin >= kRowsPerMember * team.size * steps;
    if (team.size == 1 || !by_batch) return {team.size == 1, {0, INT64_MAX}};
    return {true, schedule.share_batch(chunk, team.rank, team.size)};
  }
  Range blocks(int64_t count, const Team& team) const {
    return by_batch ? Range{0, count} : share(count, team.rank, team.size);
  }
  void sync(const Team& team) const {
    if (!by_batch) team.sync();
  }
};
