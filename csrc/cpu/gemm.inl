// Matrix products. Included inside an instruction set's namespace.
//
// The right-hand matrix is packed into blocks of width = columns * kLanes, zero beyond its last column, and a block into
// panels [k][kPanelColumns * kLanes], one after the other. A product fills a dense tile [rows][width] of at most
// kTileRows rows; what becomes of it is the caller's business.

inline constexpr int kPlainColumns = 4;  // vectors across a block whose columns are not grouped by gates

template <class T>
inline constexpr int64_t kPlainWidth = kPlainColumns * Vec<T>::kLanes;

// Vectors across a panel. Accumulators of many rows and few columns read the least of the right-hand matrix.
template <int kColumns>
inline constexpr int kPanelColumns = kColumns % kPanelVectors == 0 ? kPanelVectors : kColumns;

template <int kColumns>
inline constexpr int kTileRows = std::min(8, kAccumulators / kPanelColumns<kColumns>);

inline Range share(int64_t count, int rank, int size) { return {count * rank / size, count * (rank + 1) / size}; }

// The left-hand matrix: element (row, k) at data[row * row_stride + k * k_stride].
template <class T>
struct LeftMatrix {
  const T* data;
  int64_t row_stride, k_stride;

  LeftMatrix from_row(int64_t row) const { return {data + row * row_stride, row_stride, k_stride}; }
};

// out[row][column] = addend[row][column] + sum over k < depth of a(row, k) * panel(column)[k], for rows of kPanels panels;
// no addend if nullptr. panel_stride is the distance of two panels; rows of out are out_stride apart. out may be addend;
// it overlaps nothing else.
template <class T, int kColumns, int kPanels, int kRows>
[[gnu::noinline]] void product_tile(LeftMatrix<T> a, int64_t depth, const T* panel, int64_t panel_stride,
                                    const T* addend, int64_t addend_stride, T* out, int64_t out_stride) {
  using V = Vec<T>;
  constexpr int kAcross = kPanels * kColumns;
  V sum[kRows][kAcross];
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int column = 0; column < kAcross; ++column) sum[row][column] = V(0);
  }
  const T* left = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    V right[kAcross];
    RNNKERN_UNROLL
    for (int column = 0; column < kAcross; ++column) {
      right[column] = V::load(panel + column / kColumns * panel_stride + column % kColumns * V::kLanes);
    }
    RNNKERN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const V value(left[row * a.row_stride]);
      RNNKERN_UNROLL
      for (int column = 0; column < kAcross; ++column) {
        sum[row][column] = fma(value, right[column], sum[row][column]);
      }
    }
    left += a.k_stride;
    panel += kColumns * V::kLanes;
  }
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int column = 0; column < kAcross; ++column) {
      V value = sum[row][column];
      if (addend != nullptr) value = value + V::load(addend + row * addend_stride + column * V::kLanes);
      value.store(out + row * out_stride + column * V::kLanes);
    }
  }
}

// One running sum over a great depth gathers rounding errors; sums of this many terms, added up, gather far fewer.
// Weight gradients sum over all rows of a sequence, and torch.nn adds theirs up step by step.
inline constexpr int64_t kDepthBlock = 128, kGradientDepthBlock = 32;

// out [rows][width] = start [width] + a * block, for 1 <= rows <= kTileRows; no start if nullptr.
template <class T, int kColumns, int64_t kBlock = kDepthBlock, int kRows = kTileRows<kColumns>>
void product(int64_t rows, LeftMatrix<T> a, int64_t depth, const T* block, const T* start, T* out) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return product<T, kColumns, kBlock, kRows - 1>(rows, a, depth, block, start, out);
  }
  constexpr int kAcross = kPanelColumns<kColumns>;
  constexpr int64_t kWidth = kColumns * Vec<T>::kLanes, kPanelWidth = kAcross * Vec<T>::kLanes;
  constexpr bool kTogether = kRows * kColumns <= kAccumulators;  // few rows have accumulators for all panels
  constexpr int kPanels = kTogether ? kColumns / kAcross : 1;
  for (int64_t k = 0; k == 0 || k < depth; k += kBlock) {  // without depth the start is the sum
    const LeftMatrix<T> rest{a.data + k * a.k_stride, a.row_stride, a.k_stride};
    const T* addend = k == 0 ? start : out;
    for (int64_t column = 0; column < kWidth; column += kPanels * kPanelWidth) {
      product_tile<T, kAcross, kPanels, kRows>(
          rest, std::min(depth - k, kBlock), block + column * depth + k * kPanelWidth, depth * kPanelWidth,
          addend == nullptr ? nullptr : addend + column, k == 0 ? 0 : kWidth, out + column, kWidth);
    }
  }
}

