"""Writes vectors.safetensors: what torchao makes of a weight. It is no dependency of the tests,
because transformers imports it wherever it is installed::

    pip install --no-deps torchao==0.18.0
    python tests/data/torchao/make.py
"""

from pathlib import Path

import torch
import torchao
from safetensors.torch import save_file
from torchao.prototype.mx_formats import mx_tensor as mx
from torchao.quantization.quant_primitives import dequantize_affine

torch.manual_seed(0)
weight = torch.randn(16, 128)
weight[0] *= 100.0
weight[1, :32] = 0.0
weight[2, :8] = torch.tensor([6.0, 5.0, 0.25, 0.75, -1.25, 2.5, 3.5, -4.0])  # ties of e2m1
weight[2, 8:32] *= 0.1

scale, data = mx.to_mx(weight, torch.float4_e2m1fn_x2, 32, mx.ScaleCalculationMode.FLOOR)
codes = torch.randint(-8, 8, weight.shape, dtype=torch.int8)
steps = torch.rand(16, 2) + 0.01
zeros = torch.randint(-8, 8, steps.shape, dtype=torch.int8)
bytes_ = torch.randint(-128, 128, weight.shape, dtype=torch.int8)
save_file(
    {
        "weight": weight,
        "mxfp4.scale": scale.view(torch.uint8),
        "mxfp4.wide": mx.to_dtype(data, scale, torch.float4_e2m1fn_x2, 32, torch.float32),
        "int4.codes": codes,
        "int4.scale": steps,
        "int4.zero": zeros,
        "int4.wide": dequantize_affine(
            codes, (1, 64), steps, zeros, torch.int8, output_dtype=torch.float32
        ),
        "int8.codes": bytes_,
        "int8.scale": steps[:, :1].contiguous(),
        "int8.wide": dequantize_affine(
            bytes_, (1, 128), steps[:, :1], None, torch.int8, output_dtype=torch.float32
        ),
    },
    Path(__file__).with_name("vectors.safetensors"),
    metadata={"torchao": torchao.__version__},
)
