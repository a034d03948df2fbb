"""The extension of csrc/: Ascend C kernels over addresses and sizes.

Tensors come as the addresses of contiguous memory, 0 where there is none; `stream` is 0 under the
emulator. What follows ``EmulatorError`` exists in a build with the emulator only. A test holds this
file against the module.
"""

from collections.abc import Sequence
from typing import Any

BACKEND: str

class DType:
    float16: DType
    bfloat16: DType
    float32: DType

class GateScore:
    softmax: GateScore
    sigmoid: GateScore
    sqrtsoftplus: GateScore

class Phi:
    silu: Phi
    gelu: Phi
    gelu_tanh: Phi
    relu: Phi
    relu2: Phi

class ActivationTiling:
    def __init__(
        self,
        *,
        phi: Phi = ...,
        gated: bool = True,
        interleaved: bool = False,
        terms: int = 0,
        alpha: float = 1.0,
        limit: float | None = None,
        shift: float = 0.0,
    ) -> None: ...

class GroupedGateTiling:
    def __init__(
        self,
        *,
        T: int,
        E: int,
        G: int,
        k: int,
        score: GateScore,
        renormalize: bool,
        scaling: float,
        given: bool,
    ) -> None: ...

class GemmShape:
    def __init__(self, *, N: int, E: int, O: int, I: int) -> None: ...

class MlpShape:
    def __init__(self, *, T: int, K: int, E: int, H: int, F: int) -> None: ...

