// The expert layer's forward pass, in one parallel region.
#pragma once
#include "activation.h"
#include "grouped_gemm.h"
#include "rowwise.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

//   x --gather--> b --w_gate_up--> c --SwiGLU--> act, again a b --w_down--> rows -->
// y
//
// Biases are added to c. What stands in SwiGLU's place may be another activation.
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

// The activation of the columns [f, f + count), into rows k = f of the next b: value(i) has it for
// the numbers of c from i on.
template <typename T, typename Value>
inline void StoreAct(const PackedB<T>& act, int64_t f, int count, const float* row_weights,
                     Value value) {
  const int64_t width = act.Width();
  if (act.lines) {
    for (int64_t j = 0; j < act.columns; j++)
      for (int r = 0; r < count; r += kLanes) {
        const V a = value(j * kGroup + r);
        Store(act.Line(j) + f + r, row_weights ? a * row_weights[j] : a, count - r);
      }
    return;
  }
  auto at = [&](int r, int64_t j) {
    if (r >= count) return V{};
    const V a = value(r * width + j);
    return row_weights ? a * Load(row_weights + j) : a;
  };
  for (int r = 0; r < count; r += kWord<T>)
    for (int64_t j = 0; j < act.Vectors() * kLanes; j += kLanes) {
      V words = at(r, j);
      if constexpr (kPairs<T>) words = Pair(words, at(r + 1, j));
      StoreWords(act.Panel(j / kPanel) + (f + r) * kPanel + j % kPanel * kWord<T>, words);
    }
}

// The same from the sums of a group in c, or of two with a gate. Plain SwiGLU is made of them here,
// any other activation first and in their place.
template <typename T>
inline void Activate(const Activation& a, float* c, const PackedB<T>& act, int64_t f, int count,
                     const float* row_weights) {
  if (a.plain) {
    const float* up = c + act.GroupSize();
    return StoreAct(act, f, count, row_weights, [&](int64_t i) {
      const V g = Load(c + i);
      return g * Sigmoid(g) * Load(up + i);
    });
  }
  ActivateGroup(a, act, count, c);
  StoreAct(act, f, count, row_weights, [&](int64_t i) { return Load(c + i); });
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

// An expert's row of a stack of biases, or null.
template <typename T>
inline const T* BiasOf(const Matrix& bias, int64_t expert) {
  return bias.data ? static_cast<const T*>(bias.data) + expert * bias.row : nullptr;
}

// The groups of rows that make the activation from f on, at most to `last`: of the gate and of up,
// or two that follow each other, in which they take turns, or one without a gate.
template <typename N>
inline void AddHalves(Groups<N>& groups, const Weight<N>& weight, const MlpForward& s, int64_t f,
                      int64_t last) {
  if (s.activation.interleaved) {
    groups.Add(weight, 2 * f, 2 * last);
    groups.Add(weight, 2 * f + kGroup, 2 * last);
    return;
  }
  groups.Add(weight, f, last);
  if (s.activation.gated) groups.Add(weight, f, last, s.F);
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

  const Weight<N> weight(s.w_gate_up, s.gate_up, block.expert, s.O);
  const T* bias = BiasOf<T>(s.b_gate_up, block.expert);
  T* pre = s.pre ? static_cast<T*>(s.pre) + s.O * block.first : nullptr;
  const int halves = s.activation.gated ? 2 : 1;  // groups that make one of the activation
  const Places places(span, (x.lines ? kStreams : 2) / halves);
  for (int64_t first = span.first; first < span.first + places.step; first += kGroup) {
    Groups<N> groups;
    for (int i = 0; i < places.count; i++)
      AddHalves(groups, weight, s, first + i * places.step, span.last);
    Product(groups.rows, groups.count, x, memory.c);
    for (int g = 0; g < groups.count; g++) {
      float* c = memory.c + g * x.GroupSize();
      const int64_t row = groups.rows[g].row - weight.row;
      if (bias) AddBias(c, x, bias + row, groups.rows[g].count);
      if (pre) Unpack(c, x, groups.rows[g].count, [&](int64_t j) { return pre + j * s.O + row; });
    }
    for (int g = 0; g < groups.count; g += halves) {
      const int64_t f = first + g / halves * places.step;
      Activate(s.activation, memory.c + g * x.GroupSize(), act, f, Least(kGroup, span.last - f),
               s.weight_on_activation ? row_weights : nullptr);
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
    MultiplyWeight(
        weight, span, b, memory.c, [&](int64_t j) { return rows + j * s.H; },
        BiasOf<T>(s.b_down, block.expert));
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

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
