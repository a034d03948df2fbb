"""Ascend C programs through csrc/emulator/run.py: launches, the host's runtime, reports.

They are what docs/backends/laptop.md shows.
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "csrc" / "emulator" / "run.py"
EXAMPLE = sorted((ROOT / "examples" / "ascend").glob("*.asc"))

pytestmark = pytest.mark.slow  # each test compiles a program


@pytest.fixture(autouse=True)
def _usual_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOGE_EMULATOR_RULES", raising=False)


def run(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), "-O0", "--cache", str(ROOT / "build" / "emulator-run")]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": ""} | variables,
        check=False,
    )


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.asc"
    path.write_text('#include "acl/acl.h"\n#include "kernel_operator.h"\n' + text)
    return path


# --- the example and its faults -----------------------------------------------------------------


def test_the_example_is_right(tmp_path: Path) -> None:
    for options in ([], ["--strict"], ["--seed", "7"]):
        done = run(*EXAMPLE, *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "0 of 20008 wrong\n"), done.stderr


@pytest.mark.parametrize(
    ("fault", "report", "line"),
    [
        ("MISSING_FLAG", "Muls: rule sync.missing: pipe V reads UB [0, 32)", "AscendC::Muls("),
        ("RACE", "DataCopy: rule gm.race: writes byte 10016 of 'y_device'", "DataCopy(y_[at]"),
        (
            "OVERRUN",
            "DataCopy: rule gm.bounds: bytes [78304, 80128) of 'x_device'",
            "DataCopy(tile",
        ),
    ],
)
def test_a_planted_fault_is_found_at_its_line(
    fault: str, report: str, line: str, tmp_path: Path
) -> None:
    done = run(*EXAMPLE, "-D", fault, cwd=tmp_path)
    assert done.returncode == 1
    first, *places = [each for each in done.stderr.splitlines() if "once" not in each]
    assert first.startswith(f"error: {report}")
    assert first.endswith(" of scale)")
    file, number = re.fullmatch(r"  at (\S+):(\d+) in Scale::Step", places[0]).groups()
    assert line in Path(file).read_text().splitlines()[int(number) - 1]
    assert places[-1].endswith(", the launch")
    assert "main.asc" in places[-1]


def test_a_level_of_a_rule(tmp_path: Path) -> None:
    done = run(*EXAMPLE, "-D", "MISSING_FLAG", "--rules", "sync.missing=warning", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: Muls: rule sync.missing" in done.stderr


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    done = run(*EXAMPLE, "--device", "910X", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "MOGE_EMULATOR_DEVICE is one of 910B1 " in done.stderr
    done = run(*EXAMPLE, "-O9x", cwd=tmp_path)
    assert done.returncode == 2
    assert "argument -O: invalid choice: '9x'" in done.stderr
    done = run(*EXAMPLE, "--rules", "no.such=off", cwd=tmp_path)
    assert done.returncode == 1
    assert "no rule is called 'no.such'" in done.stderr


def test_the_picture(tmp_path: Path) -> None:
    done = run(*EXAMPLE, "--picture", "pipes.svg", "--device", "910B4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tree = xml.etree.ElementTree.parse(tmp_path / "pipes.svg")
    space = {"svg": "http://www.w3.org/2000/svg"}
    texts = [each.text for each in tree.iterfind(".//svg:text", space)]
    assert texts[0] == "When each pipe is busy: modelled, not measured"
    assert any("910B4" in each for each in texts)
    assert {"MTE2", "V", "MTE3"} <= set(texts)
    told = [each.text for each in tree.iterfind(".//svg:title", space)]
    assert [each.split(":")[0] for each in told].count("Muls") == 3  # tiles of core 0
    assert len(told) == 9


def test_the_picture_of_the_page(tmp_path: Path) -> None:
    """Draw it anew with `run.py examples/ascend/*.asc --picture docs/backends/pipes.svg`."""
    done = run(*EXAMPLE, "--picture", "pipes.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    committed = ROOT / "docs" / "backends" / "pipes.svg"
    assert (tmp_path / "pipes.svg").read_text() == committed.read_text()


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_gdb_stops_in_device_code(tmp_path: Path) -> None:
    number = (
        EXAMPLE[1].read_text().splitlines().index("    AscendC::Muls(tile, tile, factor_, count);")
    )
    commands = (f"break scale.asc:{number + 1}", "run", "print count", "print factor_")
    options = [part for each in commands for part in ("--gdb-command", each)]
    done = run(*EXAMPLE, *options, cwd=tmp_path)
    assert "hit Breakpoint 1, Scale::Step" in done.stdout, done.stderr
    assert "$1 = 1024\n$2 = 0.5\n" in done.stdout


# --- the runtime --------------------------------------------------------------------------------

COPY = """
template <typename T>
__global__ __vector__ void copy(GM_ADDR x, GM_ADDR y, uint32_t count) {
  AscendC::InitSocState();
  AscendC::GlobalTensor<T> from, to;
  from.SetGlobalBuffer((__gm__ T*)x);
  to.SetGlobalBuffer((__gm__ T*)y);
  const AscendC::LocalTensor<T> tile(AscendC::TPosition::VECCALC, 0, count);
  AscendC::DataCopy(tile, from, count);
  AscendC::SetFlag<AscendC::HardEvent::MTE2_MTE3>(0);
  AscendC::WaitFlag<AscendC::HardEvent::MTE2_MTE3>(0);
  AscendC::DataCopy(to, tile, count);
  AscendC::PipeBarrier<PIPE_ALL>();
}
int main(int argc, char** argv) {
  constexpr size_t kBytes = 64 * sizeof(float);
  float host[64];
  for (int i = 0; i < 64; ++i) host[i] = i;
  void *a = nullptr, *b = nullptr, *c = nullptr;
  aclrtMalloc(&a, kBytes, ACL_MEM_MALLOC_HUGE_FIRST);
  aclrtMalloc(&b, kBytes, ACL_MEM_MALLOC_HUGE_FIRST);
  aclrtMalloc(&c, kBytes, ACL_MEM_MALLOC_HUGE_FIRST);
  const auto first = (uint8_t*)a, second = (uint8_t*)b, third = (uint8_t*)c;
"""


def test_a_launch_reads_what_another_wrote(tmp_path: Path) -> None:
    main = """
  aclrtMemcpy(a, kBytes, host, kBytes, ACL_MEMCPY_HOST_TO_DEVICE);
  copy<float><<<1, nullptr, nullptr>>>(first, second, 64);
  copy<float><<<1, nullptr, nullptr>>>(second, third, 64);
  aclrtMemcpy(host, kBytes, c, kBytes, ACL_MEMCPY_DEVICE_TO_HOST);
  printf("%g %s\\n", host[63], argc > 1 ? argv[1] : "");
}
"""
    source = program(tmp_path, "#include <cstdio>\n" + COPY + main)
    done = run(source, "--", "argument", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "63 argument\n"), done.stderr


def test_a_command_that_cannot_run(tmp_path: Path) -> None:
    for options, told in (
        (["absent.asc"], "no file absent.asc; arguments of the program follow --"),
        ([*EXAMPLE, "7"], "no file 7; arguments of the program follow --"),
        ([*EXAMPLE, "--compiler", "absent"], "absent: No such file or directory"),
        ([*EXAMPLE, "--keep", EXAMPLE[0] / "x"], "main.asc/x: Not a directory"),
    ):
        done = run(*options, cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_host_file_needs_no_header_of_the_device(tmp_path: Path) -> None:
    kernel = program(tmp_path, '#include "own/of.h"\n__global__ __vector__ void k(int n) {}\n')
    (tmp_path / "folder" / "own").mkdir(parents=True)
    (tmp_path / "folder" / "own" / "of.h").write_text("__global__ __vector__ void k(int n);\n")
    host = tmp_path / "host.cpp"
    host.write_text('#include "own/of.h"\nint main() { k<<<1, nullptr, nullptr>>>(7); }\n')
    done = run(kernel, host, "-I", tmp_path / "folder", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_error_of_the_compiler_names_the_line(tmp_path: Path) -> None:
    done = run(
        program(tmp_path, "__global__ __vector__ void k() {\n  Nothing();\n}\n"), cwd=tmp_path
    )
    assert done.returncode == 2
    assert "program.asc:4:3: error: " in done.stderr
    assert "program.asc does not compile: " in done.stderr


def test_macros_of_one_letter_may_be_the_programs(tmp_path: Path) -> None:
    main = "int main() { static_assert(M * N * K == 24); return 0; }\n"
    done = run(program(tmp_path, main), "-DM=2", "-DN=3", "-DK=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_is_found_at_the_end_has_the_line_of_the_launch(tmp_path: Path) -> None:
    text = """
