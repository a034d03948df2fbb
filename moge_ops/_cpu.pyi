"""The extension of csrc/cpu/: native kernels over addresses, sizes and strides.

A test holds this file against the module.
"""

from typing import TypeAlias

Matrix: TypeAlias = tuple[int, int, int]
"""Address of rows with adjacent columns; strides, in elements, of the rows and of the experts."""
Routing: TypeAlias = tuple[int, int, int, int, int, int, int]
"""Addresses of row_to_slot, slot_to_row and offsets; T, K, N, E."""

class DType:
    float32: DType
    bfloat16: DType
    float16: DType

class Format:
    int8: Format
    int4: Format
    fp8: Format
    fp4: Format

class Function:
    silu: Function
    gelu: Function
    gelu_tanh: Function
    relu: Function
    relu2: Function

class Score:
    softmax: Score
    sigmoid: Score
    sqrtsoftplus: Score

Coding: TypeAlias = tuple[int, int, int, Format, DType, int, int, int, int]
"""Addresses of data, scales and zero points of a quantised weight, the first 0 of none; format,
dtype of the scales; bytes of a row, rows of a scale, groups of a row, columns of one."""

Activation: TypeAlias = tuple[Function, bool, bool, float, float, float, int, int]
"""Function, gated, interleaved, alpha, limit, shift; address of the series, 0 of none, and its
number of terms."""

# of the instruction set, from the lowest, and why each cannot run here: empty where it can
def levels() -> list[tuple[str, str]]: ...

# the one in use, empty where none can run
def level() -> str: ...

# of all threads; RuntimeError where the processor lacks it
def set_level(name: str) -> None: ...

# whether torch's OpenMP was found
def has_threads() -> bool: ...
def grouped_gate_bwd(
    *,
    dtype: DType,
    logits: Matrix,
    d_weights: int,
    router_scale: int,
    experts: int,
    d_logits: int,
    d_router_scale: int,
    T: int,
    E: int,
    K: int,
    score: Score,
    renormalize: bool,
    scaling: float,
    given: bool,
    threads: int,
) -> None: ...
def grouped_gate_fwd(
    *,
    dtype: DType,
    logits: Matrix,
    bias: int,
    router_scale: int,
    weights: int,
    experts: int,
    counts: int,
    given: int,
    wide: bool,
    T: int,
    E: int,
    G: int,
    k: int,
    score: Score,
    renormalize: bool,
    scaling: float,
    threads: int,
) -> None: ...
def grouped_gemm_dw(
    *,
    dtype: DType,
    rows: Matrix,
    weight: Matrix,
    coding: Coding,
    out: Matrix,
    offsets: int,
    N: int,
    I: int,
    O: int,
    E: int,
    threads: int,
) -> None: ...
def grouped_gemm_dx(
    *,
    dtype: DType,
    rows: Matrix,
    weight: Matrix,
    coding: Coding,
    out: Matrix,
    offsets: int,
    N: int,
    I: int,
    O: int,
    E: int,
    threads: int,
) -> None: ...
def grouped_gemm_fwd(
    *,
    dtype: DType,
    rows: Matrix,
    weight: Matrix,
    coding: Coding,
    out: Matrix,
    offsets: int,
    N: int,
    I: int,
    O: int,
    E: int,
    threads: int,
) -> None: ...
def grouped_gemm_int8_fwd(
    *,
    dtype: DType,
    rows: Matrix,
    weight: Matrix,
    coding: Coding,
    out: Matrix,
    offsets: int,
    N: int,
    I: int,
    O: int,
    E: int,
    threads: int,
) -> None: ...
def grouped_mlp_bwd(
    *,
    dtype: DType,
    d_y: Matrix,
    x: Matrix,
    w_gate_up: Matrix,
    w_down: Matrix,
    gate_up: Coding,
    down: Coding,
    b_down: Matrix,
    weights: int,
    routing: Routing,
    pre: int,
    d_x: int,
    d_w_gate_up: int,
    d_w_down: int,
    d_b_gate_up: int,
    d_b_down: int,
    d_weights: int,
    d_series: int,
    H: int,
    F: int,
    activation: Activation,
    threads: int,
) -> None: ...
def grouped_mlp_fwd(
    *,
    dtype: DType,
    x: Matrix,
    w_gate_up: Matrix,
    w_down: Matrix,
    gate_up: Coding,
    down: Coding,
    b_gate_up: Matrix,
    b_down: Matrix,
    weights: int,
    routing: Routing,
    y: int,
    pre: int,
    H: int,
    F: int,
    activation: Activation,
    weight_on_activation: bool,
    threads: int,
) -> None: ...
def grouped_mlp_int8_fwd(
    *,
    dtype: DType,
    x: Matrix,
    w_gate_up: Matrix,
    w_down: Matrix,
    gate_up: Coding,
    down: Coding,
    b_gate_up: Matrix,
    b_down: Matrix,
    weights: int,
    routing: Routing,
    y: int,
    pre: int,
    H: int,
    F: int,
    activation: Activation,
    weight_on_activation: bool,
    threads: int,
) -> None: ...
def load_balance_loss_bwd(
    *,
    dtype: DType,
    logits: Matrix,
    f: int,
    d_loss: int,
    d_logits: int,
    T: int,
    E: int,
    score: Score,
    threads: int,
) -> None: ...
def load_balance_loss_fwd(
    *,
    dtype: DType,
    logits: Matrix,
    experts: int,
    wide: bool,
    f: int,
    loss: int,
    T: int,
    E: int,
    K: int,
    score: Score,
    threads: int,
) -> None: ...
def permute_fwd(
    *,
    dtype: DType,
    x: Matrix,
    rows: Matrix,
    weights: int,
    out: int,
    d_weights: int,
    row_to_slot: int,
    slot_to_row: int,
    T: int,
    K: int,
    N: int,
    H: int,
    threads: int,
) -> None: ...
def route_fwd(
    *,
    experts: int,
    wide: bool,
    T: int,
    K: int,
    E: int,
    G: int,
    row_to_slot: int,
    slot_to_row: int,
    offsets: int,
) -> None: ...
def swiglu_bwd(
    *, dtype: DType, gate_up: Matrix, d_act: Matrix, out: int, N: int, F: int, threads: int
) -> None: ...
def swiglu_fwd(
    *, dtype: DType, gate_up: Matrix, d_act: Matrix, out: int, N: int, F: int, threads: int
) -> None: ...
def unpermute_bwd(
    *,
    dtype: DType,
    x: Matrix,
    rows: Matrix,
    weights: int,
    out: int,
    d_weights: int,
    row_to_slot: int,
    slot_to_row: int,
    T: int,
    K: int,
    N: int,
    H: int,
    threads: int,
) -> None: ...
def unpermute_fwd(
    *,
    dtype: DType,
    x: Matrix,
    rows: Matrix,
    weights: int,
    out: int,
    d_weights: int,
    row_to_slot: int,
    slot_to_row: int,
    T: int,
    K: int,
    N: int,
    H: int,
    threads: int,
) -> None: ...
