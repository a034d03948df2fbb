"""What the commands need of the extra ``models``; without it only ``info`` runs."""

missing: ImportError | None = None
try:
    from moge_ops import offload
    from moge_ops.models import checkpoint, trimr
    from moge_ops.models.convert import convert_quantized
    from moge_ops.quant._plan import is_quantized
except ImportError as error:
    missing = error

__all__ = ["checkpoint", "convert_quantized", "is_quantized", "missing", "offload", "trimr"]
