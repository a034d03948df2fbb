// The Python module moge_ops._C: plain functions over pointers and sizes, no libtorch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops.h"
#ifndef MOGE_ASCEND_CANN
#include "emulation.h"
#include "emulator/python.h"
#endif

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Ascend C kernels of moge_ops.";
  py::enum_<moge::DType>(m, "DType")
      .value("float16", moge::DType::kFloat16)
      .value("bfloat16", moge::DType::kBfloat16)
      .value("float32", moge::DType::kFloat32);

  py::class_<moge::GateShape>(m, "GateShape")
      .def(py::init<int64_t, int64_t, int64_t, int64_t>(), py::arg("T"), py::arg("E"), py::arg("G"),
           py::arg("k"));
  m.def("grouped_gate_blocks", &moge::GateBlocks);
  m.def("grouped_gate_fwd", &moge::GroupedGateForward);
  m.def("grouped_gate_bwd", &moge::GroupedGateBackward);
  m.def("load_balance_loss_fwd", &moge::LoadBalanceLossForward);
  m.def("load_balance_loss_bwd", &moge::LoadBalanceLossBackward);
  py::class_<moge::GemmShape>(m, "GemmShape")
      .def(py::init<int64_t, int64_t, int64_t, int64_t>(), py::arg("N"), py::arg("E"),
           py::arg("out"), py::arg("in_"));
  m.def("grouped_gemm_pitch", &moge::GemmPitch);
  m.def("grouped_gemm_fwd", &moge::GroupedGemmForward);
  m.def("grouped_gemm_dx", &moge::GroupedGemmDx);
  m.def("grouped_gemm_dw", &moge::GroupedGemmDw);
  m.def("grouped_mlp_ring", &moge::GroupedMlpRing);
  m.def("grouped_mlp_up", &moge::GroupedMlpUp);
  m.def("grouped_mlp_bwd", &moge::GroupedMlpBackward);
  m.def("route_blocks", &moge::RouteBlocks);
  m.def("route_fwd", &moge::RouteForward);
  m.def("permute_fwd", &moge::PermuteForward);
  m.def("unpermute_fwd", &moge::UnpermuteForward);
  m.def("unpermute_bwd", &moge::UnpermuteBackward);
  m.def("swiglu_fwd", &moge::SwigluForward);
  m.def("swiglu_bwd", &moge::SwigluBackward);

#ifdef MOGE_ASCEND_CANN
  m.attr("BACKEND") = "cann";
#else
  m.attr("BACKEND") = "emulate";
  emulator::Bind(m);
  m.def(
      "set_emulation",
      [](uint32_t cores, bool strict, bool checks, uint64_t seed, bool counting) {
        moge::Emulation& emulation = moge::TheEmulation();
        emulation.cores = cores;
        emulation.strict = strict;
        emulation.checks = checks;
        emulation.seed = seed;
        emulation.counting = counting;
      },
      py::kw_only(), py::arg("cores") = 48, py::arg("strict") = false, py::arg("checks") = true,
      py::arg("seed") = 0, py::arg("counting") = false);
  m.def(
      "start_recording",
      [](const std::string& device, const std::vector<uint32_t>& pictured) {
        moge::Emulation& emulation = moge::TheEmulation();
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
    moge::TheEmulation().record = false;
    py::list launches;
    for (const emulator::Counters& counters : moge::TheEmulation().launches) {
      launches.append(emulator::ToDict(counters));
    }
    return launches;
  });
#endif
}