__global__ __vector__ void k() {
  AscendC::InitSocState();
  AscendC::SetFlag<AscendC::HardEvent::V_MTE2>(2);
  AscendC::PipeBarrier<PIPE_ALL>();
}
int main() {
  k<<<BLOCKS, nullptr, nullptr>>>();
}
"""
    done = run(program(tmp_path, text), "-D", "BLOCKS=1", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "V_MTE2 2 was set and never waited for: add WaitFlag<HardEvent::V_MTE2>(2)" in done.stderr
    )
    assert "program.asc:10 in main" in done.stderr
    done = run(program(tmp_path, text), "-D", "BLOCKS=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: k: a launch has 1 to 65535 blocks, got 0" in done.stderr
    assert "program.asc:10 in main" in done.stderr


def test_a_host_that_does_not_wait(tmp_path: Path) -> None:
    main = """
  aclrtStream stream = nullptr, other = nullptr;
  aclrtCreateStream(&stream);
  aclrtCreateStream(&other);
  aclrtMemcpy(a, kBytes, host, kBytes, ACL_MEMCPY_HOST_TO_DEVICE);
  copy<float><<<1, nullptr, stream>>>(first, second, 64);
#if HOW == 0  // no wait at all
#elif HOW == 1
  aclrtSynchronizeStream(other);
