// Prints, dumps and assertions of device code.
#include "debug.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "core.h"

namespace emulator {

namespace {

template <typename T>
std::string NumberText(const uint8_t* bytes, uint64_t index) {
  if constexpr (std::is_same_v<T, AscendC::int4b_t>) {
    const int half_byte = bytes[index / 2] >> (index % 2 * 4) & 15;
    return std::to_string((half_byte ^ 8) - 8);
  } else {
    T value;
    std::memcpy(&value, bytes + index * sizeof value, sizeof value);
    if constexpr (std::is_integral_v<T>) return std::to_string(value);
    return std::to_string(static_cast<float>(value));
  }
}

std::string ElementText(const uint8_t* bytes, DType dtype, uint64_t index) {
  using Text = std::string (*)(const uint8_t*, uint64_t);
  static constexpr Text kTexts[] = {
#define MOGE_DTYPE(name, type, text) NumberText<type>,
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kTexts[static_cast<int>(dtype)](bytes, index);
}

// The elements of a tensor as texts; `?` for one that was never written.
std::vector<std::string> Elements(const LocalRef& ref, DType dtype, uint64_t offset,
                                  uint32_t count) {
  Core& core = CurrentCore();
  // the last int4 may be alone in its byte
  const uint64_t bytes = BytesOf(dtype, count) + (dtype == DType::kInt4 ? count % 2 : 0);
  const uint32_t begin = core.Check(ref, BytesOf(dtype, offset), bytes, 1);
  const LocalMemory& memory = core.Local(MemoryOf(ref.position));
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t first = begin + BytesOf(dtype, i);
    const uint64_t end = first + SizeOf(dtype);
    const bool known =
        memory.state.empty() ||
        std::all_of(memory.state.begin() + first, memory.state.begin() + end,
                    [](uint8_t state) { return state == static_cast<uint8_t>(ByteState::kValid); });
    texts.push_back(known ? ElementText(memory.bytes.data() + begin, dtype, i) : "?");
  }
  return texts;
}

std::vector<std::string> Elements(const GlobalRef& ref, DType dtype, uint64_t offset,
                                  uint32_t count) {
  Core& core = CurrentCore();
  core.CheckGlobal(ref, BytesOf(dtype, offset), BytesOf(dtype, count), 1);
  if (core.IsBulk(ref)) return std::vector<std::string>(count, "?");
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < count; ++i) {
    texts.push_back(ElementText(ref.address + BytesOf(dtype, offset), dtype, i));
  }
  return texts;
}

// Brackets as the shape nests them; `-` for elements of it that were not asked for.
std::string Nested(const std::vector<std::string>& texts, const AscendC::ShapeInfo& shape, int dim,
                   uint64_t& at) {
  const bool innermost = dim + 1 >= std::min<int>(shape.shapeDim, AscendC::K_MAX_DIM);
  std::string text = "[";
  for (uint32_t i = 0; i < shape.shape[dim]; ++i) {
    if (i > 0) text += innermost ? ", " : ",\n";
    if (!innermost) {
      text += Nested(texts, shape, dim + 1, at);
    } else {
      text += at < texts.size() ? texts[at] : "-";
      ++at;
    }
  }
  return text + "]";
}

std::string Joined(const std::vector<std::string>& texts, uint64_t from, uint64_t to) {
  std::string text;
  for (uint64_t i = from; i < to; ++i) text += (i > from ? ", " : "") + texts[i];
  return text;
}

template <typename Ref>
void DumpElements(const Ref& ref, const std::string& place, DType dtype, uint64_t offset,
                  uint32_t number, uint32_t count, const AscendC::ShapeInfo* shape) {
  Enter(Op::kDump);
  const std::vector<std::string> texts = Elements(ref, dtype, offset, count);
  std::string body;
  uint64_t shown = 0;
  if (shape != nullptr && shape->shapeDim > 0) body = Nested(texts, *shape, 0, shown) + "\n";
  if (shown < texts.size()) body += "[" + Joined(texts, shown, texts.size()) + "]\n";
  PrintText("DumpTensor: desc=%u, %s, data_type=%s, dump_size=%u, %s\n%s", number, place.c_str(),
            Name(dtype), count, CurrentCore().Who().c_str(), body.c_str());
}

}  // namespace

