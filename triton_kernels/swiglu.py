"""SwiGLU kernels: one program per row and column tile."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import acc_dtype, narrow

BLOCK_F = 1024


@triton.jit
def _swiglu_fwd_kernel(
    gate_up_ptr,  # [N, 2F]
    act_ptr,  # [N, F]
    stride_gate_up_n,
    stride_gate_up_f,
    F,
    ACC: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    pid_n = tl.program_id(0).to(tl.int64)
    offs_f = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask_f = offs_f < F

    gate_ptrs = gate_up_ptr + pid_n * stride_gate_up_n + offs_f * stride_gate_up_f
    gate = tl.load(gate_ptrs, mask=mask_f, other=0.0).to(ACC)  # [BLOCK_F]
    up_ptrs = gate_up_ptr + pid_n * stride_gate_up_n + (offs_f + F) * stride_gate_up_f
    up = tl.load(up_ptrs, mask=mask_f, other=0.0).to(ACC)  # [BLOCK_F]
    act = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(act_ptr + pid_n * F + offs_f, narrow(act, act_ptr.dtype.element_ty), mask=mask_f)


@triton.jit
def _swiglu_bwd_kernel(
    d_act_ptr,  # [N, F]
    gate_up_ptr,  # [N, 2F]
    d_gate_up_ptr,  # [N, 2F]
    stride_d_act_n,
    stride_d_act_f,
    stride_gate_up_n,
    stride_gate_up_f,
    F,
    ACC: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    pid_n = tl.program_id(0).to(tl.int64)
    offs_f = tl.program_id(1).to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask_f = offs_f < F

    d_act_ptrs = d_act_ptr + pid_n * stride_d_act_n + offs_f * stride_d_act_f
    gate_ptrs = gate_up_ptr + pid_n * stride_gate_up_n + offs_f * stride_gate_up_f
    d_act = tl.load(d_act_ptrs, mask=mask_f, other=0.0).to(ACC)  # [BLOCK_F]
    gate = tl.load(gate_ptrs, mask=mask_f, other=0.0).to(ACC)  # [BLOCK_F]
    up_ptrs = gate_up_ptr + pid_n * stride_gate_up_n + (offs_f + F) * stride_gate_up_f
    up = tl.load(up_ptrs, mask=mask_f, other=0.0).to(ACC)  # [BLOCK_F]

    # recomputing the sigmoid is cheaper than saving the activation
    sig = 1.0 / (1.0 + tl.exp(-gate))
    d_gate = d_act * up * sig * (1.0 + gate * (1.0 - sig))
    d_up = d_act * gate * sig

    d_gate_ptrs = d_gate_up_ptr + pid_n * 2 * F + offs_f
    dtype = d_gate_up_ptr.dtype.element_ty
    tl.store(d_gate_ptrs, narrow(d_gate, dtype), mask=mask_f)
    tl.store(d_gate_ptrs + F, narrow(d_up, dtype), mask=mask_f)


def swiglu_fwd(gate_up: Tensor) -> Tensor:
    """``[N, 2F] -> [N, F]``."""
    N, F = gate_up.shape[0], gate_up.shape[1] // 2
    act = gate_up.new_empty(N, F)
    if act.numel():
        _swiglu_fwd_kernel[(N, triton.cdiv(F, BLOCK_F))](
            gate_up, act, *gate_up.stride(), F, ACC=acc_dtype(gate_up.dtype), BLOCK_F=BLOCK_F
        )
    return act


def swiglu_bwd(d_act: Tensor, gate_up: Tensor) -> Tensor:
    """``[N, F], [N, 2F] -> [N, 2F]``."""
    N, F = d_act.shape
    d_gate_up = torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device)
    if d_act.numel():
        _swiglu_bwd_kernel[(N, triton.cdiv(F, BLOCK_F))](
            d_act,
            gate_up,
            d_gate_up,
            *d_act.stride(),
            *gate_up.stride(),
            F,
            ACC=acc_dtype(gate_up.dtype),
            BLOCK_F=BLOCK_F,
        )
    return d_gate_up
