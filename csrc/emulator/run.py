"""Compiles an Ascend C program with g++ and runs it on the emulator.

    python csrc/emulator/run.py add.asc [more sources] [options] [-- arguments of the program]

The sources have device code, and host code with `kernel<<<blocks, nullptr, stream>>>(...)`. It
needs Python's standard library and g++. The status is the program's, 1 where it broke a rule, 2
where it does not compile. docs/backends/laptop.md shows it at work.
"""

import argparse
import concurrent.futures
import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import picture
import translate

HERE = Path(__file__).resolve().parent
INCLUDES = [f"-I{HERE}", f"-I{HERE / 'host'}"]
# a product and a sum round one by one, as two vector instructions do
COMMON = ["-std=c++17", "-g", "-ffp-contract=off", "-pthread", "-D__NPU_ARCH__=2201"]
CACHE = HERE.parents[1] / "build" / "emulator"
LEVELS = ["0", "1", "2", "3", "s", "g", "fast"]


class CompileError(Exception):
    """A command of the compiler that failed; it has said why."""


def call(command, otherwise):
    """Runs a command of the compiler."""
    if subprocess.run(command, check=False).returncode != 0:
        raise CompileError(f"{otherwise}: {shlex.join(command)}")


def fresh(target):
    """Whether an object is newer than all that it was made from."""
    depends = target.with_suffix(".d")
    if not target.exists() or not depends.exists():
        return False
    made = target.stat().st_mtime
    names = depends.read_text().split(":", 1)[1].replace("\\\n", " ").split()
    return all(os.path.exists(name) and os.stat(name).st_mtime <= made for name in names)


def build_library(compiler, flags, cache):
    """The emulator and its host runtime as a library; only pieces with a change are compiled.

    One library serves every -O of a program and gdb, since device code is the program's own.
    """
    flags = ["-O1", *flags]
    key = hashlib.sha256(repr((compiler, COMMON, flags, str(HERE))).encode()).hexdigest()[:12]
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    sources = [*sorted(HERE.glob("*.cpp")), *sorted(HERE.glob("*/*.cpp"))]
    # in a few pieces, since the headers take longer than the sources
    pieces = {
        folder / f"piece_{n}.cpp": "".join(f'#include "{source}"\n' for source in sources[n::4])
        for n in range(4)
    }
    objects = [piece.with_suffix(".o") for piece in pieces]
    archive = folder / "libmoge_emulator.a"

    def compile_one(target):
        piece = str(target.with_suffix(".cpp"))
        command = [compiler, *COMMON, *flags, *INCLUDES, "-MMD", "-c", piece, "-o", str(target)]
        begun = time.time()
        call(command, "the emulator does not compile")
        os.utime(target, (begun, begun))  # a source may have changed since

    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for piece, text in pieces.items():
            if not piece.exists() or piece.read_text() != text:
                piece.write_text(text)
        stale = [target for target in objects if not fresh(target)]
        if stale and not archive.exists():
            told = f"building the emulator in {folder}, once: this takes a while"
            print(told, file=sys.stderr, flush=True)
        if stale:
            archive.unlink(missing_ok=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, stale))
        if not archive.exists():
            call(["ar", "crs", str(archive), *map(str, objects)], "the emulator has no library")
    return archive


def compile_program(options, flags, archive, out):
    """Translates, compiles and links the sources; returns the executable."""
    folders = [Path(folder) for folder in options.include]
    searched = [f"-I{folder}" for folder in folders] + [f"-D{name}" for name in options.define]
    objects = []
    for source, original in translate.write(options.sources, folders, [HERE], out):
        target = source.with_suffix(".o")
        own = [f"-I{out / 'include'}", f"-iquote{original.parent}"]
        command = [options.compiler, *COMMON, *flags, *own, *INCLUDES, *searched]
        call([*command, "-c", str(source), "-o", str(target)], f"{original} does not compile")
        objects.append(str(target))
    program = out / "program"
    libraries = [str(archive), *(f"-l{name}" for name in options.link), "-ldl", "-pthread"]
    command = [options.compiler, *flags, "-o", str(program), *objects, *libraries]
    call(command, "the program does not link")
    return program


