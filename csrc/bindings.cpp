// The Python module moge_ops._C: plain functions over addresses and sizes, no libtorch. Its types
// for Python are in moge_ops/_C.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "ops.h"
#ifndef MOGE_ASCEND_CANN
#include "emulation.h"
#include "emulator/python.h"
#endif

namespace py = pybind11;
using namespace moge;

namespace {

// Every argument goes by name: most are integers, and two that changed places would go unseen.
template <typename Function, typename... Names>
void Def(py::module_& m, const char* name, Function* function, Names... names) {
  m.def(name, function, py::kw_only(), py::arg(names)...);
}

GroupedGateTiling GateTiling(uint64_t T, uint32_t E, uint32_t G, uint32_t k, GateScore score,
                             bool renormalize, float scaling, bool given) {
  GroupedGateTiling tiling{};
  tiling.T = T;
  tiling.E = E;
  tiling.G = G;
  tiling.k = k;
  tiling.score = score;
  tiling.renormalize = renormalize;
  tiling.scaling = scaling;
  tiling.given = given;
  return tiling;
}

ActivationTiling OfActivation(Phi phi, bool gated, bool interleaved, uint32_t terms, float alpha,
                              std::optional<float> limit, float shift) {
  return {phi, gated, interleaved, terms, limit.has_value(), alpha, limit.value_or(0.0f), shift};
}

void BindOperators(py::module_& m) {
  py::enum_<DType>(m, "DType")
      .value("float16", DType::kFloat16)
      .value("bfloat16", DType::kBfloat16)
      .value("float32", DType::kFloat32);

  py::enum_<GateScore>(m, "GateScore")
      .value("softmax", GateScore::kSoftmax)
      .value("sigmoid", GateScore::kSigmoid)
      .value("sqrtsoftplus", GateScore::kSqrtSoftplus);
  py::class_<GroupedGateTiling>(m, "GroupedGateTiling")
      .def(py::init(&GateTiling), py::kw_only(), py::arg("T"), py::arg("E"), py::arg("G"),
           py::arg("k"), py::arg("score"), py::arg("renormalize"), py::arg("scaling"),
           py::arg("given"));
  py::enum_<Phi>(m, "Phi")
      .value("silu", Phi::kSilu)
      .value("gelu", Phi::kGelu)
      .value("gelu_tanh", Phi::kGeluTanh)
      .value("relu", Phi::kRelu)
      .value("relu2", Phi::kRelu2);
  py::class_<ActivationTiling>(m, "ActivationTiling")
      .def(py::init(&OfActivation), py::kw_only(), py::arg_v("phi", Phi::kSilu, "..."),
           py::arg("gated") = true, py::arg("interleaved") = false, py::arg("terms") = 0,
           py::arg("alpha") = 1.0f, py::arg("limit") = py::none(), py::arg("shift") = 0.0f);
  Def(m, "token_cores", &TokenCores, "T");
  Def(m, "grouped_gate_fwd", &LaunchGroupedGateFwd, "logits", "bias", "router_scale", "given",
      "weights", "experts", "counts", "workspace", "tiling", "dtype", "stream");
  Def(m, "grouped_gate_bwd", &LaunchGroupedGateBwd, "d_weights", "logits", "experts",
      "router_scale", "d_logits", "d_router_scale", "workspace", "tiling", "dtype", "stream");

  Def(m, "gate_and_route_workspace", &GateAndRouteWorkspace, "T", "K", "E", "G");
  Def(m, "grouped_gate_and_route_fwd", &LaunchGroupedGateAndRouteFwd, "logits", "bias",
      "router_scale", "given", "weights", "experts", "counts", "row_to_slot", "slot_to_row",
      "offsets", "workspace", "tiling", "dtype", "stream");

  Def(m, "load_balance_loss_fwd", &LaunchLoadBalanceLossFwd, "logits", "experts", "loss", "f",
      "scores", "counts", "T", "K", "E", "score", "dtype", "stream");
  Def(m, "load_balance_loss_bwd", &LaunchLoadBalanceLossBwd, "d_loss", "logits", "f", "d_logits",
      "T", "E", "score", "dtype", "stream");

  py::class_<GemmShape>(m, "GemmShape")
      .def(py::init<int64_t, int64_t, int64_t, int64_t>(), py::kw_only(), py::arg("N"),
           py::arg("E"), py::arg("O"), py::arg("I"));
  Def(m, "grouped_gemm_pitch", &GroupedGemmPitch, "columns");
  Def(m, "grouped_gemm_fwd", &LaunchGroupedGemmFwd, "rows", "weight", "offsets", "out", "shape",
      "dtype", "stream");
  Def(m, "grouped_gemm_packed", &LaunchGroupedGemmPacked, "rows", "weight", "offsets", "out",
      "shape", "dtype", "stream");
  Def(m, "grouped_gemm_dx_room", &GroupedGemmDxRoom, "shape", "dtype");
  Def(m, "grouped_gemm_dx", &LaunchGroupedGemmDx, "d_out", "weight", "offsets", "packed", "d_rows",
      "shape", "dtype", "stream");
  Def(m, "grouped_gemm_dw_room", &GroupedGemmDwRoom, "shape", "dtype");
  Def(m, "grouped_gemm_dw", &LaunchGroupedGemmDw, "d_out", "rows", "offsets", "packed", "d_weight",
      "shape", "dtype", "stream");

  py::class_<MlpShape>(m, "MlpShape")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t>(), py::kw_only(), py::arg("T"),
           py::arg("K"), py::arg("E"), py::arg("H"), py::arg("F"));
  Def(m, "grouped_mlp_ring", &GroupedMlpRing, "shape");
  Def(m, "grouped_mlp_fwd", &LaunchGroupedMlpFwd, "x", "gate_up", "down", "weights", "slot_to_row",
      "offsets", "b_gate_up", "b_down", "series", "rows", "row_weights", "ring", "pre", "act", "y",
      "shape", "activation", "dtype", "stream");
  Def(m, "grouped_mlp_act_bwd_cores", &GroupedMlpActBwdCores, "N");
  Def(m, "grouped_mlp_act_bwd", &LaunchGroupedMlpActBwd, "g", "pre", "row_weights", "more",
      "series", "d_pre", "act", "d_row_weights", "d_series", "N", "F", "activation", "dtype",
      "stream");

