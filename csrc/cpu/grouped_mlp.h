// The expert layer, forward and backward, each in one parallel region.
#pragma once
#include "grouped_gemm.h"
#include "rowwise.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// ---- forward:   x --gather--> b --w_gate_up--> c --SwiGLU--> act, again a b --w_down--> rows -->
// y
//
// A block of an expert's rows goes all the way to `rows` while it is in a core's cache. Where there
// are too few blocks for the threads, the rows of both weights are divided too, and all wait in
// between. Multiplied are numbers of N, T itself or integers. These are made of a row of act when
// all of it is there.

template <typename T, typename N = T>
struct ForwardMemory {
  using Act = std::conditional_t<kIntegers<N>, float, N>;
  Carver own, shared;
  T* rows;            // [N, H], what the down projection gives
  PackedB<Act> acts;  // one for each block; or, if the columns are not divided, for each thread
  int64_t act;        // elements of one
  PackedB<N> x;
  PackedB<N> integers;  // of act
  Packed<N>* room;      // for integers of one panel
  float* c;

  ForwardMemory(const MlpForward& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    const int64_t most = MostRows(s.plan);
    x = own.TakeB<N>(s.H, most, &s.gate_up);
    integers = own.TakeB<N>(kIntegers<N> ? s.F : 0, most, &s.down);
    room = own.Take<Packed<N>>(kIntegers<N> ? kPanel * Depth(s.H) : 0);
    c = own.Take<float>(2 * kGroup * kBlockRows);
    act = Depth(s.F) * most;
    if (s.plan.parts == 1) {
      acts = own.TakeB<Act>(s.F, most, &s.down);
      act = 0;
    } else {
      acts = shared.TakeB<Act>(s.F, most * s.plan.count);
      acts.room = own.TakeB<Act>(s.F, 0, &s.down).room;  // is each thread's
    }
    rows = shared.Take<T>(s.routing.N * s.H);
  }
};

// SwiGLU of the gate and up rows [f, f + count), into rows k = f of the next b.
template <typename T>
inline void Activate(const float* gate, const float* up, const PackedB<T>& act, int64_t f,
                     int count, const float* row_weights) {
  const int64_t width = act.Width();
  if (act.lines) {
    for (int64_t j = 0; j < act.columns; j++)
      for (int r = 0; r < count; r += kLanes) {
        const V g = Load(gate + j * kGroup + r), u = Load(up + j * kGroup + r);
        const V a = g * Sigmoid(g) * u;
        Store(act.Line(j) + f + r, row_weights ? a * row_weights[j] : a, count - r);
      }
    return;
  }
  auto at = [&](int r, int64_t j) {
    if (r >= count) return V{};
    const V g = Load(gate + r * width + j);
    const V a = g * Sigmoid(g) * Load(up + r * width + j);
    return row_weights ? a * Load(row_weights + j) : a;
  };
  for (int r = 0; r < count; r += kWord<T>)
    for (int64_t j = 0; j < act.Vectors() * kLanes; j += kLanes) {
      V words = at(r, j);
      if constexpr (kPairs<T>) words = Pair(words, at(r + 1, j));
      StoreWords(act.Panel(j / kPanel) + (f + r) * kPanel + j % kPanel * kWord<T>, words);
    }
}

// Zeros behind the last row of b, as far as it is read.
template <typename T>
inline void PadB(const PackedB<T>& b) {
  const int64_t first = b.lines ? b.K : RoundUp(b.K, kWord<T>);
  const int64_t bytes = (Depth(b.K) - first) * int64_t(sizeof(Packed<T>));
  if (b.lines)
    for (int64_t j = 0; j < b.columns; j++) memset(b.Line(j) + first, 0, bytes);
  else
    for (int64_t p = 0; p < b.Panels(); p++) memset(b.Panel(p) + first * kPanel, 0, bytes * kPanel);
}

