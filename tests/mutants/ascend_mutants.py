"""Faults of the Ascend C kernels and their host launchers.

Each takes a minute or two to compile.
"""

from mutant import Mutant

GATE = "tests/test_ascend.py -k 'gate_by_blocks and not nan and 65'"
GATE_ROWS = "tests/test_grouped_gate.py -k 'every_kind and ascend'"
GEMM = "tests/test_grouped_gemm.py -k 'oracle and ascend and float32'"
PRODUCTS = "tests/test_ascend.py -k 'products_of_several_tiles and float32'"
MLP = "tests/test_grouped_mlp.py -k 'matches_the_oracle[ascend and (several or odd or one-past)'"
LOSS = "tests/test_load_balance_loss.py -k 'oracle and ascend and float32'"
ROUTE = "tests/test_route.py -k 'oracle and ascend'"
STREAMS = "tests/test_ascend.py -k route_by_streams"
PERMUTE = "tests/test_permute.py -k 'oracle and ascend and float32'"
UNPERMUTE = "tests/test_unpermute.py -k 'oracle and ascend and float32'"
UNPERMUTE_DROPPED = "tests/test_unpermute.py -k 'not_read and ascend'"
SWIGLU = "tests/test_swiglu.py -k 'oracle and ascend and float32'"
REFUSES = "tests/test_ascend.py -k host_refuses"
MUTANTS = [
    # --- what kernels share ---
    Mutant(
        "ascend_kernels/common.h",
        "return {begin, begin + each + (core < more ? 1 : 0)};",
        "return {begin, begin + each};",
        "The units that do not divide evenly among the cores are left out.",
        PERMUTE,
    ),
    Mutant(
        "ascend_kernels/common.h",
        "Cast(dst, src, RoundMode::CAST_RINT, count);",
        "Cast(dst, src, RoundMode::CAST_TRUNC, count);",
        "Results in 16 bits are truncated.",
        "tests/test_grouped_mlp.py -k 'rounds_no_worse and ascend'",
    ),
    Mutant(
        "ascend_kernels/rows.h",
        "if (row_to_slot.GetValue(middle) < 0) {",
        "if (row_to_slot.GetValue(middle) <= 0) {",
        "The row of slot 0 is taken for the first that is not in use.",
        "tests/test_permute.py -k 'dropped and ascend'",
    ),
    # --- permute, unpermute ---
    Mutant(
        "ascend_kernels/permute/permute_kernel.h",
        "if (row < 0) continue;  // the slot was dropped",
        "if (row < -1) continue;",
        "A dropped slot is stored before the first row.",
        "tests/test_permute.py -k 'dropped and ascend'",
    ),
    Mutant(
        "ascend_kernels/permute/permute_kernel.h",
        "tile[i / K_ * pitch], columns);",
        "tile[i / K_ * columns], columns);",
        "A token of a tile is read at the pitch of global memory, not of UB.",
        PERMUTE,
    ),
    Mutant(
        "ascend_kernels/unpermute/unpermute_kernel.h",
        "if (!any) Duplicate(acc, 0.0f, count);",
        "",
        "A token without a row gets what was in UB.",
        UNPERMUTE_DROPPED,
    ),
    Mutant(
        "ascend_kernels/unpermute/unpermute_kernel.h",
        "if (column != 0) Add(dots, dots, block_dots, tokens * K_);",
        "if (column == 0) Add(dots, dots, block_dots, tokens * K_);",
        "The gradient of the weights is that of the first columns twice.",
        "tests/test_ascend.py -k 'rows_longer_than_a_tile and float32'",
    ),
    # --- swiglu ---
    Mutant(
        "ascend_kernels/swiglu/swiglu_kernel.h",
        "Sub(silu, sigmoid, silu, count);     // s - g s^2",
        "Add(silu, sigmoid, silu, count);     // s + g s^2",
        "A term of silu's derivative has the wrong sign.",
        SWIGLU,
    ),
    Mutant(
        "ascend_kernels/swiglu/swiglu_kernel.h",
        "const uint32_t filler = RoundUp(tile.columns, kPerBlock<T>) - tile.columns;",
        "const uint32_t filler = 0;",
        "The last block of a row is not filled with zeros.",
        SWIGLU,
    ),
    # --- route ---
    Mutant(
        "ascend_kernels/route/route_slots_kernel.h",
        "if (core == GetBlockIdx()) Adds(before, total, 0, count);",
        "if (core == 0) Adds(before, total, 0, count);",
        "A core places its slots over those of the cores before it.",
        "tests/test_ascend.py -k 'cores_in_any_order and 24'",
    ),
    Mutant(
        "ascend_kernels/route/route_slots_kernel.h",
        "return id >= first && id < first + static_cast<int32_t>(P_) ? id : -1;",
        "return id >= first && id <= first + static_cast<int32_t>(P_) ? id : -1;",
        "The first expert of the next group is not dropped.",
        "tests/test_route.py -k 'dropped and ascend'",
    ),
    Mutant(
        "ascend_kernels/route/route_streams_kernel.h",
        "for (uint32_t s = 1; s < kStreams; ++s) {",
        "for (uint32_t s = 1; s + 1 < kStreams; ++s) {",
        "The last stream's slots begin at a wrong row.",
        STREAMS,
    ),
    Mutant(
        "ascend_kernels/route/route_streams_kernel.h",
        "    SyncAll();\n    ExpertRows();",
        "    ExpertRows();",
        "A core reads the others' counts before they are written.",
        STREAMS,
    ),
    # --- gate ---
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_pangu_kernel.h",
        "tile_.template ReduceGroups<ReduceType::MIN>(local_, tile_.spare);",
        "tile_.template ReduceGroups<ReduceType::MAX>(local_, tile_.spare);",
        "The number of a group's size wins, not the first of the best experts.",
        GATE,
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_pangu_kernel.h",
        "if (count < tile_.tokens) {  // the rest of the tile counts for no expert",
        "if (count + 1 < tile_.tokens) {",
        "Where one token is missing in a tile, its padding is counted.",
        "tests/test_ascend.py -k lacks_one_token",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_pangu_kernel.h",
        "if (++tiles % kFlushTiles == 0) Flush();",
        "++tiles;",
        "Counts above 2048 are lost in float16.",
        "tests/test_ascend.py -k counts_more_tokens",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_rows_kernel.h",
        "keys.SetValue(first + best, -1.0f / 0.0f);",
        "keys.SetValue(first + best, 0.0f);",
        "An expert can be chosen twice where a bias makes the other keys negative.",
        GATE_ROWS,
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_rows_kernel.h",
        "float d = d_base.GetValue(c) - along_base;",
        "float d = d_base.GetValue(c);",
        "The gradient lacks the term of the sum that renormalises.",
        GATE_ROWS,
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_rows_kernel.h",
        "return total == 0.0f ? 1.0f / static_cast<float>(tiling.G * tiling.k) : score / total;",
        "return score / total;",
        "The shares of a row whose scores vanish are NaN.",
        "tests/test_grouped_gate.py -k 'vanish and ascend'",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_rows_kernel.h",
        "Muls(row_.slopes, row_.slopes, 0.0f, row_.width);",
        "Duplicate(row_.slopes, 0.0f, row_.width);",
        "Experts that were not chosen lose a row's NaN.",
        "tests/test_grouped_gate.py -k 'nan_row and ascend'",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_rows_kernel.h",
        "if (tiling.given) d += d_scores.GetValue(place);",
        "",
        "Of a row's slots with the same expert, only the last has a gradient.",
        GATE_ROWS,
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_row.h",
        "return Has(expert) ? scores.GetValue(Place(expert)) : 0.0f;",
        "return Has(expert) ? scores.GetValue(Place(expert)) : 1.0f;",
        "A dropped slot has a part in the sum that renormalises.",
        GATE_ROWS,
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_pangu_tile.h",
        "Select(shares, bits, shares, 1.0f / kG,",
        "Select(shares, bits, shares, 0.0f,",
        "The shares of a row whose scores vanish are zero.",
        "tests/test_grouped_gate.py -k 'vanish and ascend'",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_pangu_tile.h",
        "Select(total, bits, total, 1.0f,",
        "Select(total, bits, total, 0.0f,",
        "The gradients of a row whose scores vanish are NaN.",
        "tests/test_grouped_gate.py -k 'vanish and ascend'",
    ),
    Mutant(
        "ascend_kernels/grouped_gate/grouped_gate_common.h",
        "Muls(slopes, spare, 0.5f, count);",
        "Muls(slopes, spare, 1.0f, count);",
        "The slope of the softplus' root is twice too large.",
        GATE_ROWS,
    ),
    # --- balance loss ---
    Mutant(
        "ascend_kernels/load_balance_loss/load_balance_loss_kernel.h",
        "Muls(f, f, static_cast<float>(E) / slots, E);",
        "Muls(f, f, static_cast<float>(E) / rows, E);",
        "The shares are K times too large.",
        LOSS,
    ),
    Mutant(
        "ascend_kernels/load_balance_loss/load_balance_loss_kernel.h",
        "Adds(d_scores, d_q, -along, E);",
        "Adds(d_scores, d_q, 0.0f * along, E);",
        "The gradient lacks the term of the scores' sum.",
        LOSS,
    ),
    Mutant(
        "ascend_kernels/load_balance_loss/load_balance_loss_kernel.h",
        "if (total_ == 0.0f) {",
        "if (total_ < 0.0f) {",
        "The loss of a row whose scores vanish is NaN.",
        "tests/test_load_balance_loss.py -k 'vanish and ascend'",
    ),
    # --- grouped products ---
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_scheduler.h",
        "return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset), tiling_.N);",
        "return offset < 0 ? 0 : static_cast<uint64_t>(offset);",
        "Offsets are not clamped at N.",
        "tests/test_ascend.py -k stay_inside",
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_scheduler.h",
        "tile.backward = at_ % 2 != 0;",
        "tile.backward = false;",
        "All tiles sum forwards, and take the chunks that the last one left for other ones.",
        "tests/test_ascend.py -k strip_find",
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_scheduler.h",
        "tile.backward = at_ % 2 != 0;",
        "tile.backward = at_ % 2 == 0;",
        "The even tiles of a strip sum backwards, not the odd ones.",
        "",
        "Neighbouring tiles still alternate, and TakeStages lays out a strip that begins so: "
        "the same chunks are loaded, and each sum has the same terms.",
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_scheduler.h",
        "return top + unit % per_swizzle % rows;",
        "return top + unit % per_swizzle / row_units_ % rows;",
        "A swizzle computes some row tiles twice and others never.",
        PRODUCTS,
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_pipeline.h",
        "return tile.starts_strip || i >= left_stages_;",
        "return tile.starts_strip || i > left_stages_;",
        "A chunk of the left factor is taken for one that is still in L1.",
        "tests/test_ascend.py -k 'strip_find'",
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_pipeline.h",
        "if (params.m / kFractal * (params.n / kFractal) < kFewFractals) PipeBarrier<PIPE_M>();",
        "",
        "Small products that add up have no barrier between them.",
        GEMM,
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_pipeline.h",
        "    SetFlag<HardEvent::MTE1_MTE2>(right.stage);\n    if (step.frees_left)",
        "    if (step.frees_left)",
        "A stage of the right factor is never free again.",
        GEMM,
    ),
    # --- expert layer ---
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_kernel.h",
        "if (part == 0 && filled_ >= kRingSlots) CrossCoreWaitFlag(kSlotFree);",
        "if (part == 0 && filled_ > kRingSlots) CrossCoreWaitFlag(kSlotFree);",
        "The producer fills a slot of the ring that is still being read.",
        "tests/test_ascend.py -k 'expert_layer_of_several_tiles and float32'",
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_kernel.h",
        "Muls(row, row, weight_[buffer_].GetValue(i), chunk.pitch);",
        "Muls(row, row, weight_[buffer_].GetValue(0), chunk.pitch);",
        "All rows of a chunk get the first one's weight.",
        MLP,
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_act_bwd_kernel.h",
        "LoadTile(in[kTile], pre_[at + F_], tile, 2 * F_);",
        "LoadTile(in[kTile], pre_[at], tile, 2 * F_);",
        "The backward pass reads gate in place of up.",
        MLP,
    ),
    # --- host ---
    Mutant(
        "csrc/launch.cpp",
        "if (buffer.data % static_cast<Pointer>(buffer.size) != 0) {",
        "if (buffer.data % static_cast<Pointer>(2) != 0) {",
        "A misaligned buffer reaches the device.",
        REFUSES,
    ),
    Mutant(
        "csrc/launch.cpp",
        'CheckSize(op, "T", T, INT32_MAX / std::max<int64_t>(K, 1));',
        'CheckSize(op, "T", T, INT32_MAX);',
        "More rows than int32 numbers are accepted.",
        REFUSES,
    ),
    Mutant(
        "csrc/swiglu.cpp",
        "tiling.columns = static_cast<uint32_t>(std::min<int64_t>(F, tile));",
        "tiling.columns = static_cast<uint32_t>(F);",
        "A row longer than a tile is loaded as one.",
        "tests/test_ascend.py -k 'swiglu_of_rows and float32'",
    ),
    Mutant(
        "csrc/unpermute.cpp",
        '{"weights", weights, weights != 0 ? T * K : 0, 4, Access::kIn},',
        '{"weights", weights, weights != 0 ? T : 0, 4, Access::kIn},',
        "The launch describes the weights of one column, so reading the others is out of bounds.",
        UNPERMUTE,
    ),
]
