"""Writes the layout of the kernels hub, from the package: `hub.py out/hub` (docs/engines/hub.md).

Each OUT/build/<variant> is a package of its own: what the public operators of moge_ops need, found
by following imports, with relative imports, and with operators registered under the variant's id.
No module and no function is listed here, so that the variants change with the package; what they
cannot carry is an error. The sources keep their comments and their lines.
"""

import argparse
import ast
import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "moge_ops"
NAME = PACKAGE.replace("_", "-")
REPO = f"{NAME}/{NAME}"
LAYERS = f"{PACKAGE}.layers", Path("tools/hub_layers.py")
TORCH = (2, 10)  # the oldest: a variant is offered to every torch, so that it must look itself
# variant -> backend in the hub's words, and rows of BACKENDS in moge_ops/_backend.py; the torch
# kernels also serve the tensors of a device without kernels of its own
VARIANTS = {
    "torch-cpu": ("cpu", ("torch", "reference")),
    "torch-cuda": ("cuda", ("torch", "reference", "triton")),
}
MAY_USE = {"torch", "triton"}
MARK = "# written by tools/hub.py, which replaces this file and build/\n"

INIT = '''"""{doc}

Generated from {package} {release}. Operators are in ``torch.ops.{namespace}``.
"""

import torch

if torch.__version__ < {torch}:
    raise ImportError(f"{name} needs torch {oldest} or newer, got {{torch.__version__}}")

{imports}
from {package} import layers

__version__ = "{release}"
__all__ = [
{names}
]
'''
BUILD = """{mark}[general]
name = "{name}"
version = {version}
edition = 5
license = "Apache-2.0"
backends = [{backends}]

[general.hub]
repo-id = "{repo}"

[torch-noarch]
pyext = ["py", "csv"]
"""
CARD = """---
library_name: kernels
license: apache-2.0
---
# {name}
{doc}

```python
from kernels import get_kernel

# trust_remote_code: for a publisher that the hub does not trust
moge = get_kernel("{repo}", version={version}, trust_remote_code=["{repo}"])
gating = moge.grouped_gate(logits, num_groups=8)
```

Functions: {functions}.

Layers for `kernelize`: {layers}.

Generated from {package} {release}; torch {oldest} or newer.
"""


def find(module: str) -> Path | None:
    """The file of a module, from the root; a backend may have its folder there."""
    if module == LAYERS[0]:
        return LAYERS[1]
    top, *parts = module.split(".")
    for base in (Path(top, *parts), Path(*parts)):
        for path in (base / "__init__.py", base.parent / f"{base.name}.py"):
            if parts and (ROOT / path).is_file():
                return path
    return None


