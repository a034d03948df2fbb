// The expert layer in one launch, since a launch costs as much as a tenth of a token's layer. Its
// phases alternate between the kinds of cores, and all cores of a kind meet before those of the
// other one go on. Of plain weights:
//
//   vector cores | SpreadRows |            RingActivation |                 | SumRows
//   cube cores   |            | gate and up ...           | down ...        |
//   memory       | x -> rows  | rows -> ring -> act       | act -> rows     | rows -> y
//
// While the cube cores wait for their left factor, the first chunks of the weights already come
// to L1. What the second product returns takes the place of the rows.
//
// Between gate and up and SwiGLU, the [N, 2F] passes through a small ring in L2.
//
// A Layer says what the phases are for a kind of weights:
//
//   Up, UpToRing, Down   the products, and how the first one's tiles are stored
//   LeftOfDown()         where the second one's left factor will be
//   ReturnRows           how its tiles are stored; made of the layer
//   DownEnded(returns)   what a cube core does in the end
//   Spread(), Activate() what a vector core does to make the left factor of the first and of the
//                        second product
//   Return()             what it does while the second one is computed
//   Returned             waits for all rows of the second product
#ifndef MOGE_ASCEND_GROUPED_MLP_PHASES_H_
#define MOGE_ASCEND_GROUPED_MLP_PHASES_H_

#include "../grouped_gemm/ring.h"
#include "grouped_mlp_rows.h"

namespace moge {

constexpr uint32_t kHalves = 2;               // the weight [E, 2F, H] has two: gate and up
constexpr uint16_t kMet = 2, kToldOther = 3;  // flags between the cores, past those of the ring

// This core has done its phase; Meet returns when all of its kind have.
template <pipe_t kPipe>
__aicore__ inline void Arrive() {
  CrossCoreSetFlag<0, kPipe>(kMet);
}
struct Meet {
  __aicore__ inline void operator()() const { CrossCoreWaitFlag(kMet); }
};
// All cores of one kind have done their phase, and those of the other kind know it.
template <pipe_t kPipe>
__aicore__ inline void MeetAndTellOther() {
  Arrive<kPipe>();
  Meet()();
  CrossCoreSetFlag<2, kPipe>(kToldOther);
}
// Returns when the other kind's cores have met.
struct WhenTold {
  __aicore__ inline void operator()() const { CrossCoreWaitFlag(kToldOther); }
};

struct GroupedMlpTensors {
  GM_ADDR x;
  GM_ADDR gate_up;
  GM_ADDR down;
  GM_ADDR weights;
  GM_ADDR slot_to_row;
  GM_ADDR offsets;
  GM_ADDR rows;
  GM_ADDR row_weights;  // or none
  GM_ADDR ring;
  GM_ADDR pre;
  GM_ADDR act;
  GM_ADDR y;
  GM_ADDR b_gate_up;  // or none, as the next two
  GM_ADDR b_down;
  GM_ADDR series;
};

template <typename Layer>
class GroupedMlpCube {
 public:
  using Up = typename Layer::Up;
  using Down = typename Layer::Down;
  using UpToRing = typename Layer::UpToRing;

  __aicore__ inline void Process(const Layer& layer) {
    Up up;
    Down down;
    up.Init(layer.gm.rows, layer.gm.gate_up, layer.gm.offsets, layer.tiling.up);
    UpToRing to_ring(layer.gm.ring);
    WhenSpread spread{down, layer};
    up.Process(to_ring, spread);
    // the second product is stored over rows that any core may have loaded for the first
    Arrive<PIPE_MTE2>();
    typename Layer::ReturnRows returns(layer);
    WhenActivated activated{to_ring};
    down.Process(returns, activated);
    layer.DownEnded(returns);
  }

 private:
  // The second product is prepared while the first weights come.
  struct WhenSpread {
    static constexpr bool kLater = true;
    Down& down;
    const Layer& layer;
    __aicore__ inline void operator()() const {
      down.Prepare(layer.LeftOfDown(), layer.gm.down, layer.gm.offsets, layer.tiling.down);
      WhenTold()();
    }
  };
  struct WhenActivated {
    static constexpr bool kLater = true;
    UpToRing& ring;
    __aicore__ inline void operator()() const {
      ring.Finish();
      Meet()();
      WhenTold()();
    }
  };
};

// Each phase divides UB anew: at the end of one, everything is stored, and all cores meet.
template <typename T, typename Layer>
__aicore__ inline void GroupedMlpVector(const Layer& layer) {
  InitSocState();
  layer.Spread();
  MeetAndTellOther<PIPE_MTE3>();
  layer.Activate();
  MeetAndTellOther<PIPE_MTE3>();
  layer.Return();
  SumRows<T> sum;
  sum.Init(layer.gm.rows, layer.gm.slot_to_row,
           layer.tiling.early != 0 ? nullptr : layer.gm.weights, layer.gm.y, layer.tiling.rows);
  sum.TakeBias(layer.gm.b_down, layer.gm.offsets, layer.tiling.down.E);
  typename Layer::Returned returned;
  sum.Process(returned);
}

template <typename T, typename Layer>
__aicore__ inline void GroupedMlp(const Layer& layer) {
  if ASCEND_IS_AIC {
    GroupedMlpCube<Layer> cube;
    cube.Process(layer);
  }
  if ASCEND_IS_AIV {
    GroupedMlpVector<T>(layer);
  }
  PipeBarrier<PIPE_ALL>();
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_PHASES_H_