  Def(m, "grouped_gemm_int8_ring", &GroupedGemmInt8Ring, "shape");
  Def(m, "grouped_gemm_int8", &LaunchGroupedGemmInt8, "rows", "row_scale", "weight", "scale",
      "offsets", "ring", "out", "shape", "dtype", "stream");
  Def(m, "grouped_gemm_int4_ring", &GroupedGemmInt4Ring, "shape");
  Def(m, "grouped_gemm_int4", &LaunchGroupedGemmInt4, "planes", "row_scale", "weight", "scale",
      "offsets", "ring", "out", "shape", "dtype", "stream");
  Def(m, "grouped_mlp_int4_ring", &GroupedMlpInt4Ring, "shape");
  Def(m, "grouped_mlp_up_int4", &LaunchGroupedMlpUpInt4, "planes", "row_scale", "weight", "scale",
      "offsets", "ring", "pre", "act", "shape", "dtype", "stream");
  Def(m, "grouped_mlp_int8_ring", &GroupedMlpInt8Ring, "shape");
  Def(m, "grouped_mlp_int8_fwd", &LaunchGroupedMlpInt8Fwd, "x", "gate_up", "gate_up_scale", "down",
      "down_scale", "weights", "slot_to_row", "offsets", "rows", "row_scale", "ring", "pre", "act",
      "q", "y", "shape", "dtype", "stream");

  Def(m, "route_workspace", &RouteWorkspace, "T", "K", "E", "G");
  Def(m, "route_fwd", &LaunchRouteFwd, "experts", "row_to_slot", "slot_to_row", "offsets",
      "workspace", "T", "K", "E", "G", "stream");

