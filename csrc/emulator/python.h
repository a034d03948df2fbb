// Counters and errors for Python; included by the extension modules only.
#ifndef MOGE_EMULATOR_PYTHON_H_
#define MOGE_EMULATOR_PYTHON_H_

#include <pybind11/pybind11.h>

#include "launch.h"

namespace emulator {

inline pybind11::dict ToDict(const CoreCounters& core) {
  pybind11::dict paths;
  for (const auto& [name, path] : core.paths) {
    pybind11::dict sizes;  // smallest size of the class -> number of pieces
    for (int i = 0; i < kSizeClasses; ++i) {
      if (path.classes[i] != 0) sizes[pybind11::int_(uint64_t{1} << i)] = path.classes[i];
    }
    pybind11::dict entry;
    entry["bytes"] = path.bytes;
    entry["transfers"] = path.transfers;
    entry["pieces"] = path.pieces;
    entry["smallest"] = path.smallest;
    entry["sizes"] = sizes;
    paths[name.c_str()] = entry;
  }
  pybind11::dict instructions;
  for (const auto& [key, vector] : core.instructions) {
    pybind11::dict entry;
    entry["calls"] = vector.calls;
    entry["repeats"] = vector.repeats;
    entry["elements"] = vector.elements;
    instructions[pybind11::make_tuple(key.first, key.second)] = entry;
  }
  const auto counts = [](const auto& map) {
    pybind11::dict result;
    for (const auto& [name, count] : map) result[name.c_str()] = count;
    return result;
  };
  pybind11::dict result;
  result["paths"] = paths;
  result["instructions"] = instructions;
  result["scalars"] = counts(core.scalars);
  result["waits"] = counts(core.waits);
  result["barriers"] = counts(core.barriers);
  pybind11::dict pipes;
  for (const auto& [name, pipe] : core.pipes) {
    pybind11::dict entry;
    entry["instructions"] = pipe.instructions;
    entry["bytes"] = pipe.bytes;
    entry["cycles"] = pipe.cycles;
    pipes[name.c_str()] = entry;
  }
  pybind11::dict products;
  for (const auto& [dtype, product] : core.products) {
    pybind11::dict entry;
    entry["calls"] = product.calls;
    entry["fractals"] = product.fractals;
    entry["cycles"] = product.cycles;
    entry["products"] = product.products;
    products[dtype.c_str()] = entry;
  }
  pybind11::dict global;
  for (const auto& [name, memory] : core.global) {
    pybind11::dict entry;
    entry["read"] = memory.read;
    entry["written"] = memory.written;
    global[name.c_str()] = entry;
  }
  result["kind"] = core.kind;
  result["pipes"] = pipes;
  result["products"] = products;
  result["global"] = global;
  result["cross"] = counts(core.cross);
  result["peaks"] = counts(core.peaks);
  result["sync_all"] = core.sync_all;
  result["peak_ub"] = core.peak_ub;
  return result;
}

inline pybind11::dict ToDict(const Times& times) {
  pybind11::list cores;
  for (const CoreTimes& core : times.cores) {
    pybind11::dict busy;
    for (const auto& [pipe, cycles] : core.busy) busy[pipe.c_str()] = cycles;
    pybind11::dict entry;
    entry["end"] = core.end;
    entry["busy"] = busy;
    cores.append(entry);
  }
  pybind11::list picture;
  for (const Slice& slice : times.picture) {
    picture.append(pybind11::make_tuple(slice.core, slice.pipe, slice.op, slice.start, slice.end));
  }
  pybind11::dict result;
  result["device"] = times.device;
  result["clock"] = times.clock;
  result["cycles"] = times.cycles;
  result["seconds"] = times.seconds;
  result["memory_bytes"] = times.memory_bytes;
  result["l2_bytes"] = times.l2_bytes;
  result["cores"] = cores;
  result["picture"] = picture;
  return result;
}

// {"name", "total", "AIC" and "AIV": totals of a kind, "cores": [one for each core], "times": if
// they were modelled}
inline pybind11::dict ToDict(const Counters& counters) {
  pybind11::list cores;
  for (const CoreCounters& core : counters.cores) cores.append(ToDict(core));
  pybind11::dict result;
  result["name"] = counters.name;
  result["total"] = ToDict(counters.Total());
  for (const char* kind : {"AIC", "AIV"}) result[kind] = ToDict(counters.Total(kind));
  result["cores"] = cores;
  if (!counters.times.device.empty()) result["times"] = ToDict(counters.times);
  return result;
}

// Adds `EmulatorError`, a RuntimeError with the attribute `rule`, and `rules()`, a dict of every
// rule's id and sentence, to the module.
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
    pybind11::dict rules;
    for (const auto& [id, text] : Rules()) rules[id.c_str()] = text;
    return rules;
  });
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_PYTHON_H_
