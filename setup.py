"""Map the fixed top-level folders into the ``moge_ops`` package; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

# folder at the repository root -> import name
SUBPACKAGES = {"triton_kernels": "moge_ops.triton_kernels"}


def packages() -> list[str]:
    """Every package: a list made by hand forgets one, and an editable install hides that."""
    found = find_packages(include=["moge_ops", "moge_ops.*"], exclude=[*SUBPACKAGES.values()])
    for folder, name in SUBPACKAGES.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


setup(packages=packages(), package_dir={name: folder for folder, name in SUBPACKAGES.items()})
