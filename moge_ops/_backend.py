"""The backends of the operators, one row each, and the one way to register an operator.

PyTorch's dispatcher picks the backend by the device of the tensors. On CPU tensors one more choice
exists, for tests and debugging: ``MOGE_OPS_BACKEND`` for a process, and within it
:func:`moge_ops.testing.backend` for a thread.
"""

import functools
import importlib
import inspect
import os
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from moge_ops import _extensions, _flops
from moge_ops._checks import FLOATS, choice

Declaration = TypeVar("Declaration", bound=Callable[..., Any])

# where torch.ops has the operators, and this package's name. tools/hub.py gives a copy for the
# kernels hub another one, so that it can be loaded beside this package
NAMESPACE = "moge_ops"

# Triton's interpreter replaces functions of triton.language while it runs: one launch at a time. It
# is reentrant, because a signal's handler may launch in the thread that it interrupts
_interpreter = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: a thread that held the lock exists in the parent only."""
    global _interpreter
    _interpreter = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _interpret() -> AbstractContextManager[Any]:
    """Asks for Triton's interpreter, which Triton chooses or not once, at its import.

    Returns:
        What a launch runs under.

    Raises:
        RuntimeError: It is too late: Triton's own functions, or ours, are compiled for a GPU.
    """
    if "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if not load("triton", "_common").INTERPRETED:
        raise RuntimeError(
            "the triton backend on CPU tensors needs Triton's interpreter, but Triton was already "
            "loaded for a GPU in this process, as torch itself does: set TRITON_INTERPRET=1, or "
            "MOGE_OPS_BACKEND=triton, before it starts"
        )
    return _interpreter


def _emulate() -> AbstractContextManager[Any]:
    """Raises RuntimeError where the extension is for an NPU: then nothing emulates one."""
    if _extensions.build("_C") == "cann":
        raise RuntimeError(
            "the ascend backend on CPU tensors needs the emulator, but the extension is built for "
            "an NPU: install with MOGE_ASCEND_BACKEND=emulate"
        )
    # launches of the extension take turns by a lock of its own
    return _anywhere


_anywhere = nullcontext()  # one for all launches, as it has no state


class Backend(NamedTuple):
    """One implementation of every operator; for a new one, a folder of modules and a row below."""

    name: str
    package: str
    """Below ``moge_ops``: module <op> of it has the launchers of operator <op>."""
    dtypes: tuple[torch.dtype, ...]
    device: str | None = None
    """Type of the devices whose tensors it serves unasked."""
    built: Callable[[], bool] = lambda: True
    """Whether it can do so here; a fact of the installation, not an attempt."""
    runs_on: Callable[[], str] = lambda: "cpu"
    """What it runs on here, for ``info``."""
    on_cpu: Callable[[], AbstractContextManager[Any]] = lambda: _anywhere
    """What a launch for CPU tensors runs under; RuntimeError where it cannot serve them."""
    remedy: Callable[[], str] = lambda: "the installation is incomplete"
    """What to do where its modules cannot be imported."""


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("torch", "torch_kernels", FLOATS),
        Backend(
            "cpu",
            "cpu_kernels",
            FLOATS[:3],
            device="cpu",
            built=lambda: not _extensions.cpu_level().startswith("off"),
            runs_on=_extensions.cpu_level,
            remedy=lambda: f"the extension does not run here: {_extensions.cpu_level()}",
        ),
        Backend("reference", "reference", FLOATS, runs_on=lambda: "any device"),
        Backend(
            "triton",
            "triton_kernels",
            FLOATS,
            device="cuda",
            runs_on=lambda: "cuda" if torch.cuda.is_available() else "interpreter",
            on_cpu=_interpret,
            remedy=lambda: "pip install 'moge-ops[triton]'",
        ),
        Backend(
            "ascend",
            "ascend",
            FLOATS[:3],  # an NPU has no float64
            # PyTorch refuses the name "npu" until torch_npu has given it to this type
            device="privateuseone",
            built=lambda: not _extensions.npu_kernels().startswith("off"),
            runs_on=lambda: (
                "emulated"
                if _extensions.build("_C") == "emulate"
                else _extensions.npu_kernels().partition(":")[0]
            ),
            on_cpu=_emulate,
            remedy=lambda: f"the extension is not built: {_extensions.build('_C')}",
        ),
    )
}


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def serving(device: str) -> str:
    """The backend that serves the tensors of one type of device unasked."""
    return next((b.name for b in BACKENDS.values() if b.device == device and b.built()), "torch")


_default = _checked(os.environ.get("MOGE_OPS_BACKEND", serving("cpu")))
if _default == "triton":  # before torch imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")


class _Choice(threading.local):
    """The backend of CPU tensors, each thread's own."""

    def __init__(self) -> None:  # runs in every thread; Dynamo would not guard a class attribute
        self.backend = _default


_choice = _Choice()


