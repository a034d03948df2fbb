// The expert layer of weights of bytes. Its products' sums are scaled on the vector cores, so both
// pass through the ring, and both left factors are quantised there first:
//
//   vector cores | Spread    |          ScaleSums | Quantise |               ScaleSums | SumRows
//   cube cores   |           | gate and up ...    |          | down ...                |
//   memory       | x -> rows | rows -> ring -> act| act -> q | q -> ring -> returned   | -> y
//
// Rows and returned rows have the same place: when act is complete, nobody needs the former.
#ifndef MOGE_ASCEND_GROUPED_MLP_INT8_KERNEL_H_
#define MOGE_ASCEND_GROUPED_MLP_INT8_KERNEL_H_

#include "../grouped_gemm/grouped_gemm_int8_kernel.h"
#include "../permute/permute_quantized_kernel.h"
#include "../quantize/quantize_kernel.h"
#include "grouped_mlp_phases.h"

namespace moge {

// What the layer of bytes has besides.
struct ByteMlpTensors {
  GroupedMlpTensors layer;
  GM_ADDR gate_up_scale;  // [E, 2F] float
  GM_ADDR down_scale;     // [E, H] float
  GM_ADDR q;              // [N, F] int8
  GM_ADDR row_scale;      // [N] float: of rows, then of q
};

// kColumns: the most columns of a part of the second product.
template <typename T, uint32_t kColumns>
struct ByteLayer {
  using Up = ByteProducts<kHalves, kMixPartC>;
  using UpToRing = StoreToRing<int32_t, kSumPitch, Up>;
  using Down = ByteProducts<1, kColumns>;
  struct ReturnRows : StoreToRing<int32_t, kSumPitch, Down> {
    __aicore__ inline explicit ReturnRows(const ByteLayer& layer)
        : StoreToRing<int32_t, kSumPitch, Down>(layer.gm.ring) {}
  };
  using Returned = Meet;

  const ByteMlpTensors& more;
  const GroupedMlpInt8Tiling& sizes;
  const GroupedMlpTensors& gm;
  const GroupedMlpTiling& tiling;

  __aicore__ inline ByteLayer(const ByteMlpTensors& tensors, const GroupedMlpInt8Tiling& all)
      : more(tensors), sizes(all), gm(tensors.layer), tiling(all.layer) {}

  __aicore__ inline GM_ADDR LeftOfDown() const { return more.q; }
  __aicore__ inline void DownEnded(ReturnRows& ring) const { ring.Finish(); }

  __aicore__ inline void Spread() const {
    SpreadQuantized<T> spread;
    spread.Init(gm.x, gm.slot_to_row, gm.rows, more.row_scale,
                {sizes.x, tiling.rows.K, sizes.parts});
    spread.Process(VectorShare(sizes.x.N * sizes.parts));
  }
  __aicore__ inline void Activate() const {
    ScaleSums<T, kHalves, kMixPartC> activation;
    activation.Init({more.row_scale, more.gate_up_scale, gm.offsets, gm.ring, gm.pre, gm.act},
                    tiling.up, tiling.up.C);
    activation.Process();
    Arrive<PIPE_MTE3>();
    Meet()();
    QuantizeRows<T> quantize;
    quantize.Init(gm.act, more.q, more.row_scale, sizes.act);
    quantize.Process(VectorShare(sizes.act.N));
  }
  __aicore__ inline void Return() const {
    ScaleSums<T, 1, kColumns> down;
    down.Init({more.row_scale, more.down_scale, gm.offsets, gm.ring, nullptr, gm.rows}, tiling.down,
              tiling.down.pitch);
    down.Process();
    Arrive<PIPE_MTE3>();
  }
};

template <typename T>
__aicore__ inline void GroupedMlpInt8Fwd(const ByteMlpTensors& gm,
                                         const GroupedMlpInt8Tiling& tiling) {
  if (StaysInL1<int8_t>(tiling.layer.down.R)) {
    GroupedMlp<T>(ByteLayer<T, kTileC / 2>(gm, tiling));
  } else {
    GroupedMlp<T>(ByteLayer<T, kMixPartC>(gm, tiling));
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_INT8_KERNEL_H_