template <typename T, typename N, typename Act>
void GateUp(const MlpForward& s, const Block& block, int64_t part,
            const ForwardMemory<T, N>& memory, const PackedB<Act>& act) {
  const Span span(s.F, part, s.plan.parts);
  if (span.first == span.last) return;
  const Routing& r = s.routing;
  const int32_t* slots = r.row_to_slot + block.first;
  const PackedB<N> x = memory.x.WithColumns(block.count);
  PackTokens(x, memory.room,
             [&](int64_t j) { return static_cast<const T*>(s.x.data) + slots[j] / r.K * s.x.row; });
  float row_weights[kBlockRows];
  if (s.weight_on_activation)
    for (int64_t j = 0; j < RoundUp(block.count, kPanel); j++)
      row_weights[j] = j < block.count ? s.weights[slots[j]] : 0.0f;

  const Weight<N> weight(s.w_gate_up, s.gate_up, block.expert, 2 * s.F);
  T* pre = s.pre ? static_cast<T*>(s.pre) + 2 * s.F * block.first : nullptr;
  const Places places(span, x.lines ? kStreams / 2 : 1);
  for (int64_t first = span.first; first < span.first + places.step; first += kGroup) {
    Groups<N> groups;  // of gate and up, in turn
    for (int i = 0; i < places.count; i++) {
      groups.Add(weight, first + i * places.step, span.last);
      groups.Add(weight, first + i * places.step, span.last, s.F);
    }
    Product(groups.rows, groups.count, x, memory.c);
    for (int g = 0; g < groups.count; g += 2) {
      const int64_t f = first + g / 2 * places.step;
      const int count = groups.rows[g].count;
      const float *gate = memory.c + g * x.GroupSize(), *up = gate + x.GroupSize();
      Activate(gate, up, act, f, count, s.weight_on_activation ? row_weights : nullptr);
      if (!pre) continue;
      Unpack(gate, x, count, [&](int64_t j) { return pre + j * 2 * s.F + f; });
      Unpack(up, x, count, [&](int64_t j) { return pre + j * 2 * s.F + s.F + f; });
    }
  }
  if (span.last == s.F) PadB(act);
}

template <typename T, typename N, typename Act>
void Down(const MlpForward& s, const Block& block, int64_t part, const ForwardMemory<T, N>& memory,
          const PackedB<Act>& act) {
  const Weight<N> weight(s.w_down, s.down, block.expert, s.H);
  const Span span(s.H, part, s.plan.parts);
  T* rows = memory.rows + block.first * s.H;
  auto multiply = [&](const PackedB<N>& b) {
    MultiplyWeight(weight, span, b, memory.c, [&](int64_t j) { return rows + j * s.H; });
  };
  if constexpr (kIntegers<N>) {
    const PackedB<N> integers = memory.integers.WithColumns(block.count);
    PackIntegers<T>(integers, act);
    multiply(integers);
  } else {
    multiply(act);
  }
}

template <typename T, typename N = T>
void RunMlpForward(const MlpForward& s, Team& team) {
  const TileScope tiles;
  const ForwardMemory<T, N> memory(s, OwnBase(s, team), s.scratch.shared);
  const int64_t parts = s.plan.parts, units = s.plan.count * parts;
  auto act = [&](int64_t block) {
    auto found = memory.acts.WithColumns(s.plan.blocks[block].count);
    found.data += block * memory.act;
    found.lines = memory.x.WithColumns(found.columns).lines;  // x's form gives that of act
    return found;
  };
  for (int64_t i; (i = team.Next()) < units;) {
    GateUp(s, s.plan.blocks[i / parts], i % parts, memory, act(i / parts));
    if (parts == 1) Down(s, s.plan.blocks[i], 0, memory, act(i));
  }
  team.Wait();
  if (parts > 1) {
    for (int64_t i; (i = team.Next()) < units;)
      Down(s, s.plan.blocks[i / parts], i % parts, memory, act(i / parts));
    team.Wait();
  }
  const Matrix rows{memory.rows, s.H, 0};
  SumRows<T>(s.routing, rows, s.weight_on_activation ? nullptr : s.weights, s.H, s.y, team);
}