def is_native(module: str) -> bool:
    """Whether it is an extension, which no variant carries and which the package can lack."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".pyi").is_file()


class Source:
    """A file on its way into a variant: what it imports, and its text there."""

    def __init__(self, module: str, path: Path, text: str) -> None:
        self.path, self.text, self.tree = path, text, ast.parse(text)
        parts = module.split(".")
        self.package = parts if path.name == "__init__.py" else parts[:-1]
        self.prose = {n.value for n in ast.walk(self.tree) if isinstance(n, ast.Expr)}  # docstrings

    def fail(self, node: ast.AST, problem: str) -> NoReturn:
        """Stops with the place that a variant cannot carry."""
        raise SystemExit(f"{self.path}, line {getattr(node, 'lineno', 1)}: {problem}")

    def needs(self) -> Iterator[str]:
        """The modules of the package that it imports."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._allow(node, alias.name)
            elif isinstance(node, ast.ImportFrom):
                above = self.package[: len(self.package) + 1 - node.level] if node.level else []
                name = ".".join([*above, *filter(None, [node.module])])
                if name.partition(".")[0] != PACKAGE:
                    self._allow(node, name)
                    continue
                for alias in node.names:
                    inner = f"{name}.{alias.name}"
                    if find(inner) is not None:
                        yield inner
                    elif not is_native(inner):
                        if find(name) is None:
                            self.fail(node, f"no variant can carry {alias.name} of {name}")
                        yield name

    def _allow(self, node: ast.AST, name: str) -> None:
        top = name.partition(".")[0]
        if top == PACKAGE:
            self.fail(node, f"write `from ... import` instead of `import {name}`")
        if top not in sys.stdlib_module_names | MAY_USE:
            self.fail(node, f"the hub allows the standard library, torch and Triton, got {name}")

    def rewritten(self, namespace: str) -> str:
        """The text with relative imports, and ``namespace`` where code uses the package's name."""
        edits: list[tuple[int, int, str, str]] = []  # line, column in bytes, old, new
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                top, *rest = node.module.split(".")
                if top == PACKAGE:
                    new = "." * len(self.package) + ".".join(rest)
                    edits.append((node.lineno, node.col_offset + 5, node.module, new))  # "from "
            elif isinstance(node, ast.Attribute) and node.attr == PACKAGE:
                column = (node.end_col_offset or 0) - len(PACKAGE)
                edits.append((node.end_lineno or 0, column, PACKAGE, namespace))
            elif isinstance(node, ast.JoinedStr):
                if any(map(self._is_name, node.values)):
                    # before Python 3.12 nothing says where in the string it is
                    self.fail(node, f"an f-string looks up {PACKAGE}: write _backend.NAMESPACE")
            elif isinstance(node, ast.Constant) and self._is_name(node):
                edits.append((node.lineno, node.col_offset + 1, PACKAGE, namespace))  # the quote
        lines = [line.encode() for line in self.text.splitlines(keepends=True)]
        for number, start, old, new in sorted(edits, reverse=True):
            line, end = lines[number - 1], start + len(old)
            if line[start:end] != old.encode():
                raise SystemExit(f"{self.path}, line {number}: expected {old} in column {start}")
            lines[number - 1] = line[:start] + new.encode() + line[end:]
        return b"".join(lines).decode()

    def _is_name(self, node: ast.AST) -> bool:
        """Whether it is a string that code looks something up by: one word, no sentence."""
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return False
        return (
            PACKAGE in node.value
            and not any(map(str.isspace, node.value))
            and (node not in self.prose)
        )

    def without_rows(self, backends: tuple[str, ...]) -> tuple[str, list[str]]:
        """moge_ops/_backend.py with these rows only, and the packages that they name."""
        lines, packages = self.text.splitlines(keepends=True), {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Backend":
                name, package = (ast.literal_eval(arg) for arg in node.args[:2])
                packages[name] = package
                if name not in backends:
                    first, last = node.lineno - 1, node.end_lineno or 0
                    before = lines[first].encode()[: node.col_offset].strip()
                    after = lines[last - 1].encode()[node.end_col_offset :].strip()
                    if before or after != b",":
                        self.fail(node, "the row of a backend must have lines of its own")
                    lines[first:last] = [""] * (last - first)
        missing = [name for name in backends if name not in packages]
        if missing:
            raise SystemExit(f"{self.path}: BACKENDS has no row of {', '.join(missing)}")
        return "".join(lines), [packages[name] for name in backends]


def public(text: str) -> tuple[str, str, str, list[str]]:
    """Docstring, release, imports of operators and their names, of moge_ops/__init__.py."""
    tree = ast.parse(text)
    imports, names, release = [], set(), ""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}.ops."):
            imports.append(ast.get_source_segment(text, node) or "")
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            release = ast.literal_eval(node.value)
    return ast.get_docstring(tree) or "", release, "\n".join(imports), sorted(names)


