// What the public Ascend C headers use of a header that is not public: enumerations and the
// intrinsics behind the API. Names only, as the compiler reports them undeclared: numbers mean
// nothing here, and an intrinsic takes any arguments. `typecheck.py` says what is checked with it.
#ifndef MOGE_TYPECHECK_STUB_FUN_H_
#define MOGE_TYPECHECK_STUB_FUN_H_

#include <cstdint>

enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_FIX, PIPE_ALL };
enum event_t {
  EVENT_ID0,
  EVENT_ID1,
  EVENT_ID2,
  EVENT_ID3,
  EVENT_ID4,
  EVENT_ID5,
  EVENT_ID6,
  EVENT_ID7
};
enum QuantMode_t {
  NoQuant,
  F322F16,
  F322BF16,
  DEQF16,
  VDEQF16,
  QF322B8_PRE,
  VQF322B8_PRE,
  REQ8,
  VREQ8
};
enum class Order_t { VALUE_INDEX, INDEX_VALUE, ONLY_VALUE, ONLY_INDEX };
enum class cache_line_t { SINGLE_CACHE_LINE, ENTIRE_DATA_CACHE };
enum class dcci_dst_t { CACHELINE_OUT };
enum class pad_t { PAD_NONE };
enum addr_cal_mode_t { inc, dec };
enum mem_t {};
enum mem_dsb_t {};
enum atomic_type_t : int {};
enum atomic_op_t : int {};
enum { VA0, VA1, VA2, VA3 };
enum { L128, H128 };

// Gives a class of the headers, of which no integer can be made.
struct MogeAnyValue {
  template <typename T>
  constexpr operator T() const {
    return T();
  }
};
template <typename... Args>
constexpr MogeAnyValue conv_f322f16o(Args&&...) {
  return {};
}

#define X(name)                        \
  template <typename... Args>          \
  constexpr uint64_t name(Args&&...) { \
    return 0;                          \
  }