  Def(m, "permute_fwd", &LaunchPermuteFwd, "x", "row_to_slot", "slot_to_row", "rows", "T", "H", "K",
      "dtype", "stream");
  Def(m, "permute_planes", &LaunchPermutePlanes, "x", "slot_to_row", "planes", "row_scale", "T",
      "H", "K", "dtype", "stream");
  Def(m, "quantize_rows", &LaunchQuantizeRows, "rows", "q", "scale", "N", "I", "dtype", "stream");
  Def(m, "quantize_planes", &LaunchQuantizePlanes, "rows", "planes", "scale", "N", "I", "dtype",
      "stream");
  Def(m, "decode_weight", &LaunchDecodeWeight, "data", "scale", "weight", "N", "I", "dtype",
      "stream");
  Def(m, "unpack_int4", &LaunchUnpackInt4, "packed", "data", "bytes", "stream");
  Def(m, "unpermute_fwd", &LaunchUnpermuteFwd, "rows", "slot_to_row", "weights", "y", "T", "H", "K",
      "dtype", "stream");
  Def(m, "unpermute_bwd", &LaunchUnpermuteBwd, "d_y", "rows", "row_to_slot", "slot_to_row",
      "weights", "d_rows", "d_weights", "T", "H", "K", "dtype", "stream");
  Def(m, "take_scalars", &LaunchTakeScalars, "scalars", "index", "results", "size", "count",
      "stream");

  Def(m, "swiglu_fwd", &LaunchSwigluFwd, "gate_up", "act", "N", "F", "dtype", "stream");
  Def(m, "activation_fwd", &LaunchActivationFwd, "pre", "bias", "series", "act", "N", "F",
      "activation", "dtype", "stream");
  Def(m, "swiglu_bwd", &LaunchSwigluBwd, "d_act", "gate_up", "d_gate_up", "N", "F", "dtype",
      "stream");
}

#ifndef MOGE_ASCEND_CANN

void BindEmulation(py::module_& m) {
  emulator::Bind(m);
  m.def(
      "set_emulation",
      [](uint32_t cores, bool strict, bool checks, uint64_t seed, bool counting,
         const std::string& rules) {
        Emulation& emulation = TheEmulation();
        const std::lock_guard<std::mutex> lock(emulation.turn);
        emulation.cores = cores;
        emulation.strict = strict;
        emulation.checks = checks;
        emulation.seed = seed;
        emulation.rules = rules;
        emulation.counting = counting;
      },
      py::kw_only(), py::arg("cores") = 48, py::arg("strict") = false, py::arg("checks") = true,
      py::arg("seed") = 0, py::arg("counting") = false, py::arg("rules") = "");
  m.def(
      "start_recording",
      [](const std::string& device, const std::vector<uint32_t>& pictured) {
        Emulation& emulation = TheEmulation();
        const std::lock_guard<std::mutex> lock(emulation.turn);
        emulation.record = true;
        emulation.launches.clear();
        emulation.cache = emulator::CacheModel();
        emulation.pictured = pictured;
        emulation.device = nullptr;
        for (const emulator::Device& each : emulator::Devices()) {
          if (each.name == device) emulation.device = &each;
        }
        if (emulation.device == nullptr && !device.empty()) {
          throw std::invalid_argument("no device '" + device + "'");
        }
      },
      py::arg("device") = "", py::arg("pictured") = std::vector<uint32_t>());
  m.def("stop_recording", [] {
    const std::lock_guard<std::mutex> lock(TheEmulation().turn);
    TheEmulation().record = false;
    py::list launches;
    for (const emulator::Counters& counters : TheEmulation().launches) {
      launches.append(emulator::ToDict(counters));
    }
    return launches;
  });
}

#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Ascend C kernels of moge_ops.";
  BindOperators(m);
#ifdef MOGE_ASCEND_CANN
  m.attr("BACKEND") = "cann";
#else
  m.attr("BACKEND") = "emulate";
  BindEmulation(m);
#endif
}