// ---- backward. With y = w (act D'), so that g = d_y D is the gradient of act but for its weight:
// d_w = g . act, d_act = w g, d_D = d_y' (w act). The output of the down projection is not needed.
//
// First for every block g, SwiGLU's derivative, and d_rows; then, when all rows of an expert are
// there, its weights' gradients, in parts of H; and the sum of d_rows.

template <typename T>
struct BackwardMemory {
  Carver own, shared;
  T* d_rows;               // [N, H]
  T *d_pre_t, *act_t;      // [2F, n] and [F, n] for each expert of n rows
  PackedB<T> b;            // part of the weights
  T *d_out, *d_pre, *act;  // rows of a block: [most, H], [most, 2F], [most, F]
  float* c;
  PackedB<T> tokens;  // x, then d_y

  BackwardMemory(const MlpBackward& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    const int64_t K = s.H > 2 * s.F ? s.H : 2 * s.F;
    b = own.TakeB<T>(K, kColumns);
    const int64_t most = MostRows(s.plan);
    d_out = own.Take<T>(most * s.H);
    d_pre = own.Take<T>(most * 2 * s.F);
    act = own.Take<T>(most * s.F);
    c = own.Take<float>(2 * kGroup * kColumns);
    tokens = own.TakeB<T>(s.d_w_down ? s.plan.longest : 0, kColumns);
    d_rows = shared.Take<T>(s.d_x ? s.routing.N * s.H : 0);
    d_pre_t = shared.Take<T>(s.d_w_down ? s.routing.N * 2 * s.F : 0);
    act_t = shared.Take<T>(s.d_w_down ? s.routing.N * s.F : 0);
  }
};

template <typename T>
void BlockBackward(const MlpBackward& s, const Block& block, const BackwardMemory<T>& memory) {
  const Routing& r = s.routing;
  const int32_t* slots = r.row_to_slot + block.first;
  const int n = block.count,
            padded = kTiles<T> ? RoundUp(n, kGroup) : n;  // tiles take whole groups
  for (int i = 0; i < n; i++)
    memcpy(memory.d_out + i * s.H, static_cast<const T*>(s.d_y.data) + slots[i] / r.K * s.d_y.row,
           s.H * sizeof(T));
  memset(memory.d_out + n * s.H, 0, (padded - n) * s.H * sizeof(T));
  memset(memory.d_pre + n * 2 * s.F, 0, (padded - n) * 2 * s.F * sizeof(T));

  float d_weights[kBlockRows] = {};
  const Weight<T> down(s.w_down, s.down, block.expert, s.H);
  const T* pre = static_cast<const T*>(s.pre) + 2 * s.F * block.first;
  for (int64_t f = 0; f < s.F; f += kColumns) {
    const int64_t columns = Least(kColumns, s.F - f);
    const PackedB<T> b = memory.b.AsPanels(s.H, columns);
    PackWeight(b, down, f);
    for (int first = 0; first < n; first += 2 * kGroup) {
      const Groups<T> groups(Weight<T>(memory.d_out, s.H), first, padded);
      Product(groups.rows, groups.count, b, memory.c);
      for (int i = first; i < n && i < first + 2 * kGroup; i++) {
        const float weight = s.weights[slots[i]];
        V dot{};
        for (int64_t j = 0; j < columns; j += kLanes) {
          const int64_t left = columns - j, at = f + j;
          const V gate = Load(pre + i * 2 * s.F + at, left);
          const V up = Load(pre + i * 2 * s.F + s.F + at, left);
          const V g = Load(memory.c + (i - first) * b.Width() + j);
          const SwigluGradient d(gate, up, g * weight);
          dot += First(g * d.act, left);
          Store(memory.d_pre + i * 2 * s.F + at, d.d_gate, left);
          Store(memory.d_pre + i * 2 * s.F + s.F + at, d.d_up, left);
          Store(memory.act + i * s.F + at, d.act * weight, left);
        }
        d_weights[i] += Sum(dot);
      }
    }
  }
  for (int i = 0; i < n; i++) s.d_weights[slots[i]] = d_weights[i];

  if (s.d_w_down) {
    const int64_t start = r.offsets[block.expert], count = r.offsets[block.expert + 1] - start;
    T* d_pre_t = memory.d_pre_t + start * 2 * s.F + block.first - start;
    T* act_t = memory.act_t + start * s.F + block.first - start;
    TransposeRows(memory.d_pre, 2 * s.F, n, 2 * s.F, d_pre_t, count);
    TransposeRows(memory.act, s.F, n, s.F, act_t, count);
  }
  if (s.d_x) {
    const Weight<T> weight(s.w_gate_up, s.gate_up, block.expert, 2 * s.F);
    for (int64_t h = 0; h < s.H; h += kColumns) {
      const int64_t columns = Least(kColumns, s.H - h);
      const PackedB<T> b = memory.b.AsPanels(2 * s.F, columns);
      PackWeight(b, weight, h);
      MultiplyRows(memory.d_pre, 2 * s.F, padded, b, memory.c, n,
                   memory.d_rows + block.first * s.H + h, s.H);
    }
  }
}