// clang-format off: a list, of the vector and of the cube half of the API
X(__ib_set_stub) X(__ib_wait_stub) X(__sync_all_stub) X(AscendCBufAbsAddr) X(AscendCBufAlloc)
X(AscendCBufDeque) X(AscendCBufEnque) X(AscendCBufFree) X(AscendCBufGet) X(AscendCBufInit)
X(AscendCQueCreate) X(AscendCRecordPoolHierarchy) X(AscendCTBufPoolInit)
X(AscendCTBufPoolResetCheck) X(AscendCUpdateTbufPoolStatus) X(bcnt0) X(bcnt1) X(clz)
X(conv_f322s32a) X(conv_f322s32c) X(conv_f322s32f) X(conv_f322s32r) X(copy_cbuf_to_bt)
X(copy_cbuf_to_fbuf) X(copy_cbuf_to_gm) X(copy_gm_to_cbuf) X(copy_gm_to_cbuf_multi_nd2nz_b16)
X(copy_gm_to_cbuf_multi_nd2nz_b32s) X(copy_gm_to_cbuf_multi_nd2nz_b8) X(copy_gm_to_ubuf)
X(copy_gm_to_ubuf_align_b16) X(copy_gm_to_ubuf_align_b32) X(copy_gm_to_ubuf_align_b8)
X(copy_matrix_cc_to_cbuf) X(copy_matrix_cc_to_gm) X(copy_ubuf_to_gm) X(copy_ubuf_to_gm_align_b16)
X(copy_ubuf_to_gm_align_b32) X(copy_ubuf_to_gm_align_b8) X(copy_ubuf_to_ubuf) X(create_ca_matrix)
X(create_ca_matrix_bf16) X(create_cb_matrix) X(create_cb_matrix_bf16) X(create_cbuf_matrix)
X(create_cbuf_matrix_bf16) X(dc_preload) X(dcci) X(dsb) X(ffts_cross_core_sync) X(get_acc_val)
X(get_arch_ver) X(get_block_idx) X(get_block_num) X(get_ctrl) X(get_icache_prl_st)
X(get_max_min_cnt) X(get_pc) X(get_rsvd_cnt) X(get_st_atomic_cfg) X(get_vms4_sr) X(hset_flag)
X(hwait_flag) X(img2colv2_cbuf_to_ca) X(img2colv2_cbuf_to_ca_s4) X(img2colv2_cbuf_to_cb)
X(ld_dev) X(load_cbuf_to_ca) X(load_cbuf_to_ca_s4) X(load_cbuf_to_ca_transpose)
X(load_cbuf_to_cb) X(load_cbuf_to_cb_s4) X(load_cbuf_to_cb_sp) X(load_cbuf_to_cb_transpose)
X(load_cbuf_to_cb_transpose_s4) X(load_gm_to_ca) X(load_gm_to_cb) X(load_gm_to_cbuf) X(mad)
X(mad_s4) X(mad_sp) X(pipe_barrier) X(preload) X(sbitset0) X(sbitset1) X(scatter_vnchwconv_b16)
X(scatter_vnchwconv_b32) X(scatter_vnchwconv_b8) X(set_aipp_spr_0) X(set_aipp_spr_1)
X(set_aipp_spr_18) X(set_aipp_spr_19) X(set_aipp_spr_2) X(set_aipp_spr_20) X(set_aipp_spr_21)
X(set_aipp_spr_3) X(set_aipp_spr_4) X(set_aipp_spr_5) X(set_aipp_spr_6) X(set_aipp_spr_7)
X(set_aipp_spr_8) X(set_aipp_spr_9) X(set_atomic_add) X(set_atomic_bf16) X(set_atomic_f16)
X(set_atomic_f32) X(set_atomic_max) X(set_atomic_min) X(set_atomic_none) X(set_atomic_s16)
X(set_atomic_s32) X(set_atomic_s8) X(set_cmpmask) X(set_ctrl) X(set_data_exp_0) X(set_data_exp_1)
X(set_data_exp_2) X(set_data_exp_3) X(set_deqscale) X(set_ffts_base_addr) X(set_flag)
X(set_fmatrix) X(set_fmatrix_b) X(set_fpc) X(set_l1_3d_size) X(set_l3d_rpt) X(set_mask_count)
X(set_mask_norm) X(set_mov_pad_val) X(set_nd_para) X(set_padding) X(set_quant_pre)
X(set_st_atomic_cfg) X(set_va_reg_sb) X(set_vector_mask) X(sff0) X(sff1) X(sflbits) X(st_dev)
X(trap) X(vabs) X(vadd) X(vadds) X(vand) X(vaxpy) X(vbitsort) X(vbrcb) X(vcadd) X(vcgadd)
X(vcgmax) X(vcgmin) X(vcmax) X(vcmin) X(vcmp_eq) X(vcmp_ge) X(vcmp_gt) X(vcmp_le) X(vcmp_lt)
X(vcmp_ne) X(vcmpv_eq) X(vcmpv_ge) X(vcmpv_gt) X(vcmpv_le) X(vcmpv_lt) X(vcmpv_ne) X(vcmpvs_eq)
X(vcmpvs_ge) X(vcmpvs_gt) X(vcmpvs_le) X(vcmpvs_lt) X(vcmpvs_ne) X(vconv_bf162f32)
X(vconv_bf162s32a) X(vconv_bf162s32c) X(vconv_bf162s32f) X(vconv_bf162s32r) X(vconv_bf162s32z)
X(vconv_deq) X(vconv_f162f32) X(vconv_f162s16a) X(vconv_f162s16c) X(vconv_f162s16f)
X(vconv_f162s16r) X(vconv_f162s16z) X(vconv_f162s32a) X(vconv_f162s32c) X(vconv_f162s32f)
X(vconv_f162s32r) X(vconv_f162s32z) X(vconv_f162s4) X(vconv_f162s4a) X(vconv_f162s4c)
X(vconv_f162s4f) X(vconv_f162s4r) X(vconv_f162s4z) X(vconv_f162s8) X(vconv_f162s8a)
X(vconv_f162s8c) X(vconv_f162s8f) X(vconv_f162s8r) X(vconv_f162s8z) X(vconv_f162u8)
X(vconv_f162u8a) X(vconv_f162u8c) X(vconv_f162u8f) X(vconv_f162u8r) X(vconv_f162u8z)
X(vconv_f322bf16a) X(vconv_f322bf16c) X(vconv_f322bf16f) X(vconv_f322bf16r) X(vconv_f322bf16z)
X(vconv_f322f16) X(vconv_f322f16a) X(vconv_f322f16c) X(vconv_f322f16f) X(vconv_f322f16o)
X(vconv_f322f16r) X(vconv_f322f16z) X(vconv_f322f32a) X(vconv_f322f32c) X(vconv_f322f32f)
X(vconv_f322f32r) X(vconv_f322f32z) X(vconv_f322s16a) X(vconv_f322s16c) X(vconv_f322s16f)
X(vconv_f322s16r) X(vconv_f322s16z) X(vconv_f322s32a) X(vconv_f322s32c) X(vconv_f322s32f)
X(vconv_f322s32r) X(vconv_f322s32z) X(vconv_f322s64a) X(vconv_f322s64c) X(vconv_f322s64f)
X(vconv_f322s64r) X(vconv_f322s64z) X(vconv_s162f16) X(vconv_s162f16a) X(vconv_s162f16c)
X(vconv_s162f16f) X(vconv_s162f16r) X(vconv_s162f16z) X(vconv_s162f32) X(vconv_s322f32)
X(vconv_s322f32a) X(vconv_s322f32c) X(vconv_s322f32f) X(vconv_s322f32r) X(vconv_s322f32z)
X(vconv_s322s16) X(vconv_s322s64) X(vconv_s42f16) X(vconv_s642f32a) X(vconv_s642f32c)
X(vconv_s642f32f) X(vconv_s642f32r) X(vconv_s642f32z) X(vconv_s642s32) X(vconv_s82f16)
X(vconv_u82f16) X(vcopy) X(vcpadd) X(vdiv) X(vector_dup) X(vexp) X(vgather) X(vgatherb)
X(vld_va_reg) X(vln) X(vlrelu) X(vmax) X(vmaxs) X(vmin) X(vmins) X(vmla) X(vmrgsort4) X(vmul)
X(vmulconv_f162s8) X(vmulconv_f162u8) X(vmuls) X(vnot) X(vor) X(vrec) X(vreducev2) X(vrelu)
X(vrsqrt) X(vsel) X(vshl) X(vshr) X(vsqrt) X(vsub) X(vtranspose) X(wait_flag) X(wait_flag_dev)
X(get_cmpmask) X(vaddrelu) X(vaddreluconv_f162s8) X(vaddreluconv_f322f16) X(vaddreluconv_s162s8)
X(vmadd) X(vmaddrelu) X(vsubrelu) X(vsubreluconv_f162s8) X(vsubreluconv_f322f16)
X(vsubreluconv_s162s8)
// clang-format on
#undef X

#endif  // MOGE_TYPECHECK_STUB_FUN_H_
