"""The way of a call from the public function to a kernel."""

from moge_ops._backend import BACKENDS
from pictures import Svg

# type of a device in the dispatcher -> what a user calls its tensors
TENSORS = {"cpu": "CPU tensors", "cuda": "CUDA tensors", "privateuseone": "npu tensors"}


def draw() -> Svg:
    """The stations of one call, and the backends that serve each type of device."""
    svg = Svg(700, 470)
    left, width, middle = 30, 300, 180

    def station(y: float, name: str, text: str, ink: str = "faint") -> None:
        svg.box(left, y, width, 34, name, ink)
        svg.text(left + width + 14, y + 17, text)

    def down(start: float, end: float) -> None:
        svg.line((middle, start), (middle, end), arrow=True)

    station(10, "moge_ops.swiglu(x)", "the public function: it checks the arguments", "strong")
    down(44, 68)
    station(70, "use_reference(x)?", "")
    svg.line((left + width, 87), (436, 87), arrow=True)
    svg.text(left + width + 34, 76, "yes", "plain")
    svg.box(438, 70, 252, 34, "moge_ops.reference.swiglu", "g5")
    svg.text(438, 118, "plain torch; autograd has all derivatives")
    down(104, 138)
    svg.text(middle + 8, 120, "no")
    station(140, "swiglu_fwd(x)", "what define made of the declaration in ops/")
    down(174, 198)
    station(200, "node of autograd's graph", "only where a gradient is needed")
    down(234, 258)
    station(
        260, "torch.ops.moge_ops.swiglu", "the dispatcher asks for the type of the device", "plain"
    )

    served = {backend.device: backend for backend in BACKENDS.values() if backend.device}
    columns = [*((TENSORS[device], served[device]) for device in TENSORS)]
    columns.append(("all others", BACKENDS["torch"]))
    step = 172
    svg.line((middle, 294), (middle, 316))
    first, last = 10 + 77, 10 + 77 + step * (len(columns) - 1)
    svg.line((first, 316), (last, 316))
    for i, (tensors, backend) in enumerate(columns):
        x = 10 + step * i
        svg.line((x + 77, 316), (x + 77, 352), arrow=True)
        svg.text(x + 83, 334, tensors)
        svg.box(x, 354, 154, 34, backend.name, f"g{i}")
        svg.text(x + 77, 404, f"{backend.package}/swiglu.py", anchor="middle", size=12)
    svg.text(10, 434, "The native CPU kernels have no float64: such tensors go to torch.")
    svg.text(10, 454, "CPU tensors alone can be sent elsewhere: testing.backend, MOGE_OPS_BACKEND.")
    return svg
