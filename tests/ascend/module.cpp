// The Python module: kernels by name, over NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "kernels.h"
#include "python.h"

namespace py = pybind11;

namespace {

using Array = py::array_t<uint8_t, py::array::c_style>;

emulator::Allocation Describe(Array& array, const char* name, emulator::Access access,
                              bool bulk = false) {
  return {array.mutable_data(), static_cast<uint64_t>(array.nbytes()), name, access, bulk};
}

py::dict RunCase(const std::vector<moge_tests::Case>& cases, const std::string& name, Array x,
                 Array y, Array z, bool strict, bool checks, bool counting, bool bulk,
                 uint64_t seed, const std::string& rules) {
  for (const moge_tests::Case& entry : cases) {
    if (entry.name != name) continue;
    emulator::Options options = entry.options;
    options.name = name;
    options.strict = options.strict || strict;
    options.checks = checks;
    bulk = bulk || options.counting;
    options.counting = options.counting || counting;
    options.seed = seed;
    options.rules = rules;
    options.allocations = {Describe(x, "x", emulator::Access::kIn, bulk),
                           Describe(y, "y", emulator::Access::kOut, bulk),
                           Describe(z, "z", emulator::Access::kInOut)};
    return emulator::ToDict(emulator::Launch(
        options, [&] { entry.kernel(x.mutable_data(), y.mutable_data(), z.mutable_data()); }));
  }
  throw std::invalid_argument("no kernel " + name);
}

std::vector<std::string> Names(const std::vector<moge_tests::Case>& cases) {
  std::vector<std::string> names;
  for (const moge_tests::Case& entry : cases) names.push_back(entry.name);
  return names;
}

}  // namespace

PYBIND11_MODULE(moge_emulator_tests, m) {
  emulator::Bind(m);
  m.def("must_fail", [] { return Names(moge_tests::MustFail()); });
  m.def("must_pass", [] { return Names(moge_tests::MustPass()); });
  const auto define = [&m](const char* name, const std::vector<moge_tests::Case>& cases) {
    m.def(
        name,
        [&cases](const std::string& kernel, Array x, Array y, Array z, bool strict, bool checks,
                 bool counting, bool bulk, uint64_t seed, const std::string& rules) {
          return RunCase(cases, kernel, x, y, z, strict, checks, counting, bulk, seed, rules);
        },
        py::arg("kernel"), py::arg("x"), py::arg("y"), py::arg("z"), py::arg("strict") = false,
        py::arg("checks") = true, py::arg("counting") = false, py::arg("bulk") = false,
        py::arg("seed") = 0, py::arg("rules") = "");
  };
  define("fail", moge_tests::MustFail());
  define("run", moge_tests::MustPass());
  define("run_cube", moge_tests::MustPassCube());
  define("run_adv", moge_tests::AdvPass());
  define("schedule", moge_tests::Schedules());
  define("utility", moge_tests::Utilities());
  define("sync", moge_tests::Syncs());
  define("rearrange", moge_tests::Rearranged());
  define("matrix", moge_tests::Matrices());
  define("data_copy", moge_tests::DataCopies());
  define("framework", moge_tests::Frameworks());
  define("random_cube", moge_tests::RandomCubes());
  define("random_vector", moge_tests::RandomVectors());
  // (what GatherMask counted, counters)
  m.def("instruction", [](const py::dict& fields, Array image, Array result) {
    moge_tests::Instruction call;
    // clang-format off: a list
#define TAKE(field) if (fields.contains(#field)) call.field = fields[#field].cast<decltype(call.field)>();
    TAKE(op) TAKE(dtype) TAKE(src_dtype) TAKE(form) TAKE(dst) TAKE(src0) TAKE(src1) TAKE(tmp)
    TAKE(low) TAKE(high) TAKE(repeat) TAKE(strides) TAKE(scalar) TAKE(mode) TAKE(flag)
    TAKE(counter) TAKE(out_begin) TAKE(out_end)
#undef TAKE
        // clang-format on
        emulator::Options options;
    options.name = call.op;
    options.allocations = {Describe(image, "image", emulator::Access::kIn),
                           Describe(result, "result", emulator::Access::kOut)};
    uint64_t taken = 0;
    const emulator::Counters counters = emulator::Launch(options, [&] {
      taken = moge_tests::Execute(call, image.mutable_data(), result.mutable_data());
    });
    return py::make_tuple(taken, emulator::ToDict(counters));
  });
}