def parse(arguments):
    """The options, and the arguments of the program."""
    program_arguments = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, program_arguments = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description="Compile an Ascend C program for this machine and run it on the emulator.",
        epilog="What follows -- goes to the program. docs/backends/laptop.md has examples.",
        usage="run.py SOURCE... [options] [-- ARGUMENT...]",
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=".asc or .cpp file with kernels, host or both")
    add("-D", dest="define", action="append", default=[], metavar="NAME[=VALUE]", help="a macro")
    add("-I", dest="include", action="append", default=[], metavar="DIR", help="look there, too")
    add("-l", dest="link", action="append", default=[], metavar="LIBRARY", help="link with it")
    told = "of your sources: 1, with gdb 0"
    add("-O", dest="level", choices=LEVELS, metavar="LEVEL", help=told)
    add("--strict", action="store_true", help="without the barriers that the compiler adds")
    add("--seed", type=int, metavar="NUMBER", help="cores take turns in an order shuffled by it")
    add("--rules", metavar="ID=LEVEL,...", help="error, warning or off for rules")
    add("--device", metavar="NAME", help="whose cores and times: 910B1, or 910B4")
    add("--picture", metavar="FILE.svg", help="draw when pipes are busy, by the model of time")
    add("--sanitize", metavar="LIST", help="for device and host code: address,undefined")
    add("--gdb", action="store_true", help="start in gdb")
    add("--gdb-command", action="append", default=[], metavar="COMMAND", help="gdb does it, ends")
    add("--keep", metavar="DIR", help="leave the translated sources and the program there")
    add("--build-only", action="store_true", help="compile and do not run: with --keep")
    add("--cache", metavar="DIR", help=f"for the library: MOGE_EMULATOR_CACHE, else {CACHE}")
    add("--compiler", default=os.environ.get("CXX", "g++"), help="g++ or clang++")
    options = parser.parse_args(arguments)
    options.gdb = options.gdb or bool(options.gdb_command)
    for source in options.sources:
        if not Path(source).is_file():
            parser.error(f"no file {source}; arguments of the program follow --")
    return options, program_arguments


def environment(options):
    """The program's variables: host/settings.h reads them."""
    settings = {
        "STRICT": 1 if options.strict else None,
        "SEED": options.seed,
        "RULES": options.rules,
        "DEVICE": options.device,
    }
    named = {f"MOGE_EMULATOR_{key}": str(value) for key, value in settings.items() if value}
    return os.environ | named


def run(options, program, arguments):
    """Runs the executable; returns its status."""
    command = [str(program), *arguments]
    if options.gdb:
        batch = ["-batch"] if options.gdb_command else []
        command = [
            "gdb",
            *batch,
            *(f"-ex={each}" for each in options.gdb_command),
            "--args",
            *command,
        ]
    variables, times = environment(options), program.parent / "times"
    if options.picture:
        variables["MOGE_EMULATOR_TRACE"] = str(times)
    code = subprocess.run(command, env=variables, check=False).returncode
    if options.picture and times.exists():
        Path(options.picture).write_text(picture.draw(picture.read(times)))
    elif options.picture:
        print(f"no launch came to its end: {options.picture} is not drawn", file=sys.stderr)
    if code < 0:
        print(f"the program ended by signal {-code}; --gdb shows where", file=sys.stderr)
        return 128 - code
    return code


def main(arguments):
    """The command line; returns the status."""
    options, program_arguments = parse(arguments)
    level = [f"-O{options.level or ('0' if options.gdb else '1')}"]
    flags = []
    if options.sanitize:
        flags = [f"-fsanitize={options.sanitize}", "-fno-sanitize-recover=all"]
    cache = options.cache or os.environ.get("MOGE_EMULATOR_CACHE") or CACHE
    try:
        archive = build_library(options.compiler, flags, Path(cache).resolve())
        with tempfile.TemporaryDirectory(prefix="moge_emulator_") as scratch:
            out = Path(options.keep or scratch).resolve()
            out.mkdir(parents=True, exist_ok=True)
            program = compile_program(options, [*level, *flags], archive, out)
            return 0 if options.build_only else run(options, program, program_arguments)
    except (translate.TranslationError, CompileError) as error:
        print(error, file=sys.stderr)
    except OSError as error:  # no such compiler, a folder that cannot be written
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
