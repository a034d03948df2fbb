// The gate and the load-balance loss, forward and backward: each a function of one row of logits.
#pragma once
#include <cmath>

#include "memory.h"
#include "rowwise.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

inline float SqrtSoftplus(float x) {
  // below -40 the logarithm of 1 + e^x is e^x; above 40 it is x
  return x < -40.0f ? expf(0.5f * x) : sqrtf(x > 40.0f ? x : log1pf(expf(x)));
}

// Scores of one row of E logits in float32, and zeros up to a whole vector.
template <typename T>
void Scores(const T* logits, int64_t E, Score score, float* out) {
  if (score == Score::kSoftmax) {
    V most = Splat(-INFINITY);
    for (int64_t e = 0; e < E; e += kLanes) {
      const V x = Load(logits + e, E - e);
      Store(out + e, x);
      const V mine = Select(x, E - e, -INFINITY);
      most =
          (mine > most) | (mine != mine) ? mine : most;  // a NaN stays, and makes all of them NaN
    }
    float lanes[kLanes], top = -INFINITY;
    Store(lanes, most);
    for (float x : lanes) top = x > top || x != x ? x : top;
    V sums[4]{};  // several, so that a sum has fewer terms and thus fewer roundings
    for (int64_t e = 0; e < E; e += kLanes) {
      const V x = First(Exp(Load(out + e) - top), E - e);
      Store(out + e, x);
      sums[e / kLanes % 4] += x;
    }
    const float total = Sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int64_t e = 0; e < E; e += kLanes) Store(out + e, Load(out + e) / total);
    return;
  }
  for (int64_t e = 0; e < E; e += kLanes) {
    const V x = Load(logits + e, E - e);
    Store(out + e, First(score == Score::kSigmoid ? Sigmoid(x) : x, E - e));
  }
  if (score == Score::kSqrtSoftplus)
    for (int64_t e = 0; e < E; e++) out[e] = SqrtSoftplus(out[e]);
}

// Derivative of a score by its own logit; the softmax's lacks the term of the row's sum.
inline float Slope(float score, Score kind) {
  if (kind == Score::kSoftmax) return score;
  if (kind == Score::kSigmoid) return score * (1.0f - score);
  // e^x / (1 + e^x) / (2 s) with 1 + e^x = e^(s^2); it tends to s / 2
  return score < 1e-10f ? 0.5f * score : expm1f(-score * score) / (-2.0f * score);
}

// Divides n scores by their sum, which it returns; for a sum of 0 they are equal, and it is 1.
inline float ToShares(float* scores, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; i++) sum += scores[i];
  const float total = float(sum);
  for (int64_t i = 0; i < n; i++) scores[i] = total == 0.0f ? 1.0f / float(n) : scores[i] / total;
  return total == 0.0f ? 1.0f : total;
}

// A number in the order of scores, NaN below all others, INT32_MIN left free.
inline int32_t Key(float x) {
  if (x != x) return INT32_MIN + 1;
  int32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits < 0 ? bits ^ INT32_MAX : bits;
}

// Rows of one token, for each thread.
template <typename T>
struct GateMemory {
  Carver own, shared;
  float *scores, *more;
  int32_t* keys;

  template <typename Args>
  GateMemory(const Args& s, char* own_base, char*) {
    own.base = own_base;
    const int64_t row = RoundUp(s.E, kLanes);
    scores = own.Take<float>(row);
    more = own.Take<float>(row);
    keys = own.Take<int32_t>(row);
  }
};

template <typename T>
struct GateBackwardMemory {
  Carver own, shared;
  float *scores, *d, *base;  // [E], [E], [K]
  double* terms;             // [T, K], of d_router_scale

  GateBackwardMemory(const GateBackward& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    scores = own.Take<float>(RoundUp(s.E, kLanes));
    d = own.Take<float>(RoundUp(s.E, kLanes));
    base = own.Take<float>(s.K);
    terms = shared.Take<double>(s.router_scale ? s.T * s.K : 0);
  }
};

