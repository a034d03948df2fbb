// Tiling data to bytes.
#include <algorithm>

#include "../rounding.h"
#include "register/tilingdata_base.h"

size_t TilingDef::AddField(const void* field, size_t bytes, size_t alignment) {
  const auto place = static_cast<const char*>(field) - reinterpret_cast<const char*>(this);
  fields_.push_back({place, bytes, alignment});
  return fields_.size() - 1;
}

// The fields of a struct, flat: they start where a struct of them would.
size_t TilingDef::AddField(const TilingDef& fields) {
  const auto place = reinterpret_cast<const char*>(&fields) - reinterpret_cast<const char*>(this);
  const size_t alignment = fields.Alignment();
  bool first = true;
  for (const Field& field : fields.fields_) {
    fields_.push_back({place + field.place, field.bytes, first ? alignment : field.alignment});
    first = false;
  }
  if (alignment > 1) fields_.push_back({0, 0, alignment});  // its size, too, is aligned
  return fields_.size() - 1;
}

size_t TilingDef::Alignment() const {
  size_t alignment = 1;
  for (const Field& field : fields_) alignment = std::max(alignment, field.alignment);
  return alignment;
}

size_t TilingDef::GetDataSize() const {
  size_t at = 0;
  for (const Field& field : fields_) at = emulator::RoundUp(at, field.alignment) + field.bytes;
  return emulator::RoundUp(at, Alignment());
}

void TilingDef::SaveToBuffer(void* buffer, size_t capacity) const {
  const size_t size = GetDataSize();
  if (buffer == nullptr || capacity < size) return;
  auto* const to = static_cast<char*>(buffer);
  std::memset(to, 0, size);
  size_t at = 0;
  for (const Field& field : fields_) {
    at = emulator::RoundUp(at, field.alignment);
    std::memcpy(to + at, reinterpret_cast<const char*>(this) + field.place, field.bytes);
    at += field.bytes;
  }
}
