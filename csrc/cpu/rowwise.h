// What is done to rows without a product: permutation, weighted sums, SwiGLU.
#pragma once
#include "memory.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

constexpr int64_t kChunk = 16384;  // numbers that a thread takes at once

// fn(first, last) for parts of [0, count), of about kChunk numbers each.
template <typename Fn>
inline void Share(int64_t count, int64_t row, Team& team, Fn fn) {
  const int64_t step = kChunk / (row + 1) + 1;
  for (int64_t i; (i = team.Next() * step) < count;) fn(i, Least(i + step, count));
}

// out[t] = sum over the columns j, in their order, of weights[t, j] rows[slot_to_row[t, j]]; a slot
// without a row, -1, or with one that no expert has adds nothing.
template <typename T>
void SumRows(const Routing& r, const Matrix& rows, const float* weights, int64_t H, void* out,
             Team& team) {
  const int32_t used = r.offsets[r.E];
  Share(r.T, H * r.K, team, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++)
      for (int64_t h = 0; h < H; h += kLanes) {
        V sum{};
        for (int64_t j = 0; j < r.K; j++) {
          const int32_t row = r.slot_to_row[t * r.K + j];
          if (row < 0 || row >= used) continue;
          const V x = Load(static_cast<const T*>(rows.data) + row * rows.row + h, H - h);
          sum += weights ? x * weights[t * r.K + j] : x;
        }
        Store(static_cast<T*>(out) + t * H + h, sum, H - h);
      }
  });
}

// What needs no memory of its own.
template <typename T>
struct NoMemory {
  Carver own, shared;
  template <typename Args>
  NoMemory(const Args&, char*, char*) {}
};

template <typename T>
void RunPermute(const Rowwise& s, Team& team) {
  const Routing& r = s.routing;
  Share(r.N, s.H, team, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
      T* row = static_cast<T*>(s.out) + n * s.H;
      const int32_t slot = r.row_to_slot[n];
      if (slot < 0)
        memset(row, 0, s.H * sizeof(T));
      else
        memcpy(row, static_cast<const T*>(s.x.data) + slot / r.K * s.x.row, s.H * sizeof(T));
    }
  });
}

template <typename T>
void RunUnpermute(const Rowwise& s, Team& team) {
  SumRows<T>(s.routing, s.rows, s.weights, s.H, s.out, team);
}

// d_rows = w d_y and d_w = d_y . row
template <typename T>
void RunUnpermuteBackward(const Rowwise& s, Team& team) {
  const Routing& r = s.routing;
  Share(r.N, s.H, team, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
      T* d_row = static_cast<T*>(s.out) + n * s.H;
      const int32_t slot = r.row_to_slot[n];
      if (slot < 0) {
        memset(d_row, 0, s.H * sizeof(T));
        continue;
      }
      const T* d_y = static_cast<const T*>(s.x.data) + slot / r.K * s.x.row;
      const T* row = static_cast<const T*>(s.rows.data) + n * s.rows.row;
      V dot{};
      for (int64_t h = 0; h < s.H; h += kLanes) {
        const V d = Load(d_y + h, s.H - h);
        dot += d * Load(row + h, s.H - h);
        Store(d_row + h, d * s.weights[slot], s.H - h);
      }
      s.d_weights[slot] = Sum(dot);
    }
  });
}

template <typename T>
void RunSwiglu(const Swiglu& s, Team& team) {
  Share(s.N, s.F, team, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
      const T* gate = static_cast<const T*>(s.gate_up.data) + n * s.gate_up.row;
      T* act = static_cast<T*>(s.out) + n * s.F;
      for (int64_t f = 0; f < s.F; f += kLanes) {
        const V g = Load(gate + f, s.F - f);
        Store(act + f, g * Sigmoid(g) * Load(gate + s.F + f, s.F - f), s.F - f);
      }
    }
  });
}

template <typename T>
void RunSwigluBackward(const Swiglu& s, Team& team) {
  Share(s.N, 2 * s.F, team, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
      const T* gate = static_cast<const T*>(s.gate_up.data) + n * s.gate_up.row;
      const T* d_act = static_cast<const T*>(s.d_act.data) + n * s.d_act.row;
      T* d_gate = static_cast<T*>(s.out) + n * 2 * s.F;
      for (int64_t f = 0; f < s.F; f += kLanes) {
        const V g = Load(gate + f, s.F - f), up = Load(gate + s.F + f, s.F - f);
        const SwigluGradient d(g, up, Load(d_act + f, s.F - f));
        Store(d_gate + f, d.d_gate, s.F - f);
        Store(d_gate + s.F + f, d.d_up, s.F - f);
      }
    }
  });
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