// Where the vector of a column of a block begins at k, in a block of that depth.
template <class T, int kColumns>
T* vector_of_block(T* block, int64_t depth, int64_t k, int column) {
  constexpr int kAcross = kPanelColumns<kColumns>;
  return block + (column / kAcross * depth + k) * kAcross * Vec<T>::kLanes + column % kAcross * Vec<T>::kLanes;
}

// Calls body(first_row, count) over the rows in as few tiles of at most `tile` rows as can be, of nearly equal size.
template <class Body>
void for_tiles(Range rows, int64_t tile, const Body& body) {
  int64_t tiles = ceil_div(rows.end - rows.begin, tile);
  for (int64_t row = rows.begin; tiles > 0; --tiles) {
    const int64_t count = ceil_div(rows.end - row, tiles);
    body(row, count);
    row += count;
  }
}

// Calls body(block), upwards in even steps and downwards in odd ones: the blocks that a step read last are those that
// the next reads first, and are still in the cache.
template <class Body>
void for_blocks(Range blocks, int64_t step, const Body& body) {
  for (int64_t i = blocks.begin; i < blocks.end; ++i) {
    body(step % 2 == 0 ? i : blocks.begin + blocks.end - 1 - i);
  }
}

template <class T>
Vec<T> load_units(const T* p, int64_t lanes) {
  return lanes >= Vec<T>::kLanes ? Vec<T>::load(p) : Vec<T>::load(p, lanes);
}

template <class T>
void store_units(Vec<T> value, T* p, int64_t lanes) {
  lanes >= Vec<T>::kLanes ? value.store(p) : value.store(p, lanes);
}

// Asks for the cache lines of `count` elements.
template <class T>
RNNKERN_HD void prefetch(const T* p, int64_t count) {
#if defined(__GNUC__)
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(p + i);
#endif
}

// rows[i][j] becomes rows[j][i]. An interleave leaves a0 b0 a1 b1 ... in its two vectors, and each round of them doubles
// the number of neighbours that belong together.
template <class T>
void transpose(Vec<T> (&rows)[Vec<T>::kLanes]) {
  constexpr int kLanes = Vec<T>::kLanes;
  RNNKERN_UNROLL
  for (int round = 1; round < kLanes; round *= 2) {
    Vec<T> next[kLanes];
    RNNKERN_UNROLL
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = rows[i];
      next[2 * i + 1] = rows[i + kLanes / 2];
      interleave(next[2 * i], next[2 * i + 1]);
    }
    RNNKERN_UNROLL
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// The same tile as product_tile's, from rows of W as they are: out[row][column] = start + a(row) . w[column], for kDots
// columns. a's k_stride is 1.
inline constexpr int kDots = 4;

template <class T, int kRows>
[[gnu::noinline]] void dot_tile(LeftMatrix<T> a, int64_t depth, const T* const w[kDots], const T* start, T* out,
                                int64_t out_stride) {
  using V = Vec<T>;
  V sum[kRows][kDots];
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int dot = 0; dot < kDots; ++dot) sum[row][dot] = V(0);
  }
  for (int64_t k = 0; k < depth; k += V::kLanes) {
    const int64_t lanes = depth - k;
    V right[kDots];
    RNNKERN_UNROLL
    for (int dot = 0; dot < kDots; ++dot) right[dot] = load_units(w[dot] + k, lanes);
    RNNKERN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const V left = load_units(a.data + row * a.row_stride + k, lanes);
      RNNKERN_UNROLL
      for (int dot = 0; dot < kDots; ++dot) sum[row][dot] = fma(left, right[dot], sum[row][dot]);
    }
  }
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int dot = 0; dot < kDots; ++dot) out[row * out_stride + dot] = start[dot] + reduce_add(sum[row][dot]);
  }
}

