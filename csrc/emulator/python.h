// Counters and errors for Python; included by the extension modules only.
#ifndef MOGE_EMULATOR_PYTHON_H_
#define MOGE_EMULATOR_PYTHON_H_

#include <pybind11/pybind11.h>

#include "launch.h"

namespace emulator {

using namespace pybind11::literals;

// The fields of each kind of counters.
inline pybind11::dict ToDict(const PathCounters& path) {
  pybind11::dict sizes;  // smallest size of the class -> number of pieces
  for (int i = 0; i < kSizeClasses; ++i) {
    if (path.classes[i] != 0) sizes[pybind11::int_(uint64_t{1} << i)] = path.classes[i];
  }
  return pybind11::dict("bytes"_a = path.bytes, "transfers"_a = path.transfers,
                        "pieces"_a = path.pieces, "smallest"_a = path.smallest, "sizes"_a = sizes);
}
inline pybind11::dict ToDict(const VectorCounters& vector) {
  return pybind11::dict("calls"_a = vector.calls, "repeats"_a = vector.repeats,
                        "elements"_a = vector.elements);
}
inline pybind11::dict ToDict(const PipeCounters& pipe) {
  return pybind11::dict("instructions"_a = pipe.instructions, "bytes"_a = pipe.bytes,
                        "cycles"_a = pipe.cycles);
}
inline pybind11::dict ToDict(const ProductCounters& product) {
  return pybind11::dict("calls"_a = product.calls, "fractals"_a = product.fractals,
                        "cycles"_a = product.cycles, "products"_a = product.products);
}
inline pybind11::dict ToDict(const GlobalCounters& memory) {
  return pybind11::dict("read"_a = memory.read, "written"_a = memory.written);
}

template <typename Key, typename Value>
pybind11::dict ToDict(const std::map<Key, Value>& map) {
  pybind11::dict result;
  for (const auto& [key, value] : map) {
    if constexpr (std::is_arithmetic_v<Value>) {
      result[pybind11::cast(key)] = value;
    } else {
      result[pybind11::cast(key)] = ToDict(value);
    }
  }
  return result;
}

inline pybind11::dict ToDict(const CoreCounters& core) {
  return pybind11::dict(
      "paths"_a = ToDict(core.paths), "instructions"_a = ToDict(core.instructions),
      "scalars"_a = ToDict(core.scalars), "waits"_a = ToDict(core.waits),
      "barriers"_a = ToDict(core.barriers), "kind"_a = core.kind, "pipes"_a = ToDict(core.pipes),
      "products"_a = ToDict(core.products), "global"_a = ToDict(core.global),
      "cross"_a = ToDict(core.cross), "peaks"_a = ToDict(core.peaks), "sync_all"_a = core.sync_all,
      "peak_ub"_a = core.peak_ub);
}

inline pybind11::dict ToDict(const Times& times) {
  pybind11::list cores;
  for (const CoreTimes& core : times.cores) {
    cores.append(pybind11::dict("end"_a = core.end, "busy"_a = ToDict(core.busy)));
  }
  pybind11::list picture;
  for (const Slice& slice : times.picture) {
    picture.append(pybind11::make_tuple(slice.core, slice.pipe, slice.op, slice.start, slice.end));
  }
  return pybind11::dict("device"_a = times.device, "clock"_a = times.clock,
                        "cycles"_a = times.cycles, "seconds"_a = times.seconds,
                        "memory_bytes"_a = times.memory_bytes, "l2_bytes"_a = times.l2_bytes,
                        "cores"_a = cores, "picture"_a = picture);
}

// {"name", "total", "AIC" and "AIV": totals of a kind, "cores": [one for each core], "warnings",
// "times": if they were modelled}
inline pybind11::dict ToDict(const Counters& counters) {
  pybind11::list cores;
  for (const CoreCounters& core : counters.cores) cores.append(ToDict(core));
  pybind11::dict result;
  result["name"] = counters.name;
  result["total"] = ToDict(counters.Total());
  pybind11::list warnings;
  for (const Warning& warning : counters.warnings) {
    warnings.append(pybind11::dict("rule"_a = warning.rule, "message"_a = warning.message,
                                   "count"_a = warning.count));
  }
  result["warnings"] = warnings;
  for (const char* kind : {"AIC", "AIV"}) result[kind] = ToDict(counters.Total(kind));
  result["cores"] = cores;
  if (!counters.times.device.empty()) result["times"] = ToDict(counters.times);
  return result;
}

// Adds to the module `EmulatorError`, a RuntimeError with the attribute `rule`, and three functions
// that return a dict: `devices()`, `time_parameters()`, and `rules()`, every rule's level and
// sentence by its id.
inline void Bind(pybind11::module_& module) {
  // never destroyed: an exception may outlive the module
  static PyObject* type = nullptr;
  const std::string name = pybind11::cast<std::string>(module.attr("__name__")) + ".EmulatorError";
  type = PyErr_NewException(name.c_str(), PyExc_RuntimeError, nullptr);
  module.attr("EmulatorError") = pybind11::handle(type);
  pybind11::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const pybind11::object instance = pybind11::handle(type)(error.what());
      instance.attr("rule") = error.rule_id();
      PyErr_SetObject(type, instance.ptr());
    }
  });
  module.def("devices", [] {  // name -> (cube cores, vector cores, Hz, bytes per second)
    pybind11::dict devices;
    for (const Device& device : Devices()) {
      devices[device.name.c_str()] = pybind11::make_tuple(device.cube_cores, device.vector_cores,
                                                          device.clock, device.memory_rate);
    }
    return devices;
  });
  module.def("time_parameters", [] {  // name -> (value, unit, origin)
    pybind11::dict parameters;
    for (const TimeParameter& parameter : TimeParameters()) {
      parameters[parameter.name] =
          pybind11::make_tuple(parameter.value, parameter.unit, parameter.origin);
    }
    return parameters;
  });
  module.def("rules", [] {
    pybind11::dict rules;  // id -> (level, sentence)
    for (const RuleText& rule : Rules()) {
      rules[rule.id.c_str()] = pybind11::make_tuple(rule.level, rule.sentence);
    }
    return rules;
  });
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_PYTHON_H_