def token_cores(*, T: int) -> int: ...
def grouped_gate_fwd(
    *,
    logits: int,
    bias: int,
    router_scale: int,
    given: int,
    weights: int,
    experts: int,
    counts: int,
    workspace: int,
    tiling: GroupedGateTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gate_bwd(
    *,
    d_weights: int,
    logits: int,
    experts: int,
    router_scale: int,
    d_logits: int,
    d_router_scale: int,
    workspace: int,
    tiling: GroupedGateTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def gate_and_route_workspace(*, T: int, K: int, E: int, G: int) -> int: ...
def grouped_gate_and_route_fwd(
    *,
    logits: int,
    bias: int,
    router_scale: int,
    given: int,
    weights: int,
    experts: int,
    counts: int,
    row_to_slot: int,
    slot_to_row: int,
    offsets: int,
    workspace: int,
    tiling: GroupedGateTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def load_balance_loss_fwd(
    *,
    logits: int,
    experts: int,
    loss: int,
    f: int,
    scores: int,
    counts: int,
    T: int,
    K: int,
    E: int,
    score: GateScore,
    dtype: DType,
    stream: int,
) -> None: ...
def load_balance_loss_bwd(
    *,
    d_loss: int,
    logits: int,
    f: int,
    d_logits: int,
    T: int,
    E: int,
    score: GateScore,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_pitch(*, columns: int) -> int: ...
def grouped_gemm_fwd(
    *,
    rows: int,
    weight: int,
    offsets: int,
    out: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_packed(
    *,
    rows: int,
    weight: int,
    offsets: int,
    out: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_dx_room(*, shape: GemmShape, dtype: DType) -> int: ...
def grouped_gemm_dx(
    *,
    d_out: int,
    weight: int,
    offsets: int,
    packed: int,
    d_rows: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_dw_room(*, shape: GemmShape, dtype: DType) -> int: ...
def grouped_gemm_dw(
    *,
    d_out: int,
    rows: int,
    offsets: int,
    packed: int,
    d_weight: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_mlp_ring(*, shape: MlpShape) -> int: ...
def grouped_mlp_fwd(
    *,
    x: int,
    gate_up: int,
    down: int,
    weights: int,
    slot_to_row: int,
    offsets: int,
    b_gate_up: int,
    b_down: int,
    series: int,
    rows: int,
    row_weights: int,
    ring: int,
    pre: int,
    act: int,
    y: int,
    shape: MlpShape,
    activation: ActivationTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_int8_ring(*, shape: GemmShape) -> int: ...
def grouped_gemm_int8(
    *,
    rows: int,
    row_scale: int,
    weight: int,
    scale: int,
    offsets: int,
    ring: int,
    out: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_gemm_int4_ring(*, shape: GemmShape) -> int: ...
def grouped_gemm_int4(
    *,
    planes: int,
    row_scale: int,
    weight: int,
    scale: int,
    offsets: int,
    ring: int,
    out: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_mlp_int4_ring(*, shape: GemmShape) -> int: ...
def grouped_mlp_up_int4(
    *,
    planes: int,
    row_scale: int,
    weight: int,
    scale: int,
    offsets: int,
    ring: int,
    pre: int,
    act: int,
    shape: GemmShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_mlp_int8_ring(*, shape: MlpShape) -> int: ...
def grouped_mlp_int8_fwd(
    *,
    x: int,
    gate_up: int,
    gate_up_scale: int,
    down: int,
    down_scale: int,
    weights: int,
    slot_to_row: int,
    offsets: int,
    rows: int,
    row_scale: int,
    ring: int,
    pre: int,
    act: int,
    q: int,
    y: int,
    shape: MlpShape,
    dtype: DType,
    stream: int,
) -> None: ...
def grouped_mlp_act_bwd_cores(*, N: int) -> int: ...
def grouped_mlp_act_bwd(
    *,
    g: int,
    pre: int,
    row_weights: int,
    more: int,
    series: int,
    d_pre: int,
    act: int,
    d_row_weights: int,
    d_series: int,
    N: int,
    F: int,
    activation: ActivationTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def route_workspace(*, T: int, K: int, E: int, G: int) -> int: ...
def route_fwd(
    *,
    experts: int,
    row_to_slot: int,
    slot_to_row: int,
    offsets: int,
    workspace: int,
    T: int,
    K: int,
    E: int,
    G: int,
    stream: int,
) -> None: ...
def permute_fwd(
    *,
    x: int,
    row_to_slot: int,
    slot_to_row: int,
    rows: int,
    T: int,
    H: int,
    K: int,
    dtype: DType,
    stream: int,
) -> None: ...
def permute_planes(
    *,
    x: int,
    slot_to_row: int,
    planes: int,
    row_scale: int,
    T: int,
    H: int,
    K: int,
    dtype: DType,
    stream: int,
) -> None: ...
def quantize_rows(
    *, rows: int, q: int, scale: int, N: int, I: int, dtype: DType, stream: int
) -> None: ...
def quantize_planes(
    *, rows: int, planes: int, scale: int, N: int, I: int, dtype: DType, stream: int
) -> None: ...
def decode_weight(
    *, data: int, scale: int, weight: int, N: int, I: int, dtype: DType, stream: int
) -> None: ...
def unpack_int4(*, packed: int, data: int, bytes: int, stream: int) -> None: ...
def unpermute_fwd(
    *,
    rows: int,
    slot_to_row: int,
    weights: int,
    y: int,
    T: int,
    H: int,
    K: int,
    dtype: DType,
    stream: int,
) -> None: ...
def unpermute_bwd(
    *,
    d_y: int,
    rows: int,
    row_to_slot: int,
    slot_to_row: int,
    weights: int,
    d_rows: int,
    d_weights: int,
    T: int,
    H: int,
    K: int,
    dtype: DType,
    stream: int,
) -> None: ...
def take_scalars(
    *, scalars: int, index: int, results: int, size: int, count: int, stream: int
) -> None: ...
def swiglu_fwd(*, gate_up: int, act: int, N: int, F: int, dtype: DType, stream: int) -> None: ...
def activation_fwd(
    *,
    pre: int,
    bias: int,
    series: int,
    act: int,
    N: int,
    F: int,
    activation: ActivationTiling,
    dtype: DType,
    stream: int,
) -> None: ...
def swiglu_bwd(
    *, d_act: int, gate_up: int, d_gate_up: int, N: int, F: int, dtype: DType, stream: int
) -> None: ...

class EmulatorError(RuntimeError):
    rule: str

def rules() -> dict[str, str]: ...
def devices() -> dict[str, tuple[int, int, float, float]]: ...
def time_parameters() -> dict[str, tuple[float, str, str]]: ...
def set_emulation(
    *,
    cores: int = 48,
    strict: bool = False,
    checks: bool = True,
    seed: int = 0,
    counting: bool = False,
    rules: str = "",
) -> None: ...
def start_recording(device: str = "", pictured: Sequence[int] = []) -> None: ...
def stop_recording() -> list[dict[str, Any]]: ...
