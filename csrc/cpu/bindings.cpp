// The Python module moge_ops._cpu: kernels over addresses, sizes and strides, no libtorch. Its
// types for Python are in moge_ops/_cpu.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "choice.h"
#include "plan.h"

namespace py = pybind11;
using namespace moge_cpu;

namespace {

using Address = uintptr_t;
// address, rows' stride, experts' stride in elements
using Strided = std::tuple<Address, int64_t, int64_t>;
// row_to_slot, slot_to_row, offsets; T, K, N, E
using Routed = std::tuple<Address, Address, Address, int64_t, int64_t, int64_t, int64_t>;

template <typename T>
T* At(Address address) {
  return reinterpret_cast<T*>(address);
}

Matrix ToMatrix(const Strided& x) {
  return {At<void>(std::get<0>(x)), std::get<1>(x), std::get<2>(x)};
}

// address of the data, of the scales, of the zero points; format, dtype of the scales; bytes of a
// row, rows that share a scale, groups, columns of one
using Coded =
    std::tuple<Address, Address, Address, Format, DType, int64_t, int64_t, int64_t, int64_t>;

Coding ToCoding(const Coded& c) {
  return {At<void>(std::get<0>(c)), At<void>(std::get<1>(c)), At<int8_t>(std::get<2>(c)),
          std::get<3>(c),           std::get<4>(c),           std::get<5>(c),
          std::get<6>(c),           std::get<7>(c),           std::get<8>(c)};
}

// function; gated, interleaved; alpha, limit, shift; address of [2, terms] or 0, terms
using Activated = std::tuple<Function, bool, bool, float, float, float, Address, int64_t>;

Activation ToActivation(const Activated& a) {
  static const float kOne[] = {1.0f, 0.0f};
  const auto& [function, gated, interleaved, alpha, limit, shift, series, terms] = a;
  const bool none = !series, plain = function == Function::kSilu && gated && !interleaved &&
                                     alpha == 1.0f && std::isinf(limit) && shift == 0.0f && none;
  if (!none && (terms < 1 || terms > kMostTerms))
    throw std::invalid_argument("series must have 1 to " + std::to_string(kMostTerms) +
                                " terms, got " + std::to_string(terms));
  return {
      function,         gated, interleaved, alpha, limit, shift, none ? kOne : At<float>(series),
      none ? 1 : terms, plain};
}

Routing ToRouting(const Routed& r, bool padding = false) {
  const Routing found{At<int32_t>(std::get<0>(r)),
                      At<int32_t>(std::get<1>(r)),
                      At<int32_t>(std::get<2>(r)),
                      std::get<3>(r),
                      std::get<4>(r),
                      std::get<5>(r),
                      std::get<6>(r)};
  CheckRouting(found, padding);
  return found;
}

// Other threads may choose another one: a call asks once.
std::atomic<const Level*> chosen{BestLevel()};

const Kernels& Chosen() {
  const Level* level = chosen;
  if (!level) throw std::runtime_error("the processor has no level of the native kernels");
  return *level->kernels;
}

void SetLevel(const std::string& name) {
  std::string names;
  for (const Level& level : Levels()) {
    names += (names.empty() ? "" : ", ") + level.name;
    if (level.name != name) continue;
    if (!level.missing.empty())
      throw std::runtime_error("level " + name + " cannot run here: " + level.missing);
    chosen = &level;
    return;
  }
  throw std::invalid_argument("level must be one of " + names + ", got '" + name + "'");
}

int64_t Size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

void MlpForwardCall(const Kernel<MlpForward>& kernel, DType dtype, Strided x, Strided w_gate_up,
                    Strided w_down, Coded gate_up, Coded down, Strided b_gate_up, Strided b_down,
                    Address weights, Routed routing, Address y, Address pre, int64_t H, int64_t F,
                    Activated activation, bool weight_on_activation, int threads) {
  const Activation act = ToActivation(activation);
  const int64_t O = act.gated ? 2 * F : F;
  MlpForward s{ToMatrix(x),
               ToMatrix(w_gate_up),
               ToMatrix(w_down),
               ToCoding(gate_up),
               ToCoding(down),
               ToMatrix(b_gate_up),
               ToMatrix(b_down),
               At<float>(weights),
               At<void>(y),
               At<void>(pre),
               H,
               F,
               O,
               act,
               weight_on_activation,
               ToRouting(routing),
               {},
               {}};
  LargePages(s.y, s.routing.T * H * Size(dtype));
  LargePages(s.pre, s.routing.N * O * Size(dtype));
  const auto blocks = Blocks(s.routing.offsets, s.routing.E, kernel.block_rows);
  const int worth = Threads(threads, 2.0 * s.routing.N * H * (O + F));
  s.plan = {blocks.data(), int64_t(blocks.size()), Parts(blocks.size(), worth, F), 0};
  Run(kernel, dtype, s, threads, worth);
}

void MlpBackwardCall(DType dtype, Strided d_y, Strided x, Strided w_gate_up, Strided w_down,
                     Coded gate_up, Coded down, Strided b_down, Address weights, Routed routing,
                     Address pre, Address d_x, Address d_w_gate_up, Address d_w_down,
                     Address d_b_gate_up, Address d_b_down, Address d_weights, Address d_series,
                     int64_t H, int64_t F, Activated activation, int threads) {
  const Activation act = ToActivation(activation);
  const int64_t O = act.gated ? 2 * F : F;
  MlpBackward s{ToMatrix(d_y),
                ToMatrix(x),
                ToMatrix(w_gate_up),
                ToMatrix(w_down),
                ToCoding(gate_up),
                ToCoding(down),
                ToMatrix(b_down),
                At<float>(weights),
                At<void>(pre),
                At<void>(d_x),
                At<void>(d_w_gate_up),
                At<void>(d_w_down),
                At<void>(d_b_gate_up),
                At<void>(d_b_down),
                At<float>(d_weights),
                At<float>(d_series),
                H,
                F,
                O,
                act,
                ToRouting(routing),
                {},
                {}};
  const Routing& r = s.routing;
  std::fill_n(s.d_weights, r.T * r.K, 0.0f);  // there may be none, and no address
  const int64_t size = Size(dtype);
  LargePages(s.d_x, r.T * H * size);
  LargePages(s.d_w_gate_up, r.E * O * H * size);
  LargePages(s.d_w_down, r.E * H * F * size);
  const Kernel<MlpBackward>& kernel = Chosen().mlp_backward;
  const auto blocks = Blocks(r.offsets, r.E, kernel.block_rows);
  s.plan = {blocks.data(), int64_t(blocks.size()), 1, Longest(r.offsets, r.E)};
  Run(kernel, dtype, s, threads, Threads(threads, 4.0 * r.N * H * (O + F)));
}

// Result is the operand that the kernel writes.
template <Matrix Gemm::* Result>
void GemmCall(const Kernel<Gemm>& kernel, DType dtype, Strided rows, Strided weight, Coded coding,
              Strided out, Address offsets, int64_t N, int64_t I, int64_t O, int64_t E,
              int threads) {
  Gemm s{ToMatrix(rows),
         ToMatrix(weight),
         ToMatrix(out),
         ToCoding(coding),
         N,
         I,
         O,
         E,
         At<int32_t>(offsets),
         {},
         {}};
  CheckOffsets(s.offsets, E, N);
  const int64_t size = Result == &Gemm::weight ? E * O * I : N * (Result == &Gemm::out ? O : I);
  LargePages((s.*Result).data, size * Size(dtype));
  const auto blocks = Blocks(s.offsets, E, kernel.block_rows);
  const int worth = Threads(threads, 2.0 * N * I * O);
  const int64_t parts = Parts(blocks.size(), worth, std::min(I, O));
  s.plan = {blocks.data(), int64_t(blocks.size()), parts, Longest(s.offsets, E)};
  Run(kernel, dtype, s, threads, worth);
}

// permute, unpermute and unpermute's derivative have no offsets: their rows may be padded.
void RowwiseCall(const Kernel<Rowwise>& kernel, DType dtype, Strided x, Strided rows,
                 Address weights, Address out, Address d_weights, Address row_to_slot,
                 Address slot_to_row, int64_t T, int64_t K, int64_t N, int64_t H, int threads) {
  const int32_t everything[] = {0, int32_t(N)};
  const Routed routed{row_to_slot, slot_to_row, Address(everything), T, K, N, 1};
  Rowwise s{ToMatrix(x),
            ToMatrix(rows),
            At<float>(weights),
            At<void>(out),
            At<float>(d_weights),
            H,
            ToRouting(routed, true),
            {}};
  if (s.d_weights) std::memset(s.d_weights, 0, T * K * sizeof(float));
  Run(kernel, dtype, s, threads, Threads(threads, 4.0 * N * H));
}

void SwigluCall(const Kernel<Swiglu>& kernel, DType dtype, Strided gate_up, Strided d_act,
                Address out, int64_t N, int64_t F, int threads) {
  Swiglu s{ToMatrix(gate_up), ToMatrix(d_act), At<void>(out), N, F, {}};
  Run(kernel, dtype, s, threads, Threads(threads, 8.0 * N * F));
}

void GateCall(DType dtype, Strided logits, Address bias, Address router_scale, Address weights,
              Address experts, Address counts, Address given, bool wide, int64_t T, int64_t E,
              int64_t G, int64_t k, Score score, bool renormalize, float scaling, int threads) {
  Gate s{ToMatrix(logits),
         At<float>(bias),
         At<float>(router_scale),
         At<float>(weights),
         At<int32_t>(experts),
         At<int32_t>(counts),
         At<void>(given),
         wide,
         T,
         E,
         G,
         k,
         score,
         renormalize,
         scaling,
         {}};
  Run(Chosen().gate, dtype, s, threads, Threads(threads, 16.0 * T * E));
}

void CheckIds(const int32_t* ids, int64_t count, int64_t E) {
  bool inside = true;
  for (int64_t i = 0; i < count; i++) inside &= ids[i] >= 0 && ids[i] < E;
  if (!inside) throw std::invalid_argument("experts must be in [0, " + std::to_string(E) + ")");
}

void GateBackwardCall(DType dtype, Strided logits, Address d_weights, Address router_scale,
                      Address experts, Address d_logits, Address d_router_scale, int64_t T,
                      int64_t E, int64_t K, Score score, bool renormalize, float scaling,
                      bool given, int threads) {
  GateBackward s{ToMatrix(logits),
                 At<float>(d_weights),
                 At<float>(router_scale),
                 At<int32_t>(experts),
                 At<void>(d_logits),
                 At<double>(d_router_scale),
                 T,
                 E,
                 K,
                 score,
                 renormalize,
                 scaling,
                 {}};
  if (!given) CheckIds(s.experts, T * K, E);
  Run(Chosen().gate_backward, dtype, s, threads, Threads(threads, 16.0 * T * E));
}

void LossCall(DType dtype, Strided logits, Address experts, bool wide, Address f, Address loss,
              int64_t T, int64_t E, int64_t K, Score score, int threads) {
  Loss s{ToMatrix(logits), At<float>(f), At<float>(loss), nullptr, T, E, score, {}};
  // ids out of range count for no expert
  std::vector<int64_t> counts(E);
  auto count = [&](const auto* ids) {
    for (int64_t i = 0; i < T * K; i++)
      if (ids[i] >= 0 && ids[i] < E) counts[ids[i]]++;
  };
  wide ? count(At<int64_t>(experts)) : count(At<int32_t>(experts));
  for (int64_t e = 0; e < E; e++)
    s.f[e] = float(double(counts[e]) * E / double(std::max<int64_t>(T * K, 1)));
  Run(Chosen().loss, dtype, s, threads, Threads(threads, 16.0 * T * E));
}

void LossBackwardCall(DType dtype, Strided logits, Address f, Address d_loss, Address d_logits,
                      int64_t T, int64_t E, Score score, int threads) {
  Loss s{ToMatrix(logits), At<float>(f), At<float>(d_loss), At<void>(d_logits), T, E, score, {}};
  Run(Chosen().loss_backward, dtype, s, threads, Threads(threads, 16.0 * T * E));
}

void RouteCall(Address experts, bool wide, int64_t T, int64_t K, int64_t E, int64_t G,
               Address row_to_slot, Address slot_to_row, Address offsets) {
  if (G < 1 || K % G || E % G)
    throw std::invalid_argument("num_groups must divide K=" + std::to_string(K) +
                                " and E=" + std::to_string(E) + ", got " + std::to_string(G));
  auto run = [&](const auto* ids) {
    Route(ids, T, K, E, G, At<int32_t>(row_to_slot), At<int32_t>(slot_to_row),
          At<int32_t>(offsets));
  };
  wide ? run(At<int64_t>(experts)) : run(At<int32_t>(experts));
}

// Every argument goes by name: most are integers, and two that changed places would go unseen.
template <typename Function, typename... Names>
void Def(py::module_& m, const char* name, Function function, Names... names) {
  m.def(name, function, py::kw_only(), py::arg(names)..., py::call_guard<py::gil_scoped_release>());
}

// A function of bindings whose first argument is a kernel of the chosen level.
template <typename Args, typename... Rest, typename... Names>
void DefKernel(py::module_& m, const char* name, void (*call)(const Kernel<Args>&, Rest...),
               Kernel<Args> Kernels::* kernel, Names... names) {
  Def(m, name, [call, kernel](Rest... rest) { call(Chosen().*kernel, rest...); }, names...);
}

void DefMlpForward(py::module_& m, const char* name, Kernel<MlpForward> Kernels::* kernel) {
  DefKernel(m, name, MlpForwardCall, kernel, "dtype", "x", "w_gate_up", "w_down", "gate_up", "down",
            "b_gate_up", "b_down", "weights", "routing", "y", "pre", "H", "F", "activation",
            "weight_on_activation", "threads");
}

template <Matrix Gemm::* Result>
void DefGemm(py::module_& m, const char* name, Kernel<Gemm> Kernels::* kernel) {
  DefKernel(m, name, GemmCall<Result>, kernel, "dtype", "rows", "weight", "coding", "out",
            "offsets", "N", "I", "O", "E", "threads");
}

void DefRowwise(py::module_& m, const char* name, Kernel<Rowwise> Kernels::* kernel) {
  DefKernel(m, name, RowwiseCall, kernel, "dtype", "x", "rows", "weights", "out", "d_weights",
            "row_to_slot", "slot_to_row", "T", "K", "N", "H", "threads");
}

void DefSwiglu(py::module_& m, const char* name, Kernel<Swiglu> Kernels::* kernel) {
  DefKernel(m, name, SwigluCall, kernel, "dtype", "gate_up", "d_act", "out", "N", "F", "threads");
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  py::enum_<DType>(m, "DType", py::module_local())
      .value("float32", DType::kFloat32)
      .value("bfloat16", DType::kBfloat16)
      .value("float16", DType::kFloat16);
  py::enum_<Format>(m, "Format", py::module_local())
      .value("int8", Format::kInt8)
      .value("int4", Format::kInt4)
      .value("fp8", Format::kFp8)
      .value("fp4", Format::kFp4);
  py::enum_<Function>(m, "Function", py::module_local())
      .value("silu", Function::kSilu)
      .value("gelu", Function::kGelu)
      .value("gelu_tanh", Function::kGeluTanh)
      .value("relu", Function::kRelu)
      .value("relu2", Function::kRelu2);
  py::enum_<Score>(m, "Score", py::module_local())
      .value("softmax", Score::kSoftmax)
      .value("sigmoid", Score::kSigmoid)
      .value("sqrtsoftplus", Score::kSqrtSoftplus);
  m.def("levels", [] {
    std::vector<std::pair<std::string, std::string>> found;
    for (const Level& level : Levels()) found.emplace_back(level.name, level.missing);
    return found;
  });
  m.def("level", [] {
    const Level* level = chosen;
    return level ? level->name : std::string();
  });
  m.def("set_level", SetLevel, py::arg("name"));
  m.def("has_threads", HasThreads);
  DefMlpForward(m, "grouped_mlp_fwd", &Kernels::mlp_forward);
  DefMlpForward(m, "grouped_mlp_int8_fwd", &Kernels::mlp_forward_int8);
  Def(m, "grouped_mlp_bwd", MlpBackwardCall, "dtype", "d_y", "x", "w_gate_up", "w_down", "gate_up",
      "down", "b_down", "weights", "routing", "pre", "d_x", "d_w_gate_up", "d_w_down",
      "d_b_gate_up", "d_b_down", "d_weights", "d_series", "H", "F", "activation", "threads");
  DefGemm<&Gemm::out>(m, "grouped_gemm_fwd", &Kernels::gemm);
  DefGemm<&Gemm::out>(m, "grouped_gemm_int8_fwd", &Kernels::gemm_int8);
  DefGemm<&Gemm::rows>(m, "grouped_gemm_dx", &Kernels::gemm_dx);
  DefGemm<&Gemm::weight>(m, "grouped_gemm_dw", &Kernels::gemm_dw);
  DefRowwise(m, "permute_fwd", &Kernels::permute);
  DefRowwise(m, "unpermute_fwd", &Kernels::unpermute);
  DefRowwise(m, "unpermute_bwd", &Kernels::unpermute_backward);
  DefSwiglu(m, "swiglu_fwd", &Kernels::swiglu);
  DefSwiglu(m, "swiglu_bwd", &Kernels::swiglu_backward);
  Def(m, "grouped_gate_fwd", GateCall, "dtype", "logits", "bias", "router_scale", "weights",
      "experts", "counts", "given", "wide", "T", "E", "G", "k", "score", "renormalize", "scaling",
      "threads");
  Def(m, "grouped_gate_bwd", GateBackwardCall, "dtype", "logits", "d_weights", "router_scale",
      "experts", "d_logits", "d_router_scale", "T", "E", "K", "score", "renormalize", "scaling",
      "given", "threads");
  Def(m, "load_balance_loss_fwd", LossCall, "dtype", "logits", "experts", "wide", "f", "loss", "T",
      "E", "K", "score", "threads");
  Def(m, "load_balance_loss_bwd", LossBackwardCall, "dtype", "logits", "f", "d_loss", "d_logits",
      "T", "E", "score", "threads");
  Def(m, "route_fwd", RouteCall, "experts", "wide", "T", "K", "E", "G", "row_to_slot",
      "slot_to_row", "offsets");
}
