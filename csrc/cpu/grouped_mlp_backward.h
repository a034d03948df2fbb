// The expert layer's backward pass, in one parallel region.
#pragma once
#include "grouped_mlp.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// With y = w (act D'), so that g = d_y D is the gradient of act but for its weight:
// d_w = g . act, d_act = w g, d_D = d_y' (w act). The output of the down projection is not needed.
//
// First for every block g, SwiGLU's derivative, and d_rows; then, when all rows of an expert are
// there, its weights' gradients, in parts of H; and the sum of d_rows. A bias or a series gets a
// sum of each block, and these are added when all are there.

// One of the two is null where it would have no numbers, too.
inline bool OfBiases(const MlpBackward& s) { return s.d_b_gate_up || s.d_b_down; }

template <typename T>
struct BackwardMemory {
  Carver own, shared;
  T* d_rows;               // [N, H]
  T *d_pre_t, *act_t;      // [O, n] and [F, n] for each expert of n rows
  PackedB<T> b;            // part of the weights
  T *d_out, *d_pre, *act;  // rows of a block: [most, H], [most, O], [most, F]
  float* c;
  PackedB<T> tokens;                // x, then d_y
  float *of_b_gate_up, *of_b_down;  // each block's part of a sum: [count, O], [count, H]
  double* of_series;                // [count, 2, terms]

  BackwardMemory(const MlpBackward& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    b = own.TakeB<T>(Most(s.H, s.O), kColumns);
    const int64_t most = MostRows(s.plan);
    d_out = own.Take<T>(most * s.H);
    d_pre = own.Take<T>(most * s.O);
    act = own.Take<T>(most * s.F);
    c = own.Take<float>(2 * kGroup * kColumns);
    tokens = own.TakeB<T>(s.d_w_down ? s.plan.longest : 0, kColumns);
    d_rows = shared.Take<T>(s.d_x ? s.routing.N * s.H : 0);
    d_pre_t = shared.Take<T>(s.d_w_down ? s.routing.N * s.O : 0);
    act_t = shared.Take<T>(s.d_w_down ? s.routing.N * s.F : 0);
    const bool biased = OfBiases(s);
    of_b_gate_up = shared.Take<float>(biased ? s.plan.count * s.O : 0);
    of_b_down = shared.Take<float>(biased ? s.plan.count * s.H : 0);
    of_series = shared.Take<double>(s.d_series ? s.plan.count * 2 * s.activation.terms : 0);
  }
};

// Row i of a block, its columns [f, f + columns): from d, the gradient of act but for the row's
// weight, those of the pre-activation; act with its weight; and d . act.
template <typename T>
inline V DifferentiateSwiglu(const MlpBackward& s, const T* pre, const float* d_act, float weight,
                             int64_t i, int64_t f, int64_t columns,
                             const BackwardMemory<T>& memory) {
  V dot{};
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t left = columns - j, at = f + j;
    const V gate = Load(pre + i * 2 * s.F + at, left);
    const V up = Load(pre + i * 2 * s.F + s.F + at, left);
    const V g = Load(d_act + j);
    const SwigluGradient d(gate, up, g * weight);
    dot += First(g * d.act, left);
    Store(memory.d_pre + i * 2 * s.F + at, d.d_gate, left);
    Store(memory.d_pre + i * 2 * s.F + s.F + at, d.d_up, left);
    Store(memory.act + i * s.F + at, d.act * weight, left);
  }
  return dot;
}

// The same with any activation. What its series gets is added to sums, unless that is null.
template <typename T>
inline V DifferentiateAny(const MlpBackward& s, const T* pre, const float* d_act, float weight,
                          int64_t i, int64_t f, int64_t columns, const BackwardMemory<T>& memory,
                          V* sums) {
  ActivationRow row;
  row.LoadPre(s.activation, pre + i * s.O, s.F, f, columns);
  for (int64_t j = 0; j < columns; j += kLanes)
    Store(row.d + j, First(Load(d_act + j), columns - j));
  Differentiate(s.activation, columns, weight, row, sums);
  row.StorePre(s.activation, memory.d_pre + i * s.O, s.F, f, columns);
  V dot{};
  for (int64_t j = 0; j < columns; j += kLanes) {
    const V act = Load(row.act + j);
    dot += Load(row.d + j) * act;
    Store(memory.act + i * s.F + f + j, act * weight, columns - j);
  }
  return dot;
}

