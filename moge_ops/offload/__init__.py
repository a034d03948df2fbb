"""Models whose experts stay in their folder, or in host memory, until a router chooses them.

Everything but the routed experts is loaded. A pool of slots, each as large as one expert, is shared
by all layers: an expert that a layer needs and that is in no slot takes the place of the one that
is expected to wait the longest for its next use, and threads fetch the next layer's experts while
one computes. The results have the same bits as those of a model that is wholly in memory.

Source: Shen et al. 2022, "SE-MoE" (arXiv:2205.10034), whose ring has a place for each of some
layers; here it has one for each of some experts, since few of them serve a step of decoding. The
guess of the next layer's experts by its router: Eliseev and Mazur 2023, "Fast Inference of
Mixture-of-Experts Language Models with Offloading" (arXiv:2312.17238).
"""

from moge_ops.offload._loading import load, of
from moge_ops.offload._store import ExpertStore

__all__ = ["ExpertStore", "load", "of"]