constexpr int64_t kLossRows = 128;  // whose scores are summed together, by whichever thread

template <typename T>
struct LossMemory {
  Carver own, shared;
  float* scores;
  int64_t parts;
  double* sums;  // [parts, E], of the scores of kLossRows rows each

  LossMemory(const Loss& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    scores = own.Take<float>(RoundUp(s.E, kLanes));
    parts = (s.T + kLossRows - 1) / kLossRows;
    sums = shared.Take<double>(parts * s.E);
  }
};

// The best k of every group; their keys are used up.
inline void ChooseExperts(const Gate& s, int32_t* keys, int32_t* experts) {
  const int64_t P = s.E / s.G;
  for (int64_t c = 0; c < s.G * s.k; c++) {
    const int64_t group = c / s.k * P;
    int64_t best = group;
    for (int64_t e = group + 1; e < group + P; e++)
      if (keys[e] > keys[best]) best = e;  // the first of equals
    keys[best] = INT32_MIN;
    experts[c] = int32_t(best);
  }
}

// The given ids of one token, -1 for those that no expert has.
inline void TakeExperts(const Gate& s, int64_t t, int32_t* experts) {
  const int64_t K = s.G * s.k;
  for (int64_t c = 0; c < K; c++) {
    const int64_t id = s.wide ? static_cast<const int64_t*>(s.given)[t * K + c]
                              : static_cast<const int32_t*>(s.given)[t * K + c];
    experts[c] = id >= 0 && id < s.E ? int32_t(id) : -1;
  }
}

template <typename T>
void RunGate(const Gate& s, Team& team) {
  const GateMemory<T> memory(s, OwnBase(s, team), nullptr);
  const int64_t K = s.G * s.k;
  float* scores = memory.scores;
  int32_t* keys = memory.keys;
  Share(s.T, s.E * 4, team, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      Scores(static_cast<const T*>(s.logits.data) + t * s.logits.row, s.E, s.score, scores);
      float* weights = s.weights + t * K;
      int32_t* experts = s.experts + t * K;
      if (s.given) {
        TakeExperts(s, t, experts);
      } else {
        for (int64_t e = 0; e < s.E; e++) keys[e] = Key(s.bias ? scores[e] + s.bias[e] : scores[e]);
        ChooseExperts(s, keys, experts);
      }
      for (int64_t c = 0; c < K; c++) weights[c] = experts[c] < 0 ? 0.0f : scores[experts[c]];
      if (s.renormalize) ToShares(weights, K);
      for (int64_t c = 0; c < K; c++) {
        weights[c] *= s.scaling;
        if (experts[c] < 0)
          weights[c] = 0.0f;  // a share of a sum that is 0 or NaN is not 0
        else if (s.router_scale)
          weights[c] *= s.router_scale[experts[c]];
      }
    }
  });
  team.Wait();
  if (team.id) return;
  memset(s.counts, 0, s.E * sizeof(int32_t));
  for (int64_t i = 0; i < s.T * K; i++)
    if (s.experts[i] >= 0) s.counts[s.experts[i]]++;
}

inline bool Used(int32_t id, int64_t E) { return id >= 0 && id < E; }