inline constexpr int kMostDotRows = kAccumulators / kDots < 4 ? kAccumulators / kDots : 4;

// dot_tile for 1 <= rows <= kMostDotRows.
template <class T, int kRows = kMostDotRows>
void dots(int64_t rows, LeftMatrix<T> a, int64_t depth, const T* const w[kDots], const T* start, T* out,
          int64_t out_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return dots<T, kRows - 1>(rows, a, depth, w, start, out, out_stride);
  }
  dot_tile<T, kRows>(a, depth, w, start, out, out_stride);
}

// Packing a matrix costs about as much as reading it six times.
inline bool worth_packing(int64_t rows, int64_t products) { return ceil_div(rows, kMostDotRows) * products > 6; }

// Bump allocator over the caller's scratch; with a null base it only measures.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* result = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<size_t>(ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64);
    return result;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Where the packed blocks of a right-hand matrix lie, if it is packed: all of them for the whole team, or, where the
// matrix is gone through only once, one for each member, who packs a block when he comes to it.
template <class T>
class Panels {
 public:
  Panels(bool packed, int64_t blocks, int64_t block_size) : packed_(packed), blocks_(blocks), block_size_(block_size) {}

  int64_t blocks() const { return blocks_; }
  // For the team: to be packed before the products, and then there for all.
  bool shared() const { return packed_ && !once_; }
  // Before memory is taken.
  void go_through_once() { once_ = true; }
  void pack_in_any_case() { packed_ = true, once_ = false; }

  void lay_out(Arena& arena, int rank, int size) {
    T* base = arena.take<T>(packed_ ? (once_ ? size : blocks_) * block_size_ : 0);
    base_ = base == nullptr ? nullptr : base + (once_ ? rank * block_size_ : 0);
  }

  bool packed() const { return packed_; }

 protected:
  bool once() const { return packed_ && once_; }
  T* block(int64_t index) const { return once_ ? base_ : base_ + index * block_size_; }

 private:
  bool packed_, once_ = false;
  int64_t blocks_, block_size_;
  T* base_ = nullptr;
};

// W^T as the right-hand matrix of products, W being [groups * units, depth]. A block of its columns holds, group by
// group, the units [block * block_units, (block + 1) * block_units). Packed, unless W would be read too few times.
template <class T, int kColumns>
class TransposedMatrix : public Panels<T> {
 public:
  static constexpr int64_t kWidth = kColumns * Vec<T>::kLanes;
  static constexpr int kRows = kTileRows<kColumns>;

  // The products to come: `products` of them, of `rows` rows each.
  TransposedMatrix(const void* w, int64_t groups, int64_t units, int64_t depth, int64_t rows, int64_t products)
      : Panels<T>(worth_packing(rows, products), ceil_div(units, kWidth / groups), depth * kWidth),
        w_(static_cast<const T*>(w)),
        units_(units),
        depth_(depth),
        block_units_(kWidth / groups) {}

  // The rows that a product should have, so that it reads the block once.
  int64_t tile_rows() const { return this->packed() ? kRows : std::min(kRows, kMostDotRows); }

  void pack(Range blocks) const {
    for (int64_t b = blocks.begin; this->shared() && b < blocks.end; ++b) pack_block(b);
  }
  // Comes before the products with a block.
  void open(int64_t block) const {
    if (this->once()) pack_block(block);
  }