def use_reference(x: torch.Tensor) -> bool:
    """Whether a public function hands its call to the oracle, past the dispatcher.

    So it does where that was chosen for CPU tensors and, on every device, where no kernel can
    serve: the kernels have one derivative, of first order and in reverse, which only autograd
    itself may call, and ONNX has standard operators. Plain torch has all derivatives everywhere.
    """
    return (
        (_choice.backend == "reference" and x.device.type == "cpu")
        or forward_ad._current_level >= 0  # an int, where a look at each tensor costs a call
        or (_transformed() and _differentiated())
        or (_traced() and torch.onnx.is_in_onnx_export())
    )


# by names of this module: each look-up on the way would cost as much as the answer
_transformed, _traced = torch._C._are_functorch_transforms_active, torch.compiler.is_compiling
_overridden = torch.overrides.has_torch_function


def _differentiated() -> bool:
    """Whether a derivative is among the transforms of torch.func that are at work.

    vmap alone calls the kernels, for one sample after the other.
    """
    if _traced():  # Dynamo cannot look at the stack
        return True
    derivatives = (TransformType.Grad, TransformType.Jvp)
    return any(level.key() in derivatives for level in get_interpreter_stack() or ())


@contextmanager
def override(name: str) -> Iterator[None]:
    """Reroutes this thread's CPU tensors to backend ``name``."""
    before, _choice.backend = _choice.backend, _checked(name)
    try:
        with BACKENDS[name].on_cpu():
            load(name, "swiglu")  # what cannot be loaded raises here, not in the first call
        yield
    finally:
        _choice.backend = before


def _launch_context(device: str, x: torch.Tensor) -> AbstractContextManager[Any]:
    """What a launch for ``x`` runs under, by the kernel for one type of device.

    Raises:
        RuntimeError: The chosen backend cannot serve CPU tensors here, or not through a launcher.
    """
    if device != "cpu":
        # kernels are launched on the current one, those of torch wherever their tensors are
        if x.is_cuda:
            return torch.cuda.device(x.device)
        if serving(device) == "torch":
            return _anywhere
        guard: AbstractContextManager[Any] = torch.get_device_module(x.device).device(x.device)
        return guard
    if _choice.backend == "reference":
        raise RuntimeError(
            "the reference backend has public functions only, whose gradients come from autograd: "
            "run the backward pass of another backend's result, and operators of torch.ops, "
            "outside of backend('reference')"
        )
    return BACKENDS[_choice.backend].on_cpu()


def chosen(device: str, dtype: torch.dtype) -> str:
    """The backend that serves such tensors in this thread."""
    if device != "cpu":
        return serving(device)
    no_native = _choice.backend == "cpu" and dtype is torch.float64
    return "torch" if no_native else _choice.backend


def _load_for(device: str, op: str, x: torch.Tensor) -> ModuleType:
    """The module of ``op`` that serves ``x``, on one type of device, in this thread."""
    return load(chosen(device, x.dtype), op)


@functools.cache  # not import_module on every call: it costs as much as a small kernel
def load(backend: str, op: str) -> ModuleType:
    """The module of ``op`` in ``backend``.

    Raises:
        ImportError: The backend is not installed. Nothing falls back in silence.
    """
    row = BACKENDS[backend]
    try:
        return importlib.import_module(f"{NAMESPACE}.{row.package}.{op}")
    except ImportError as error:
        raise ImportError(
            f"backend {backend!r} cannot be loaded: {error} ({row.remedy()})"
        ) from error


def _refuse_forward_mode(op: str, args: tuple[Any, ...]) -> None:
    """Raises NotImplementedError for floats, whose tangents no kernel sees: they would be lost."""
    if any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in args):
        raise NotImplementedError(
            f"{NAMESPACE}::{op} has no forward-mode derivative: within jvp, jacfwd or dual_level "
            "call the functions of moge_ops instead, which then are plain torch, and run the "
            "backward pass of an earlier result outside"
        )


def _as_launched(x: Any) -> Any:
    """An argument as the launchers may expect it: what is not of FLOATS is contiguous."""
    # the first question settles most arguments, and nothing is asked of a tensor twice
    if not isinstance(x, torch.Tensor) or x.is_contiguous() or x.dtype in FLOATS:
        return x
    return x.contiguous()


_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _untraced(f: Callable[..., Any]) -> Callable[..., Any]:
    """Hides ``f``, and all that it calls, from Dynamo, at no cost in a call."""
    dynamo = torch._C._dynamo.eval_frame
    skip = dynamo._FrameAction.SKIP
    dynamo.set_code_exec_strategy(f.__code__, dynamo._FrameExecStrategy(skip, skip))
    return f


