// Tiling data as a class with a getter and a setter for each field, and its bytes for the kernel.
#ifndef MOGE_EMULATOR_HOST_TILINGDATA_BASE_H_
#define MOGE_EMULATOR_HOST_TILINGDATA_BASE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

// What every class of tiling data is.
class TilingDef {
 public:
  virtual ~TilingDef() = default;

  // The fields in their order, each aligned to its size as in a struct of the kernel.
  void SaveToBuffer(void* buffer, size_t capacity) const;
  size_t GetDataSize() const;

 protected:
  // Returns the number of the field: the initialiser of a member, by which it is called, needs some
  // value.
  size_t AddField(const void* field, size_t bytes, size_t alignment);
  size_t AddField(const TilingDef& fields);

 private:
  struct Field {
    ptrdiff_t place;  // from this object
    size_t bytes, alignment;
  };
  size_t Alignment() const;

  std::vector<Field> fields_;
};

#define BEGIN_TILING_DATA_DEF(class_name) \
  class class_name : public TilingDef {   \
   public:

#define TILING_DATA_FIELD_DEF(data_type, field_name)                                            \
 public:                                                                                        \
  void set_##field_name(data_type value) { field_name##_ = value; }                             \
  data_type get_##field_name() const { return field_name##_; }                                  \
                                                                                                \
 private:                                                                                       \
  data_type field_name##_ = {};                                                                 \
  size_t field_name##_place_ = AddField(&field_name##_, sizeof(data_type), alignof(data_type)); \
                                                                                                \
 public:

#define TILING_DATA_FIELD_DEF_ARR(arr_type, arr_size, field_name)                                \
 public:                                                                                         \
  void set_##field_name(const arr_type* values) {                                                \
    std::memcpy(field_name##_, values, sizeof field_name##_);                                    \
  }                                                                                              \
  arr_type* get_##field_name() { return field_name##_; }                                         \
                                                                                                 \
 private:                                                                                        \
  arr_type field_name##_[arr_size] = {};                                                         \
  size_t field_name##_place_ = AddField(field_name##_, sizeof field_name##_, alignof(arr_type)); \
                                                                                                 \
 public:

#define TILING_DATA_FIELD_DEF_STRUCT(struct_type, field_name) \
 public:                                                      \
  struct_type field_name;                                     \
                                                              \
 private:                                                     \
  size_t field_name##_place_ = AddField(field_name);          \
                                                              \
 public:

#define END_TILING_DATA_DEF }

// The framework looks tiling data up by the operator's name; a program that launches its kernel
// itself has the class.
#define REGISTER_TILING_DATA_CLASS(op_type, class_name) \
  static_assert(sizeof(class_name) > 0, "tiling data of an operator");

#endif  // MOGE_EMULATOR_HOST_TILINGDATA_BASE_H_