  // out [rows][width] = start [width] + a * block, for 1 <= rows <= kRows.
  void multiply(int64_t rows, LeftMatrix<T> a, int64_t block, const T* start, T* out) const {
    if (this->packed()) return product<T, kColumns>(rows, a, depth_, this->block(block), start, out);
    for (int64_t column = 0; column < kWidth; column += kDots) {
      const T* w[kDots];
      for (int dot = 0; dot < kDots; ++dot) w[dot] = w_row(block, column + dot);
      for_tiles({0, rows}, kMostDotRows, [&](int64_t row, int64_t count) {
        dots<T>(count, a.from_row(row), depth_, w, start + column, out + row * kWidth + column, kWidth);
      });
    }
  }

 private:
  // Beyond the last unit the last one stands in; nobody reads what becomes of it.
  const T* w_row(int64_t block, int64_t column) const {
    const int64_t unit = std::min(block * block_units_ + column % block_units_, units_ - 1);
    return w_ + (column / block_units_ * units_ + unit) * depth_;
  }

  // A vector load takes a whole cache line of a row: rows whose distance is a power of two would evict one another.
  void pack_block(int64_t block) const {
    using V = Vec<T>;
    for (int column = 0; column < kColumns; ++column) {
      const T* w[V::kLanes];
      for (int lane = 0; lane < V::kLanes; ++lane) w[lane] = w_row(block, column * V::kLanes + lane);
      T* out = vector_of_block<T, kColumns>(this->block(block), depth_, 0, column);
      for (int64_t k = 0; k < depth_; k += V::kLanes) {
        V square[V::kLanes];
        RNNKERN_UNROLL
        for (int lane = 0; lane < V::kLanes; ++lane) square[lane] = load_units(w[lane] + k, depth_ - k);
        transpose<T>(square);
        RNNKERN_UNROLL
        for (int lane = 0; lane < V::kLanes; ++lane) {
          if (k + lane < depth_) square[lane].store(out + (k + lane) * kPanelColumns<kColumns> * V::kLanes);
        }
      }
    }
  }

  const T* w_;
  int64_t units_, depth_, block_units_;
};

// A vector of biases [groups * units] (nullptr: zeros), in the order of a TransposedMatrix's block.
template <class T>
void pack_bias(const T* bias, int64_t groups, int64_t units, int64_t block, int64_t block_units, T* packed) {
  for (int64_t column = 0; column < groups * block_units; ++column) {
    const int64_t unit = block * block_units + column % block_units;
    packed[column] = bias != nullptr && unit < units ? bias[column / block_units * units + unit] : T(0);
  }
}

// Packs rows [rows.begin, rows.end) of columns [block * kPlainWidth, ...) of a matrix of `depth` rows whose row k starts
// at row(k).
template <class T, class Row>
void pack_plain(const Row& row, Range rows, int64_t depth, int64_t columns, int64_t block, T* packed) {
  using V = Vec<T>;
  const int64_t first = block * kPlainWidth<T>;
  for (int64_t k = rows.begin; k < rows.end; ++k) {
    const T* source = row(k) + first;
    for (int column = 0; column < kPlainColumns; ++column) {
      const int64_t lanes = std::max<int64_t>(0, std::min<int64_t>(V::kLanes, columns - first - column * V::kLanes));
      const V value = lanes > 0 ? load_units(source + column * V::kLanes, lanes) : V(0);
      value.store(vector_of_block<T, kPlainColumns>(packed, depth, k, column));
    }
  }
}