def variant(backend: str, rows: tuple[str, ...]) -> tuple[str, dict[str, bytes]]:
    """The id of a variant, and its files."""

    def read(path: Path) -> str:
        return (ROOT / path).read_text()

    doc, release, imports, names = public(read(Path(PACKAGE, "__init__.py")))
    namespace = f"_{PACKAGE}_{backend}_{'0' * 10}"  # in the text that the id is made from
    init = INIT.format(
        doc=doc,
        release=release,
        imports=imports,
        names="\n".join(f'    "{name}",' for name in sorted([*names, "layers"])),
        package=PACKAGE,
        namespace=namespace,
        name=NAME,
        torch=TORCH,
        oldest=".".join(map(str, TORCH)),
    )
    core = f"{PACKAGE}._backend"
    table = Source(core, Path(PACKAGE, "_backend.py"), read(Path(PACKAGE, "_backend.py")))
    text, packages = table.without_rows(rows)
    sources = {
        PACKAGE: Source(PACKAGE, Path(PACKAGE, "__init__.py"), init),
        core: Source(core, table.path, text),
    }
    waiting = [name for source in sources.values() for name in source.needs()]
    folders = {}
    for package in packages:  # loaded by name: all of its modules
        path = find(f"{PACKAGE}.{package}")
        if path is None:
            raise SystemExit(f"backend {package!r} has no folder below {ROOT}")
        folders[package] = path.parent
        modules = (ROOT / path.parent).glob("*.py")
        waiting += [f"{PACKAGE}.{package}.{p.stem}" for p in modules if p.stem != "__init__"]
    while waiting:
        module = waiting.pop()
        if module in sources:
            continue
        path = find(module)
        assert path is not None, module
        sources[module] = Source(module, path, read(path))
        waiting += [*sources[module].needs(), module.rpartition(".")[0]]  # and the package it is in

    files = {"LICENSE": read(Path("LICENSE"))}
    for module, source in sources.items():
        parts = [*source.package[1:]]
        parts += ["__init__"] if source.path.name == "__init__.py" else [module.split(".")[-1]]
        files["/".join(parts) + ".py"] = source.rewritten(namespace)
    for package, folder in folders.items():
        for path in (ROOT / folder).glob("*.csv"):
            files[f"{package}/{path.name}"] = path.read_text()
    content = json.dumps(sorted(files.items())).encode()
    ident = namespace[:-10] + hashlib.sha256(content).hexdigest()[:10]
    return ident, {name: text.replace(namespace, ident).encode() for name, text in files.items()}


def metadata(ident: str, version: int, backend: str, files: dict[str, bytes]) -> str:
    """The variant's metadata.json, with the digest of each file."""
    digests = {
        name: base64.b64encode(hashlib.sha256(data).digest()).decode()
        for name, data in sorted(files.items())
    }
    content = {
        "name": NAME,
        "id": ident,
        "version": version,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digests},
    }
    return json.dumps(content, indent=2) + "\n"


def write(out: Path, repo: str, version: int) -> None:
    """Writes the layout to ``out``: a new or an empty folder, or one that this wrote before.

    Raises:
        SystemExit: It is another folder, or a file of the package cannot be carried.
    """
    build = out / "build.toml"
    if out.exists() and not out.is_dir():
        raise SystemExit(f"OUT must be a folder, got the file {out}")
    ours = build.is_file() and build.read_text().startswith(MARK)
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise SystemExit(f"OUT must be new, empty, or written by this script before, got {out}")
    made = {name: (backend, *variant(backend, rows)) for name, (backend, rows) in VARIANTS.items()}
    doc, release, _, names = public((ROOT / PACKAGE / "__init__.py").read_text())
    layers = ast.parse((ROOT / LAYERS[1]).read_text()).body
    described = {
        "name": NAME,
        "package": PACKAGE,
        "repo": repo,
        "version": version,
        "release": release,
        "doc": doc,
        "oldest": ".".join(map(str, TORCH)),
        "functions": ", ".join(f"`{name}`" for name in names),
        "layers": ", ".join(f"`{n.name}`" for n in layers if isinstance(n, ast.ClassDef)),
        "backends": ", ".join(f'"{backend}"' for backend, _ in VARIANTS.values()),
        "mark": MARK,
    }
    shutil.rmtree(out / "build", ignore_errors=True)
    for name, (backend, ident, files) in made.items():
        files["metadata.json"] = metadata(ident, version, backend, files).encode()
        for file, data in files.items():
            path = out / "build" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        print(f"{out / 'build' / name}: {ident}, {len(files)} files")
    (out / "build" / "CARD.md").write_text(CARD.format(**described))
    build.write_text(BUILD.format(**described))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="writes the kernels hub's layout")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one of this script")
    parser.add_argument("--repo", default=REPO, help="OWNER/NAME on the hub (default: %(default)s)")
    # by the hub's convention, 0 is for kernels whose interface may still change
    parser.add_argument("--version", type=int, default=0, help="of the kernel (default: 0)")
    args = parser.parse_args()
    write(args.out, args.repo, args.version)


if __name__ == "__main__":
    main()