template <typename T>
void RunGateBackward(const GateBackward& s, Team& team) {
  const GateBackwardMemory<T> memory(s, OwnBase(s, team), s.scratch.shared);
  float *scores = memory.scores, *d = memory.d, *base = memory.base;
  Share(s.T, s.E * 4, team, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      Scores(static_cast<const T*>(s.logits.data) + t * s.logits.row, s.E, s.score, scores);
      const int32_t* ids = s.experts + t * s.K;
      for (int64_t c = 0; c < s.K; c++) base[c] = Used(ids[c], s.E) ? scores[ids[c]] : 0.0f;
      const float total = s.renormalize ? ToShares(base, s.K) : 1.0f;
      memset(d, 0, s.E * sizeof(float));
      float dot = 0.0f;
      for (int64_t c = 0; c < s.K; c++) {
        if (!Used(ids[c], s.E)) continue;
        float d_base = s.d_weights[t * s.K + c] * s.scaling;
        if (s.router_scale) {
          memory.terms[t * s.K + c] = double(d_base * base[c]);
          d_base *= s.router_scale[ids[c]];
        }
        dot += d_base * base[c];
        d[ids[c]] += d_base;
        base[c] = d_base;
      }
      if (s.renormalize) {
        // base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but
        // not times the slope, since that is at most s_c. The softmax's other term is 0
        for (int64_t e = 0; e < s.E; e++) d[e] = Slope(scores[e], s.score) * 0.0f;  // a NaN stays
        for (int64_t c = 0; c < s.K; c++)
          if (Used(ids[c], s.E))
            d[ids[c]] += (base[c] - dot) * (Slope(scores[ids[c]], s.score) / total);
      } else {
        if (s.score != Score::kSoftmax) dot = 0.0f;
        for (int64_t e = 0; e < s.E; e++) d[e] = (d[e] - dot) * Slope(scores[e], s.score);
      }
      T* out = static_cast<T*>(s.d_logits) + t * s.E;
      for (int64_t e = 0; e < s.E; e += kLanes) Store(out + e, Load(d + e), s.E - e);
    }
  });
  team.Wait();
  if (team.id || !s.router_scale) return;
  // one after another: the order, and so the bits, are those of one thread
  for (int64_t e = 0; e < s.E; e++) s.d_router_scale[e] = 0.0;
  for (int64_t i = 0; i < s.T * s.K; i++)
    if (Used(s.experts[i], s.E)) s.d_router_scale[s.experts[i]] += memory.terms[i];
}

template <typename T>
void RunLoss(const Loss& s, Team& team) {
  const LossMemory<T> memory(s, OwnBase(s, team), s.scratch.shared);
  float* scores = memory.scores;
  double* sums = memory.sums;
  const int64_t parts = memory.parts;
  for (int64_t part; (part = team.Next()) < parts;) {
    double* sum = sums + part * s.E;
    for (int64_t e = 0; e < s.E; e++) sum[e] = 0.0;
    for (int64_t t = part * kLossRows; t < Least(s.T, (part + 1) * kLossRows); t++) {
      Scores(static_cast<const T*>(s.logits.data) + t * s.logits.row, s.E, s.score, scores);
      if (s.score != Score::kSoftmax) ToShares(scores, s.E);
      for (int64_t e = 0; e < s.E; e++) sum[e] += scores[e];
    }
  }
  team.Wait();
  if (team.id) return;
  double loss = 0.0;
  for (int64_t e = 0; e < s.E; e++) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; part++) sum += sums[part * s.E + e];
    loss += s.f[e] * sum / double(Most(s.T, 1));
  }
  *s.loss = float(loss);
}

template <typename T>
void RunLossBackward(const Loss& s, Team& team) {
  const GateMemory<T> memory(s, OwnBase(s, team), nullptr);
  float *scores = memory.scores, *q = memory.more;
  const float scale = *s.loss / float(Most(s.T, 1));
  Share(s.T, s.E * 4, team, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      Scores(static_cast<const T*>(s.logits.data) + t * s.logits.row, s.E, s.score, scores);
      // q_i = s_i / S: d_logits_i = s'_i / S (d_q_i - sum_j q_j d_q_j); the softmax's s is exp
      memcpy(q, scores, s.E * sizeof(float));
      const float total = s.score == Score::kSoftmax ? 1.0f : ToShares(q, s.E);
      float dot = 0.0f;
      for (int64_t e = 0; e < s.E; e++) dot += q[e] * (scale * s.f[e]);
      for (int64_t e = 0; e < s.E; e++)
        q[e] = Slope(scores[e], s.score) / total * (scale * s.f[e] - dot);
      T* out = static_cast<T*>(s.d_logits) + t * s.E;
      for (int64_t e = 0; e < s.E; e += kLanes) Store(out + e, Load(q + e), s.E - e);
    }
  });
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