#elif HOW == 2
  aclrtSynchronizeStream(stream);
#elif HOW == 3
  aclrtSynchronizeDevice();
#else  // another stream waits for an event of this one, and the host for that stream
  aclrtEvent event = nullptr;
  aclrtCreateEvent(&event);
  aclrtRecordEvent(event, stream);
  aclrtStreamWaitEvent(other, event);
  aclrtSynchronizeStream(other);
#endif
  aclrtMemcpy(host, kBytes, b, kBytes, ACL_MEMCPY_DEVICE_TO_HOST);
  float late[64] = {};
  aclrtMemcpyAsync(late, kBytes, b, kBytes, ACL_MEMCPY_DEVICE_TO_HOST, stream);
  printf("%g ", late[63]);
  aclrtMemcpyAsync(c, kBytes, late, kBytes, ACL_MEMCPY_HOST_TO_DEVICE, stream);  // in order
  aclrtMemcpyAsync(late, kBytes, c, kBytes, ACL_MEMCPY_DEVICE_TO_HOST, stream);
  if (HOW != 0) aclrtSynchronizeStream(stream);
  aclrtDestroyStream(stream);
  printf("%g\\n", late[63]);
}
"""
    for how in range(5):
        source = program(tmp_path, "#include <cstdio>\n" + COPY + main)
        done = run(source, "-D", f"HOW={how}", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "0 63\n"), done.stderr
        told = (
            "acl: aclrtMemcpy reads what the launch of copy writes, and nothing has waited for it"
        )
        assert (told in done.stderr) == (how < 2), how
        assert ("nothing has waited for an aclrtMemcpyAsync" in done.stderr) == (how == 0)


@pytest.mark.parametrize(
    ("launch", "report"),
    [
        ("(first, second, 64)", "rule gm.uninitialised: reads byte 0 of 'first'"),
        ("((uint8_t*)host, second, 64)", "rule gm.unregistered: address"),
        ("((uint8_t*)host, second, 64)", "'host' of the launch is no memory that aclrtMalloc"),
        ("(first + 32, second, 64)", "rule gm.bounds: bytes [32, 288) of 'first + 32'"),
    ],
)
def test_memory_that_a_kernel_may_not_read(launch: str, report: str, tmp_path: Path) -> None:
    main = f"  copy<float>\n  <<<1, nullptr, nullptr>>>{launch};\n}}\n"
    done = run(program(tmp_path, COPY + main), cwd=tmp_path)
    assert done.returncode == 1
    assert report in done.stderr
    assert "program.asc:11 in copy<float>" in done.stderr


def test_calls_of_the_runtime_that_fail(tmp_path: Path) -> None:
    main = """