// Columns [h, h + kColumns) of d_w_gate_up and rows of d_w_down of one expert: slice i of n.
template <typename T>
void WeightsBackward(const MlpBackward& s, int64_t expert, int64_t i, int64_t slices,
                     const BackwardMemory<T>& memory) {
  const Routing& r = s.routing;
  const int64_t start = r.offsets[expert], n = r.offsets[expert + 1] - start;
  T* d_gate_up = static_cast<T*>(s.d_w_gate_up) + expert * 2 * s.F * s.H;
  T* d_down = static_cast<T*>(s.d_w_down) + expert * s.H * s.F;
  if (!n) {
    Zero(d_gate_up, 2 * s.F * s.H, i, slices);
    Zero(d_down, s.H * s.F, i, slices);
    return;
  }
  const int64_t h = i * kColumns, columns = Least(kColumns, s.H - h);
  d_gate_up += h;
  d_down += h * s.F;
  const int32_t* slots = r.row_to_slot + start;
  auto token = [&](const Matrix& x) {
    return [&, h](int64_t t) { return static_cast<const T*>(x.data) + slots[t] / r.K * x.row + h; };
  };
  const PackedB<T> x = memory.tokens.AsPanels(n, columns);
  PackRows(x, token(s.x));
  MultiplyRows(memory.d_pre_t + start * 2 * s.F, n, 2 * s.F, x, memory.c, 2 * s.F, d_gate_up, s.H,
               true);
  const PackedB<T> d_y = memory.tokens.AsPanels(n, columns);
  PackRows(d_y, token(s.d_y));
  const Weight<T> act_t(memory.act_t + start * s.F, n);
  MultiplyWeight(act_t, Span(s.F, 0, 1), d_y, memory.c,
                 [&](int64_t j) { return d_down + j * s.F; });
}

template <typename T>
void RunMlpBackward(const MlpBackward& s, Team& team) {
  const TileScope tiles;
  const Routing& r = s.routing;
  const BackwardMemory<T> memory(s, OwnBase(s, team), s.scratch.shared);
  for (int64_t i; (i = team.Next()) < s.plan.count;) BlockBackward(s, s.plan.blocks[i], memory);
  team.Wait();
  if (s.d_w_down) {
    const int64_t slices = (s.H + kColumns - 1) / kColumns;
    for (int64_t i; (i = team.Next()) < r.E * slices;)
      WeightsBackward(s, i / slices, i % slices, slices, memory);
    team.Wait();
  }
  if (s.d_x) SumRows<T>(r, Matrix{memory.d_rows, s.H, 0}, nullptr, s.H, s.d_x, team);
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
