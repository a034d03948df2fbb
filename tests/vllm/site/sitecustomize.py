"""Two operators of torchvision, by name, for every process that vLLM starts.

torchvision from the package index is built for CUDA. Beside torch for CPUs it does not load its
library, and its import fails, because it adds to these two operators. Nothing here calls them.
"""

import torch

for name in ("nms", "qnms"):
    torch.library.define(
        f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
