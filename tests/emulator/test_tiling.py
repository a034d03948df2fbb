"""The host side of the high-level calls: tiling data, and temporary memory that is just enough."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "csrc" / "emulator" / "run.py"

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.slow,
]

PROGRAM = r"""
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "acl/acl.h"
#include "kernel_operator.h"
#include "tiling/tiling_api.h"

#define EXPECT(what) \
  if (!(what)) {     \
    std::printf("line %d: %s\n", __LINE__, #what); \
    std::exit(3);    \
  }

namespace optiling {
BEGIN_TILING_DATA_DEF(Part)
TILING_DATA_FIELD_DEF(uint16_t, small);
TILING_DATA_FIELD_DEF_ARR(uint16_t, 3, list);
TILING_DATA_FIELD_DEF(uint64_t, large);
END_TILING_DATA_DEF;
REGISTER_TILING_DATA_CLASS(PartOp, Part)

BEGIN_TILING_DATA_DEF(Everything)
TILING_DATA_FIELD_DEF(uint8_t, first);
TILING_DATA_FIELD_DEF_STRUCT(Part, part);
TILING_DATA_FIELD_DEF_STRUCT(TopkTiling, topk);
TILING_DATA_FIELD_DEF_STRUCT(SoftMaxTiling, rows);
TILING_DATA_FIELD_DEF(float, last);
END_TILING_DATA_DEF;
REGISTER_TILING_DATA_CLASS(Program, Everything)
}  // namespace optiling

struct PlainPart {
  uint16_t small, list[3];
  uint64_t large;
};
struct Plain {
  uint8_t first;
  PlainPart part;
  TopkTiling topk;
  SoftMaxTiling rows;
  float last;
};

constexpr uint32_t kRows = 24, kColumns = 96, kTop = 5;

// the softmax of each row, and its largest, in memory that is just enough
extern "C" __global__ __vector__ void rank(GM_ADDR x, GM_ADDR y, GM_ADDR best, Plain tiling,
                                           uint32_t row_bytes, uint32_t top_bytes) {
  using namespace AscendC;
  constexpr uint32_t kCount = kRows * kColumns;
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffers[5];
  pipe.InitBuffer(buffers[0], kCount * 4);
  pipe.InitBuffer(buffers[1], row_bytes);
  pipe.InitBuffer(buffers[2], top_bytes);
  pipe.InitBuffer(buffers[3], kRows * 8 * 4);
  pipe.InitBuffer(buffers[4], kRows * 8 * 4);
  GlobalTensor<float> in, out;
  GlobalTensor<int32_t> indices;
  in.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(x), kCount);
  out.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y), kCount);
  indices.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(best), kRows * 8);
  auto values = buffers[0].Get<float>(), top = buffers[3].Get<float>();
  auto index = buffers[4].Get<int32_t>();
  LocalTensor<int32_t> none;
  LocalTensor<bool> finished;
  DataCopy(values, in, kCount);
  Duplicate(top, 0.0f, kRows * 8);
  Duplicate(index, 0, kRows * 8);
  PipeBarrier<PIPE_ALL>();
  SoftMax<float>(values, values, buffers[1].Get<uint8_t>(), tiling.rows);
  TopK<float>(top, index, values, none, finished, buffers[2].Get<uint8_t>(), kTop, tiling.topk,
              {kRows, kColumns, kColumns});
  PipeBarrier<PIPE_ALL>();
  DataCopy(out, values, kCount);
  DataCopy(indices, index, kRows * 8);
}

