"""Quantising a released folder, layer by layer, without its model in memory."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from moge_ops import _files
from moge_ops.models import _quantized, checkpoint
from moge_ops.models.layout import Index, released_names
from moge_ops.quant import QuantizedWeight, _compressed, quantize
from moge_ops.quant._plan import is_quantized
from moge_ops.quant._shards import headers, opened, weight_files
from moge_ops.quant.experts import placeholder

__all__ = ["convert_quantized"]


def convert_quantized(
    folder: str | Path,
    out: str | Path,
    scheme: str,
    *,
    group_size: int | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Quantises the experts of a released folder, layer by layer, and writes the result.

    The peak of memory is the larger weight of one layer, plain and quantised, and one new file. The
    result is what saving the model after :func:`moge_ops.quant.quantize_experts` would write.

    Args:
        folder: As in :func:`moge_ops.models.checkpoint.from_pretrained`; not quantised yet.
        out: As ``folder`` in :func:`moge_ops.models.checkpoint.save_pretrained`.
        scheme, group_size: As in :func:`moge_ops.quant.quantize`.
        dtype: Of what is not quantised, but for routers if the config has a ``router_dtype``; by
            default that of the files. Experts are quantised as they are in the files.
        max_shard_size: As in :func:`moge_ops.models.checkpoint.save_pretrained`.

    Raises:
        FileExistsError, FileNotFoundError, OSError, ValueError: As reading, writing and
            :func:`moge_ops.quant.quantize` do.
    """
    most, folder, out = checkpoint.shard_size(max_shard_size), Path(folder), Path(out)
    checkpoint.refuse_weights(out)
    config = checkpoint.read_config(folder)
    if is_quantized(folder, config.extra):
        raise ValueError(f"{folder} is quantised already; --quantize takes a plain folder")
    checkpoint.stored_dtypes(folder)  # checks all headers
    kept = dtype or checkpoint.stored_dtype(folder)
    routers = () if config.router_dtype is None else checkpoint.ROUTERS
    as_they_are = checkpoint.MIXED if dtype is None else routers
    files = {name: header.file for name, header in headers(weight_files(folder))}
    places = [(name, whole, index) for name, whole, index in released_names(config)]
    of_experts = defaultdict[str, list[tuple[str, Index]]](list)
    for name, whole, index in places:
        if ".mlp.experts." in name:
            of_experts[whole].append((name, index))
    E, F, H = config.num_experts, config.moe_intermediate_size, config.hidden_size
    shapes = {2: torch.Size((E, 2 * F, H)), 1: torch.Size((E, H, F))}  # by halves
    layers = list[tuple[QuantizedWeight, QuantizedWeight]]()

    def named(name: str, error: Exception) -> Exception:
        return type(error)(f"{name} in {files[name]}: {error}")

    for names in list(of_experts.values())[:2]:  # all layers are alike
        name, index = names[0]
        try:
            halves = len(index)
            placeholder(shapes[halves], scheme, group_size, symmetric=True, halves=halves)
        except (TypeError, ValueError) as error:
            raise named(name, error) from None

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for file, group in itertools.groupby(
            sorted(names, key=files.__getitem__), files.__getitem__
        ):
            with opened(file) as shard:
                for name in group:
                    yield name, shard.get_tensor(name)

    def quantized(whole: str) -> QuantizedWeight:
        """The weight of one layer; in this function, so that the plain one is freed."""
        at, halves = dict(of_experts[whole]), len(of_experts[whole][0][1])
        plain: Tensor | None = None
        for name, tensor in read(at):
            if plain is None:
                shape = (E, 2, F, H) if halves == 2 else (E, H, F)
                plain = torch.empty(shape, dtype=tensor.dtype)
            plain[at[name]].copy_(tensor)
        assert plain is not None
        stacked = plain.view(shapes[halves])
        try:
            return quantize(stacked, scheme, group_size=group_size, halves=halves)
        except (TypeError, ValueError) as error:
            odd = (name for name, i in at.items() if not plain[i].float().isfinite().all())
            raise named(next(odd, next(iter(at))), error) from None

    def tensors() -> Iterator[tuple[str, Tensor]]:
        weights = dict[str, QuantizedWeight]()
        for name, whole, index in places:
            if whole not in of_experts:
                ((_, tensor),) = read([name])
                yield (
                    name,
                    tensor if name.endswith(as_they_are) else tensor.to(kept),
                )
                continue
            if whole not in weights:
                if whole.endswith("w_gate_up"):
                    weights.clear()
                weights[whole] = quantized(whole)
                if len(weights) == 2:
                    # what the config tells depends on shapes and on nothing else
                    up, down = (w.to("meta") for w in weights.values())
                    layers.append((up, down))
            yield from checkpoint.parts_of_expert(name, weights[whole], index)

    with _files.staged(out, last="config.json") as stage:
        checkpoint.write_tensors(tensors(), stage, most)
        told = _compressed.config(layers, _quantized.linear_layers(config))
        checkpoint.write_config(config, kept, told, stage)