// One block of product from rows of W [depth, columns] as they are, w pointing at the block's first column: out
// [kRows][width] = addend + a * block, zero beyond the last column. out may be addend.
template <class T, int kRows>
[[gnu::noinline]] void unpacked_tile(LeftMatrix<T> a, int64_t depth, const T* w, int64_t columns, int64_t block_columns,
                                     const T* addend, T* out) {
  using V = Vec<T>;
  V sum[kRows][kPlainColumns];
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int column = 0; column < kPlainColumns; ++column) sum[row][column] = V(0);
  }
  for (int64_t k = 0; k < depth; ++k) {
    RNNKERN_UNROLL
    for (int column = 0; column < kPlainColumns; ++column) {
      const int64_t lanes = block_columns - column * V::kLanes;
      const V right = lanes > 0 ? load_units(w + k * columns + column * V::kLanes, lanes) : V(0);
      RNNKERN_UNROLL
      for (int row = 0; row < kRows; ++row) {
        sum[row][column] = fma(V(a.data[row * a.row_stride + k * a.k_stride]), right, sum[row][column]);
      }
    }
  }
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int column = 0; column < kPlainColumns; ++column) {
      const int64_t place = (row * kPlainColumns + column) * V::kLanes;
      (addend != nullptr ? sum[row][column] + V::load(addend + place) : sum[row][column]).store(out + place);
    }
  }
}

// A matrix W [depth, columns] as the right-hand matrix of products. Packed, unless it would be read too few times.
template <class T>
class PlainMatrix : public Panels<T> {
 public:
  static constexpr int64_t kWidth = kPlainWidth<T>;
  static constexpr int kRows = kTileRows<kPlainColumns>;

  // The products to come: `products` of them, of `rows` rows each.
  PlainMatrix(const void* w, int64_t depth, int64_t columns, int64_t rows, int64_t products)
      : Panels<T>(worth_packing(rows, products), ceil_div(columns, kWidth), depth * kWidth),
        w_(static_cast<const T*>(w)),
        depth_(depth),
        columns_(columns) {}

  // The rows that a product should have, so that it reads the block once.
  int64_t tile_rows() const { return this->packed() ? kRows : std::min(kRows, kMostDotRows); }

  void pack(Range blocks) const {
    for (int64_t b = blocks.begin; this->shared() && b < blocks.end; ++b) pack_block(b);
  }
  // Comes before the products with a block.
  void open(int64_t block) const {
    if (this->once()) pack_block(block);
  }

  // out [rows][width] = a * block, for 1 <= rows <= kRows.
  void multiply(int64_t rows, LeftMatrix<T> a, int64_t block, T* out) const {
    if (this->packed()) return product<T, kPlainColumns>(rows, a, depth_, this->block(block), nullptr, out);
    for_tiles({0, rows}, kMostDotRows, [&](int64_t row, int64_t count) {
      multiply_unpacked<kMostDotRows>(count, a.from_row(row), block, out + row * kWidth);
    });
  }

 private:
  void pack_block(int64_t block) const {
    pack_plain<T>([this](int64_t k) { return w_ + k * columns_; }, {0, depth_}, depth_, columns_, block,
                  this->block(block));
  }

  template <int kTile>
  void multiply_unpacked(int64_t rows, LeftMatrix<T> a, int64_t block, T* out) const {
    if constexpr (kTile > 1) {
      if (rows < kTile) return multiply_unpacked<kTile - 1>(rows, a, block, out);
    }
    const int64_t first = block * kWidth;
    for (int64_t k = 0; k < depth_; k += kDepthBlock) {
      const LeftMatrix<T> rest{a.data + k * a.k_stride, a.row_stride, a.k_stride};
      unpacked_tile<T, kTile>(rest, std::min(depth_ - k, kDepthBlock), w_ + k * columns_ + first, columns_,
                              columns_ - first, k > 0 ? out : nullptr, out);
    }
  }

  const T* w_;
  int64_t depth_, columns_;
};

// Calls body(columns_offset, lanes, vector) over the part of a plain tile's row that lies inside the matrix.
template <class T, class Body>
void for_plain_vectors(int64_t columns, int64_t block, const T* tile_row, const Body& body) {
  using V = Vec<T>;
  const int64_t first = block * kPlainWidth<T>;
  for (int column = 0; column < kPlainColumns; ++column) {
    const int64_t offset = first + column * V::kLanes;
    if (offset >= columns) return;
    body(offset, columns - offset, V::load(tile_row + column * V::kLanes));
  }
}