// d_pre and act of n rows of a block, of the d_out that is there, and what d_weights has of them.
template <typename T>
void ActivationBackward(const MlpBackward& s, int64_t number, int64_t n, int64_t padded,
                        const BackwardMemory<T>& memory, float* d_weights) {
  const Block& block = s.plan.blocks[number];
  const int32_t* slots = s.routing.row_to_slot + block.first;
  const Weight<T> down(s.w_down, s.down, block.expert, s.H);
  const T* pre = static_cast<const T*>(s.pre) + s.O * block.first;
  const int64_t terms = s.d_series ? 2 * s.activation.terms : 0;
  double* of_series = memory.of_series + number * terms;
  for (int64_t t = 0; t < terms; t++) of_series[t] = 0.0;
  for (int64_t f = 0; f < s.F; f += kColumns) {
    const int64_t columns = Least(kColumns, s.F - f);
    const PackedB<T> b = memory.b.AsPanels(s.H, columns);
    PackWeight(b, down, f);
    for (int64_t first = 0; first < n; first += 2 * kGroup) {
      const Groups<T> groups(Weight<T>(memory.d_out, s.H), first, padded);
      Product(groups.rows, groups.count, b, memory.c);
      V sums[2 * kMostTerms] = {};
      for (int64_t i = first; i < n && i < first + 2 * kGroup; i++) {
        const float* d_act = memory.c + (i - first) * b.Width();
        const float weight = s.weights[slots[i]];
        d_weights[i] += Sum(s.activation.plain
                                ? DifferentiateSwiglu(s, pre, d_act, weight, i, f, columns, memory)
                                : DifferentiateAny(s, pre, d_act, weight, i, f, columns, memory,
                                                   terms ? sums : nullptr));
      }
      for (int64_t t = 0; t < terms; t++) of_series[t] += Sum(sums[t]);
    }
  }
}

// to[j] = the sum over the rows i of weights[i], or 1, times rows[i][j].
template <typename T>
inline void SumColumns(const T* rows, int64_t n, int64_t width, const float* weights, float* to) {
  for (int64_t j = 0; j < width; j += kLanes) {
    V sum{};
    for (int64_t i = 0; i < n; i++)
      sum =
          MultiplyAdd(sum, Load(rows + i * width + j, width - j), Splat(weights ? weights[i] : 1));
    Store(to + j, sum, width - j);
  }
}

template <typename T>
inline float Dot(const T* a, const T* b, int64_t n) {
  V sum{};
  for (int64_t j = 0; j < n; j += kLanes)
    sum = MultiplyAdd(sum, Load(a + j, n - j), Load(b + j, n - j));
  return Sum(sum);
}

template <typename T>
void BlockBackward(const MlpBackward& s, int64_t number, const BackwardMemory<T>& memory) {
  const Routing& r = s.routing;
  const Block& block = s.plan.blocks[number];
  const int32_t* slots = r.row_to_slot + block.first;
  const int n = block.count,
            padded = kTiles<T> ? RoundUp(n, kGroup) : n;  // tiles take whole groups
  float weights[kBlockRows], d_weights[kBlockRows] = {};
  for (int i = 0; i < n; i++) {
    if (s.H)  // else there may be no d_y to copy from
      memcpy(memory.d_out + i * s.H, static_cast<const T*>(s.d_y.data) + slots[i] / r.K * s.d_y.row,
             s.H * sizeof(T));
    weights[i] = s.weights[slots[i]];
  }
  memset(memory.d_out + n * s.H, 0, (padded - n) * s.H * sizeof(T));
  memset(memory.d_pre + n * s.O, 0, (padded - n) * s.O * sizeof(T));

  ActivationBackward(s, number, n, padded, memory, d_weights);
  if (const T* bias = BiasOf<T>(s.b_down, block.expert))
    for (int i = 0; i < n; i++) d_weights[i] += Dot(memory.d_out + i * s.H, bias, s.H);
  for (int i = 0; i < n; i++) s.d_weights[slots[i]] = d_weights[i];
  if (OfBiases(s)) {
    SumColumns(memory.d_pre, n, s.O, nullptr, memory.of_b_gate_up + number * s.O);
    SumColumns(memory.d_out, n, s.H, weights, memory.of_b_down + number * s.H);
  }

  if (s.d_w_down) {
    const int64_t start = r.offsets[block.expert], count = r.offsets[block.expert + 1] - start;
    T* d_pre_t = memory.d_pre_t + start * s.O + block.first - start;
    T* act_t = memory.act_t + start * s.F + block.first - start;
    TransposeRows(memory.d_pre, s.O, n, s.O, d_pre_t, count);
    TransposeRows(memory.act, s.F, n, s.F, act_t, count);
  }
  if (s.d_x) {
    const Weight<T> weight(s.w_gate_up, s.gate_up, block.expert, s.O);
    for (int64_t h = 0; h < s.H; h += kColumns) {
      const int64_t columns = Least(kColumns, s.H - h);
      const PackedB<T> b = memory.b.AsPanels(s.O, columns);
      PackWeight(b, weight, h);
      MultiplyRows(memory.d_pre, s.O, padded, b, memory.c, n, memory.d_rows + block.first * s.H + h,
                   s.H);
    }
  }
}