int main() {
  optiling::Everything tiling;
  const uint16_t list[4] = {11, 12, 13, 14};
  tiling.set_first(1);
  tiling.part.set_small(2);
  tiling.part.set_list(list);
  tiling.part.set_large(uint64_t{3} << 40);
  tiling.set_last(4.5f);
  EXPECT(tiling.part.get_list()[2] == 13 && tiling.get_last() == 4.5f);

  const auto* platform = platform_ascendc::PlatformAscendCManager::GetInstance();
  uint32_t most = 0, least = 0;
  EXPECT(AscendC::TopKTilingFunc(*platform, kColumns, kRows, kTop, 4, false,
                                 AscendC::TopKMode::TOPK_NORMAL, true, tiling.topk));
  EXPECT(AscendC::GetTopKMaxMinTmpSize(*platform, kColumns, kRows, false, false,
                                       AscendC::TopKMode::TOPK_NORMAL, true, 4, most, least));
  EXPECT(!AscendC::GetTopKMaxMinTmpSize(*platform, 33, kRows, false, false,
                                        AscendC::TopKMode::TOPK_NORMAL, true, 4, most, least));
  AscendC::TensorShape shape({4, kRows / 4, kColumns});
  EXPECT(shape.GetDimNum() == 3 && shape.GetShapeSize() == kRows * kColumns);
  const uint32_t row_bytes = AscendC::GetSoftMaxMinTmpSize(shape, sizeof(float), false);
  EXPECT(row_bytes <= AscendC::GetSoftMaxMaxTmpSize(shape, sizeof(float), false));
  AscendC::SoftMaxTilingFunc(shape, sizeof(float), row_bytes, tiling.rows);
  EXPECT(tiling.rows.get_srcM() == kRows && tiling.rows.get_srcK() == kColumns);
  EXPECT(!AscendC::IsBasicBlockInSoftMax(tiling.rows, 4));  // 96 columns
  EXPECT(AscendC::GetSortTmpSize(*platform, 128, 2) == 1024);

  const optiling::Everything copy = tiling;
  Plain plain;
  EXPECT(copy.GetDataSize() == sizeof plain);
  EXPECT(sizeof copy > sizeof plain);
  copy.SaveToBuffer(&plain, sizeof plain);
  EXPECT(plain.first == 1 && plain.part.small == 2 && plain.part.list[2] == 13);
  EXPECT(plain.part.large == uint64_t{3} << 40 && plain.last == 4.5f);
  EXPECT(plain.rows.srcM == kRows && plain.topk.allDataSize == int32_t(kRows * kColumns));

  constexpr size_t kBytes = kRows * kColumns * 4, kBest = kRows * 8 * 4;
  aclInit(nullptr);
  aclrtSetDevice(0);
  float *host, *x, *y;
  int32_t *best, *places;
  aclrtMallocHost(reinterpret_cast<void**>(&host), kBytes);
  aclrtMallocHost(reinterpret_cast<void**>(&places), kBest);
  aclrtMalloc(reinterpret_cast<void**>(&x), kBytes, ACL_MEM_MALLOC_HUGE_FIRST);
  aclrtMalloc(reinterpret_cast<void**>(&y), kBytes, ACL_MEM_MALLOC_HUGE_FIRST);
  aclrtMalloc(reinterpret_cast<void**>(&best), kBest, ACL_MEM_MALLOC_HUGE_FIRST);
  for (uint32_t i = 0; i < kRows * kColumns; ++i) host[i] = float(i * 37 % 101) / 16;
  aclrtMemcpy(x, kBytes, host, kBytes, ACL_MEMCPY_HOST_TO_DEVICE);
  rank<<<1, nullptr, nullptr>>>(reinterpret_cast<uint8_t*>(x), reinterpret_cast<uint8_t*>(y),
                                reinterpret_cast<uint8_t*>(best), plain, row_bytes, LEAST);
  aclrtSynchronizeDevice();
  aclrtMemcpy(host, kBytes, y, kBytes, ACL_MEMCPY_DEVICE_TO_HOST);
  aclrtMemcpy(places, kBest, best, kBest, ACL_MEMCPY_DEVICE_TO_HOST);
  for (uint32_t row = 0; row < kRows; ++row) {
    float sum = 0, largest = 0;
    for (uint32_t i = 0; i < kColumns; ++i) {
      sum += host[row * kColumns + i];
      largest = std::fmax(largest, host[row * kColumns + i]);
    }
    EXPECT(std::fabs(sum - 1) < 1e-5f);
    EXPECT(host[row * kColumns + places[row * 8]] == largest);
  }
  std::puts("as expected");
}
"""


def run(tmp_path: Path, least: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.asc").write_text(PROGRAM.replace("LEAST", least))
    cache = ROOT / "build" / "emulator-run"
    return subprocess.run(
        [sys.executable, str(RUN), "-O0", "--cache", str(cache), "program.asc"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
        check=False,
    )


def test_tiling_data_and_memory_that_is_just_enough(tmp_path: Path) -> None:
    result = run(tmp_path, "least")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "as expected\n"


def test_less_memory_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "least - 32")
    assert result.returncode == 1
    assert "TopK: rule adv.tmp-size: " in result.stderr