void PrintText(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const std::string text = Formatted(format, arguments);
  va_end(arguments);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

std::string FormatText(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = Formatted(format, arguments);
  va_end(arguments);
  return text;
}

void FailAssertion(const char* file, int line, const char* expression, const std::string& text) {
  if (!InKernel()) {  // of the host's code in the same file
    std::fprintf(stderr, "%s:%d: Assertion `%s' failed. %s\n", file, line, expression,
                 text.c_str());
    std::abort();
  }
  Enter(Op::kAssert);
  Fail(Rule::kAssert, "%s:%d: `%s' is false. %s", file, line, expression, text.c_str());
}

void PrintBlocks(const LocalRef& ref, DType dtype, uint32_t count) {
  const std::vector<std::string> texts = Elements(ref, dtype, 0, count);
  const uint64_t row = ElementsIn(dtype, kBlockBytes);
  std::string text;
  for (uint64_t i = 0; i < texts.size(); i += row) {
    text += FormatText("%04llu: ", Number(i)) +
            Joined(texts, i, std::min<uint64_t>(i + row, texts.size())) + "\n";
  }
  PrintText("%s", text.c_str());
}

int32_t WriteFile(const LocalRef& ref, uint32_t bytes, const char* path) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, 0, bytes, 1);
  std::FILE* file = std::fopen(path, "wb");
  if (file == nullptr) return 1;
  const uint8_t* data = core.Local(MemoryOf(ref.position)).bytes.data() + begin;
  const bool whole = std::fwrite(data, 1, bytes, file) == bytes;
  return std::fclose(file) == 0 && whole ? 0 : 1;
}

void Dump(const LocalRef& ref, DType dtype, uint64_t offset, uint32_t number, uint32_t count,
          const AscendC::ShapeInfo* shape) {
  const std::string place =
      FormatText("addr=%llu, position=%s", Number(ref.begin + BytesOf(dtype, offset)),
                 Name(MemoryOf(ref.position)));
  DumpElements(ref, place, dtype, offset, number, count, shape);
}

void Dump(const GlobalRef& ref, DType dtype, uint64_t offset, uint32_t number, uint32_t count,
          const AscendC::ShapeInfo* shape) {
  const std::string place =
      FormatText("addr=%p, position=GM", static_cast<void*>(ref.address + BytesOf(dtype, offset)));
  DumpElements(ref, place, dtype, offset, number, count, shape);
}

namespace {

std::vector<AscendC::ShapeInfo>& Shapes() {
  static thread_local std::vector<AscendC::ShapeInfo> shapes;
  return shapes;
}

}  // namespace

int32_t KeepShape(const AscendC::ShapeInfo& shape) {
  std::vector<AscendC::ShapeInfo>& shapes = Shapes();
  const auto same = [&shape](const AscendC::ShapeInfo& other) {
    return other.shapeDim == shape.shapeDim && other.originalShapeDim == shape.originalShapeDim &&
           other.dataFormat == shape.dataFormat &&
           std::equal(other.shape, other.shape + AscendC::K_MAX_DIM, shape.shape) &&
           std::equal(other.originalShape, other.originalShape + AscendC::K_MAX_DIM,
                      shape.originalShape);
  };
  const auto found = std::find_if(shapes.begin(), shapes.end(), same);
  const auto number = static_cast<int32_t>(found - shapes.begin());
  if (found == shapes.end()) shapes.push_back(shape);
  return number;
}

AscendC::ShapeInfo FindShape(int32_t number) {
  return number < 0 ? AscendC::ShapeInfo() : Shapes()[number];
}

}  // namespace emulator