// Columns [h, h + kColumns) of d_w_gate_up and rows of d_w_down of one expert: slice i of n.
template <typename T>
void WeightsBackward(const MlpBackward& s, int64_t expert, int64_t i, int64_t slices,
                     const BackwardMemory<T>& memory) {
  const Routing& r = s.routing;
  const int64_t start = r.offsets[expert], n = r.offsets[expert + 1] - start;
  T* d_gate_up = static_cast<T*>(s.d_w_gate_up) + expert * s.O * s.H;
  T* d_down = static_cast<T*>(s.d_w_down) + expert * s.H * s.F;
  if (!n) {
    Zero(d_gate_up, s.O * s.H, i, slices);
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
  MultiplyRows(memory.d_pre_t + start * s.O, n, s.O, x, memory.c, s.O, d_gate_up, s.H, true);
  const PackedB<T> d_y = memory.tokens.AsPanels(n, columns);
  PackRows(d_y, token(s.d_y));
  const Weight<T> act_t(memory.act_t + start * s.F, n);
  MultiplyWeight(act_t, Span(s.F, 0, 1), d_y, memory.c,
                 [&](int64_t j) { return d_down + j * s.F; });
}

// The sum over the blocks of one expert, in the order of the plan, whatever thread made them;
// parts is used up.
template <typename T>
inline void SumBlocks(const Plan& plan, int64_t expert, float* parts, int64_t width, T* to) {
  const float* sum = nullptr;
  for (int64_t i = 0; i < plan.count; i++) {
    if (plan.blocks[i].expert != expert) continue;
    float* part = parts + i * width;
    for (int64_t j = 0; sum && j < width; j += kLanes)
      Store(part + j, Load(sum + j, width - j) + Load(part + j, width - j), width - j);
    sum = part;
  }
  for (int64_t j = 0; j < width; j += kLanes)
    Store(to + j, sum ? Load(sum + j, width - j) : V{}, width - j);
}

template <typename T>
void BiasBackward(const MlpBackward& s, int64_t expert, const BackwardMemory<T>& memory) {
  SumBlocks(s.plan, expert, memory.of_b_gate_up, s.O,
            static_cast<T*>(s.d_b_gate_up) + expert * s.O);
  SumBlocks(s.plan, expert, memory.of_b_down, s.H, static_cast<T*>(s.d_b_down) + expert * s.H);
}

template <typename T>
void SeriesBackward(const MlpBackward& s, const BackwardMemory<T>& memory) {
  const int64_t terms = 2 * s.activation.terms;
  for (int64_t t = 0; t < terms; t++) {
    double sum = 0.0;
    for (int64_t i = 0; i < s.plan.count; i++) sum += memory.of_series[i * terms + t];
    s.d_series[t] = float(sum);
  }
}

template <typename T>
void RunMlpBackward(const MlpBackward& s, Team& team) {
  const TileScope tiles;
  const Routing& r = s.routing;
  const BackwardMemory<T> memory(s, OwnBase(s, team), s.scratch.shared);
  for (int64_t i; (i = team.Next()) < s.plan.count;) BlockBackward(s, i, memory);
  team.Wait();
  const int64_t slices = s.d_w_down ? (s.H + kColumns - 1) / kColumns : 0;
  const int64_t of_weights = r.E * slices, of_biases = of_weights + (OfBiases(s) ? r.E : 0);
  if (const int64_t all = of_biases + (s.d_series ? 1 : 0)) {
    for (int64_t i; (i = team.Next()) < all;)
      if (i < of_weights)
        WeightsBackward(s, i / slices, i % slices, slices, memory);
      else if (i < of_biases)
        BiasBackward(s, i - of_weights, memory);
      else
        SeriesBackward(s, memory);
    team.Wait();
  }
  if (s.d_x) SumRows<T>(r, Matrix{memory.d_rows, s.H, 0}, nullptr, s.H, s.d_x, team);
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
