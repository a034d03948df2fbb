"""Faults of activations beside SwiGLU in the Ascend C kernels and their launchers."""

from mutant import Mutant

CHOICE = "tests/test_ascend_activations.py -k 'cut and float32'"
ACTIVATION = "tests/test_activations.py -k 'ascend and {}'"
BIASES = "tests/test_ascend_activations.py -k 'launch_adds and {}'"

MUTANTS = [
    Mutant(
        "ascend_kernels/swiglu/activation.h",
        "Adds(mask, x, -of_.limit, count);",
        "Adds(mask, x, of_.limit, count);",
        "Numbers within the limit have no derivative.",
        ACTIVATION.format("clamped"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice_bwd.h",
        "Abs(tmp[2], up, count);",
        "Muls(tmp[2], up, 1.0f, count);",
        "Below the lower limit up has a derivative.",
        ACTIVATION.format("clamped"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice_bwd.h",
        "SumToLanes(sums[(kMostTerms + i) * kPerRepeat<float>], product, count);",
        "SumToLanes(sums[i * kPerRepeat<float>], product, count);",
        "The gradient of a scale of the series has that of its offset, too.",
        ACTIVATION.format("oracle and float16"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_rows.h",
        "if (offsets_.GetValue(middle + 1) > row) {",
        "if (offsets_.GetValue(middle + 1) >= row) {",
        "The first row of an expert has the bias of the one before.",
        CHOICE,
    ),
    Mutant(
        "ascend_kernels/grouped_gemm/grouped_gemm_factors.h",
        "return Min(c16, tile.both - part * c16);",
        "return tile.c;",
        "Of gate and up that take turns, the columns that fill the last fractal are left out.",
        CHOICE,
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_tiling.h",
        " && of.alpha == 1.0f",
        "",
        "A sigmoid of alpha z is that of z where nothing else is chosen.",
        ACTIVATION.format("alone_is_not"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_tiling.h",
        " && of.gated != 0",
        "",
        "Without a gate the columns are read as two halves where nothing else is chosen.",
        ACTIVATION.format("alone_is_not"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_tiling.h",
        " && of.shift == 0.0f",
        "",
        "Nothing is added to up where nothing else is chosen.",
        ACTIVATION.format("alone_is_not"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_tiling.h",
        " && of.interleaved == 0",
        "",
        "Gate and up that take turns are read as halves where nothing else is chosen.",
        ACTIVATION.format("alone_is_not"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation.h",
        "Muls(rest, rest, of_.alpha, count);",
        "",
        "Alpha has no part in the derivative.",
        ACTIVATION.format("alone_is_not"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation.h",
        "Adds(u, moved, of_.shift, count);",
        "Adds(u, up, of_.shift, count);",
        "What is added to up undoes its limits.",
        ACTIVATION.format("oracle and gpt-oss-plain"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation.h",
        "Mins(a, a, kTailEnd, count);",
        "",
        "gelu of infinity is NaN.",
        "tests/test_ascend_activations.py -k 'errors_of and gelu'",
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_kernel.h",
        "Widen(floats[4 + i], bias, size);",
        "Widen(floats[4 + i], in[2 * kTile], size);",
        "In 16 bits up has the bias of the gate.",
        BIASES.format("halves and float16"),
    ),
    Mutant(
        "ascend_kernels/swiglu/activation_kernel.h",
        "pairs.Fill(in);",
        "",
        "What fills the rows of gate and up that take turns was never written.",
        BIASES.format("turns and float32"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice.h",
        "first + F_ + tile.c0",
        "first + tile.c0",
        "Up has the bias of the gate.",
        CHOICE,
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice.h",
        "if (OfExpert(tile) && weighted_) Weigh(act, chunk);",
        "",
        "Weights on the activation are left out of any but SwiGLU.",
        ACTIVATION.format("weights_on_the"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice.h",
        "if (OfExpert(tile) && biased_) CopyBias(tile);",
        "if (biased_) CopyBias(tile);",
        "Rows that no expert has take a bias from behind the last one.",
        CHOICE,
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice_bwd.h",
        "Mul(product, product, z, count);",
        "Mul(product, product, t, count);",
        "The gradient of a scale is taken of the term's argument, offset and all.",
        ACTIVATION.format("oracle and series-plain"),
    ),
    Mutant(
        "ascend_kernels/grouped_mlp/grouped_mlp_choice_bwd.h",
        "terms_.WithinLimit(tmp[1], gate, count);",
        "terms_.WithinLimit(tmp[1], z, count);",
        "Above the limit the gate has a derivative.",
        ACTIVATION.format("oracle and gpt-oss-plain"),
    ),
]