def _differentiable(
    name: str,
    operator: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    save: Callable[[Any, Any, Any], None] | None,
    backward: Callable[..., dict[str, Any]] | None,
) -> Callable[..., Any]:
    """An operator with its node of autograd's graph, where a gradient is needed.

    That of ``torch.library.register_autograd`` does the same in twice the time.
    """
    names = tuple(parameters)
    defaults = tuple(parameter.default for parameter in parameters.values())
    arguments = namedtuple("arguments", names)  # type: ignore[misc]
    below_autograd = torch._C._AutoDispatchBelowAutograd

    def forward(ctx: Any, *args: Any) -> Any:
        with below_autograd():
            output = operator(*args)
        if save is not None:
            ctx.needs = arguments(*ctx.needs_input_grad)
            save(ctx, arguments(*args), output)
        return output

    def in_order(ctx: Any, *d_outputs: Any) -> tuple[Any, ...]:
        if backward is None:
            raise RuntimeError(
                f"Trying to backward through {operator} but no autograd formula was registered. "
                "Please use register_autograd to add one."
            )
        gradients = backward(ctx, *d_outputs)
        return tuple(map(gradients.get, names))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(in_order)}
    node: Any = type(f"{NAMESPACE}_{name}", (torch.autograd.Function,), methods)

    def call(*args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return node.apply(*args, *defaults[len(args) :])  # the dispatcher leaves them out
        with below_autograd():
            return operator(*args)

    return _untraced(call)


def define(
    *,
    save: Callable[[Any, Any, Any], None] | None = None,
    backward: Callable[..., dict[str, Any]] | None = None,
    flops: _flops.Formula | None = None,
    otherwise: Callable[..., Any] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> Callable[[Declaration], Declaration]:
    """Registers the operator that the decorated function declares.

    The declaration has the name and the signature of the launcher that every backend has in its
    module for this operator, and returns what inference of shapes and dtypes needs: empty results.
    The operator is ``moge_ops::<name>``, without ``_fwd``; launchers are called by position. What
    they get may have any strides, but integers and quantised data are contiguous.

    Args:
        save: ``(ctx, inputs, output)``, after a forward pass: keeps what ``backward`` needs.
            ``inputs.<name>`` is an argument and ``ctx.needs.<name>`` says whether it needs a
            gradient.
        backward: ``(ctx, *d_outputs) -> {name of an argument: its gradient}``.
        flops: What ``torch.utils.flop_counter`` counts for a call; zero if None.
        otherwise: What is called where a backend's module has no such launcher: other operators
            that do the same in more launches.
        choices: What an argument may be, by its name: a call of the operator with something else
            raises the same ValueError on every backend. A default costs nothing.
    """

    def registered(declaration: Declaration) -> Declaration:
        launcher, op = declaration.__name__, declaration.__module__.rpartition(".")[2]
        name = launcher.removesuffix("_fwd")
        parameters = inspect.signature(declaration).parameters
        names = tuple(parameters)
        defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
        chosen_at = {names.index(k): k for k in choices or {}}
        first_choice = min(chosen_at, default=len(names))

        def check_choices(args: tuple[Any, ...]) -> None:
            for place, k in chosen_at.items():
                if choices is not None and place < len(args):
                    choice(k, args[place], choices[k])

        schema = torch.library.infer_schema(declaration, mutates_args=())
        tags = (torch.Tag.pt2_compliant_tag,)
        _library.define(name + schema, tags=tags)  # type: ignore[no-untyped-call]
        operator = getattr(getattr(torch.ops, NAMESPACE), name).default

        def serve(device: str) -> None:
            def kernel(*args: Any) -> Any:
                if forward_ad._current_level >= 0:
                    _refuse_forward_mode(name, args)
                if len(args) > first_choice:  # the dispatcher leaves defaults out
                    check_choices(args)
                with _launch_context(device, args[0]):
                    module = _load_for(device, op, args[0])
                    if otherwise is not None and not hasattr(module, launcher):
                        return otherwise(*args)
                    return getattr(module, launcher)(*map(_as_launched, args))

            torch.library.impl(f"{NAMESPACE}::{name}", device, _untraced(kernel), lib=_library)

        # the torch kernels are the default: they also serve a device that has none of its own
        for device in {"default", "cpu"}.union(b.device for b in BACKENDS.values() if b.device):
            serve(device)
        torch.library.register_fake(f"{NAMESPACE}::{name}", declaration, lib=_library)
        differentiable = _differentiable(name, operator, parameters, save, backward)
        _library.impl(name, differentiable, "Autograd")  # type: ignore[no-untyped-call]
        if flops is not None:
            _flops.register(name, flops)

        def call(*args: Any, **named: Any) -> Any:
            if named:
                named = defaults | named
                args += tuple(named[name] for name in names[len(args) :])
            # straight to what the dispatcher would call first, where nobody listens in between
            if _traced() or _transformed() or _overridden(args):
                return operator(*args)
            return differentiable(*args)

        return functools.update_wrapper(call, declaration)  # type: ignore[return-value]

    return registered
