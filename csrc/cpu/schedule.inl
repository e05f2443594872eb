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

inline int64_t steps_alive(const Schedule& schedule, const Chunk& chunk, int64_t row) {
  int64_t count = 0;
  for (int64_t s = chunk.steps.begin; s < chunk.steps.end; ++s) count += schedule.active(s) > row;
  return count;
}

inline int64_t batch_boundary(const Schedule& schedule, const Chunk& chunk, int part, int parts) {
  if (part == parts) return schedule.batch();
  const int64_t wanted = chunk.rows.size() * part / parts;
  const int64_t least = std::min(schedule.active(chunk.steps.begin), schedule.active(chunk.steps.end - 1));
  const int64_t steps = chunk.steps.size();
  if (wanted <= least * steps) return wanted / steps;  // rows alive in every step of the chunk
  int64_t covered = least * steps, row = least;
  for (; covered < wanted && row < schedule.batch(); ++row) covered += steps_alive(schedule, chunk, row);
  return row;
}

// This member's rows of the batch, so that each member gets the same share of a chunk's rows.
inline Range share_batch(const Schedule& schedule, const Chunk& chunk, const Team& team) {
  return {batch_boundary(schedule, chunk, team.rank, team.size),
          batch_boundary(schedule, chunk, team.rank + 1, team.size)};
}

// How a team divides a chunk. By batch, each member runs the chunk's steps alone on its rows and reads all weights;
// with too few rows or steps for that, each member owns hidden units and they meet at a barrier after every product.
struct Division {
  bool by_batch;
  Range batch;  // this member's rows

  // packed_ahead: whether the recurrent weights are. Else a member would read all of them as they are, or pack them all.
  static Division choose(const Schedule& schedule, const Chunk& chunk, const Team& team, bool packed_ahead) {
    constexpr int64_t kRowsPerMember = 8;  // fewer would stream the weights for too little work
    const bool by_batch = packed_ahead && chunk.rows.size() >= kRowsPerMember * team.size * chunk.steps.size();
    if (team.size == 1 || !by_batch) return {team.size == 1, {0, INT64_MAX}};
    return {true, share_batch(schedule, chunk, team)};
  }
  Range blocks(int64_t count, const Team& team) const {
    return by_batch ? Range{0, count} : share(count, team.rank, team.size);
  }
  void sync(const Team& team) const {
    if (!by_batch) team.sync();
  }
};
