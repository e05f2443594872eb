// Packed matrix products: the only place where multiply-adds happen. Included inside an instruction set's namespace.
//
// The right-hand matrix is packed into panels [block][k][width], width = columns * kLanes, zero beyond its last column.
// A product fills a dense tile [rows][width] of at most kTileRows rows; what becomes of the tile is the caller's business.

inline constexpr int kPlainColumns = 4;  // vectors across a panel whose columns are not grouped by gates

template <class T>
inline constexpr int64_t kPlainWidth = kPlainColumns * Vec<T>::kLanes;

template <int kColumns>
inline constexpr int kTileRows = kAccumulators / kColumns < 8 ? kAccumulators / kColumns : 8;

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Half-open range of indices.
struct Range {
  int64_t begin, end;
};

inline Range share(int64_t count, int rank, int size) { return {count * rank / size, count * (rank + 1) / size}; }

inline Range intersect(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// The left-hand matrix: element (row, k) at data[row * row_stride + k * k_stride].
template <class T>
struct LeftMatrix {
  const T* data;
  int64_t row_stride, k_stride;

  LeftMatrix from_row(int64_t row) const { return {data + row * row_stride, row_stride, k_stride}; }
};

// out[row] = start + sum over k < depth of a(row, k) * panel[k]; start is one row [width] for all, or zero if nullptr.
// out [kRows][width] overlaps nothing.
template <class T, int kColumns, int kRows>
__attribute__((noinline)) void product_tile(LeftMatrix<T> a, int64_t depth, const T* panel, const T* start, T* out) {
  using V = Vec<T>;
  V sum[kRows][kColumns];
  RNNKERN_UNROLL
  for (int column = 0; column < kColumns; ++column) {
    const V first = start != nullptr ? V::load(start + column * V::kLanes) : V(0);
    RNNKERN_UNROLL
    for (int row = 0; row < kRows; ++row) sum[row][column] = first;
  }
  const T* left = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    V right[kColumns];
    RNNKERN_UNROLL
    for (int column = 0; column < kColumns; ++column) right[column] = V::load(panel + column * V::kLanes);
    RNNKERN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const V value(left[row * a.row_stride]);
      RNNKERN_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        sum[row][column] = fma(value, right[column], sum[row][column]);
      }
    }
    left += a.k_stride;
    panel += kColumns * V::kLanes;
  }
  RNNKERN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    RNNKERN_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      sum[row][column].store(out + (row * kColumns + column) * V::kLanes);
    }
  }
}

// product_tile for 1 <= rows <= kTileRows<kColumns>.
template <class T, int kColumns, int kRows = kTileRows<kColumns>>
void product(int64_t rows, LeftMatrix<T> a, int64_t depth, const T* panel, const T* start, T* out) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return product<T, kColumns, kRows - 1>(rows, a, depth, panel, start, out);
  }
  product_tile<T, kColumns, kRows>(a, depth, panel, start, out);
}

// Calls body(first_row, count) over the rows in tiles of at most `tile` rows.
template <class Body>
void for_tiles(Range rows, int64_t tile, const Body& body) {
  for (int64_t row = rows.begin; row < rows.end; row += tile) body(row, std::min(tile, rows.end - row));
}

template <class T>
Vec<T> load_units(const T* p, int64_t lanes) {
  return lanes >= Vec<T>::kLanes ? Vec<T>::load(p) : Vec<T>::load(p, lanes);
}

template <class T>
void store_units(Vec<T> value, T* p, int64_t lanes) {
  lanes >= Vec<T>::kLanes ? value.store(p) : value.store(p, lanes);
}

// Packs one block of columns of W^T, W being [groups * units, depth] and the block holding, group by group, the units
// [block * block_units, (block + 1) * block_units).
template <class T>
void pack_transposed(const T* w, int64_t groups, int64_t units, int64_t depth, int64_t block, int64_t block_units,
                     T* panel) {
  constexpr int64_t kDepthTile = 64 / sizeof(T);  // one cache line of each row of W at a time
  const int64_t width = groups * block_units;
  for (int64_t first = 0; first < depth; first += kDepthTile) {
    const int64_t end = std::min(first + kDepthTile, depth);
    for (int64_t column = 0; column < width; ++column) {
      const int64_t unit = block * block_units + column % block_units;
      const T* row = w + (column / block_units * units + unit) * depth;
      for (int64_t k = first; k < end; ++k) panel[k * width + column] = unit < units ? row[k] : T(0);
    }
  }
}

// The same for a vector of biases [groups * units] (nullptr: zeros).
template <class T>
void pack_bias(const T* bias, int64_t groups, int64_t units, int64_t block, int64_t block_units, T* packed) {
  for (int64_t column = 0; column < groups * block_units; ++column) {
    const int64_t unit = block * block_units + column % block_units;
    packed[column] = bias != nullptr && unit < units ? bias[column / block_units * units + unit] : T(0);
  }
}

// Packs rows [rows.begin, rows.end) of columns [block * kPlainWidth, ...) of a matrix whose row k starts at row(k).
template <class T, class Row>
void pack_plain(const Row& row, Range rows, int64_t columns, int64_t block, T* panel) {
  using V = Vec<T>;
  const int64_t first = block * kPlainWidth<T>;
  for (int64_t k = rows.begin; k < rows.end; ++k) {
    const T* source = row(k) + first;
    for (int column = 0; column < kPlainColumns; ++column) {
      const int64_t lanes = std::max<int64_t>(0, std::min<int64_t>(V::kLanes, columns - first - column * V::kLanes));
      const V value = lanes > 0 ? load_units(source + column * V::kLanes, lanes) : V(0);
      value.store(panel + k * kPlainWidth<T> + column * V::kLanes);
    }
  }
}

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