#include <cstdio>
int main() {
  char host[64];
  void* data = nullptr;
  printf("%d", aclrtMalloc(&data, 0, ACL_MEM_MALLOC_HUGE_FIRST) == ACL_SUCCESS);
  printf("%d", aclrtMalloc(&data, 32, ACL_MEM_MALLOC_HUGE_FIRST) == ACL_SUCCESS);
  printf("%d", aclrtMemcpy(data, 32, host, 64, ACL_MEMCPY_HOST_TO_DEVICE) == ACL_SUCCESS);
  printf("%d", aclrtMemcpy(data, 64, host, 64, ACL_MEMCPY_HOST_TO_DEVICE) == ACL_SUCCESS);
  printf("%d", aclrtMemcpy(host, 64, host, 64, ACL_MEMCPY_DEVICE_TO_HOST) == ACL_SUCCESS);
  printf(" %s ", aclGetRecentErrMsg());
  aclrtEvent event = nullptr;
  aclrtCreateEvent(&event);
  float time = -1;
  printf("%d", aclrtEventElapsedTime(&time, event, event) == ACL_SUCCESS);
  aclrtRecordEvent(event, nullptr);
  printf("%d", aclrtEventElapsedTime(&time, event, event) == ACL_SUCCESS && time == 0);
  aclrtDestroyEvent(event);
  printf("%d", aclrtFree(data) == ACL_SUCCESS);
  printf("%d", aclrtFree(data) == ACL_SUCCESS);
  printf(" %g\\n", aclFloat16ToFloat(aclFloatToFloat16(0.5f)));
}
"""
    done = run(program(tmp_path, main), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    message = "aclrtMemcpy: the source is no memory that aclrtMalloc gave out"
    assert "target has 32 bytes, too few for 64 from the given address on" in done.stderr
    assert done.stdout == f"01000 {message} 0110 0.5\n"
    assert done.stderr.count("acl: ") == 6


def test_the_platform(tmp_path: Path) -> None:
    main = """
#include <cstdio>
#include "tiling/platform/platform_ascendc.h"
int main() {
  const auto* chip = platform_ascendc::PlatformAscendCManager::GetInstance("Ascend910B1");
  uint64_t bytes = 0;
  chip->GetCoreMemSize(platform_ascendc::CoreMemType::L1, bytes);
  printf("%s %u %u %u %zu\\n", aclrtGetSocName(), chip->GetCoreNumAic(), chip->GetCoreNumAiv(),
         chip->CalcTschNumBlocks(40, chip->GetCoreNumAic(), chip->GetCoreNumAiv()), (size_t)bytes);
}
"""
    done = run(program(tmp_path, main), "--device", "910B4", cwd=tmp_path)
    assert done.stdout == "Ascend910B4 20 40 20 524288\n", done.stderr


def test_a_sanitizer_sees_device_code(tmp_path: Path) -> None:
    main = """
__global__ __vector__ void k(GM_ADDR x, int32_t n) {
  int32_t sums[4] = {};
  for (int32_t i = 0; i <= n; ++i) sums[i] = i;
  AscendC::GlobalTensor<int32_t> to;
  to.SetGlobalBuffer((__gm__ int32_t*)x);
  to.SetValue(0, sums[3]);
  AscendC::DataCacheCleanAndInvalid<int32_t, AscendC::CacheLine::ENTIRE_DATA_CACHE>(to);
}
int main() {
  uint8_t* x = nullptr;
  aclrtMalloc((void**)&x, 64, ACL_MEM_MALLOC_HUGE_FIRST);
  k<<<1, nullptr, nullptr>>>(x, 4);
}
"""
    done = run(program(tmp_path, main), "--sanitize", "address,undefined", cwd=tmp_path)
    assert done.returncode != 0
    assert "program.asc:6:" in done.stderr
    assert "index 4 out of bounds for type 'int [4]'" in done.stderr
    right = run(*EXAMPLE, "--sanitize", "address,undefined", cwd=tmp_path)
    assert (right.returncode, right.stdout) == (0, "0 of 20008 wrong\n"), right.stderr


def test_a_cmake_project_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.18)
project(user LANGUAGES CXX)
find_package(moge_emulator REQUIRED)
moge_add_ascend_executable(scale {" ".join(map(str, EXAMPLE))})
""")
    emulator, folder = ROOT / "csrc" / "emulator", ROOT / "build" / "emulator-package"
    prefix = f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'installed'}"
    for command in (
        ["cmake", "-S", emulator, "-B", folder, "-DCMAKE_BUILD_TYPE=Debug", prefix],
        ["cmake", "--build", folder, "-j2", "--target", "install"],
        [
            "cmake",
            "-S",
            tmp_path,
            "-B",
            tmp_path / "b",
            f"-DCMAKE_PREFIX_PATH={tmp_path}/installed",
        ],
        ["cmake", "--build", tmp_path / "b"],
    ):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([tmp_path / "b" / "scale"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 of 20008 wrong\n")
