"""Launches of Ascend C sources become calls: csrc/emulator/translate.py."""

import pytest
import translate

KINDS = {"k": "kVector", "m": "kMix"}


@pytest.mark.parametrize(
    ("source", "kernel", "arguments"),
    [
        ("k<<<8, nullptr, s>>>(x, y);", "k(moge_a...)", "(x, y);"),
        ("k<T, 3><<<n, 0, s>>>(x);", "k<T, 3>(moge_a...)", "(x);"),
        ("k<A<int>, (1 > 0)> <<<n, 0, s>>> (x);", "k<A<int>, (1 > 0)> (moge_a...)", " (x);"),
        ("a::b::k<<<f(1, 2), 0, s>>>(x);", "a::b::k(moge_a...)", "(x);"),
        ("k /* of x */ <<<1, 0, s>>>(x /* in */);", "k ", "(x "),
        ("k<<<(n + 7) >> 3, 0, s>>>(x);", "k(moge_a...)", "(x);"),
        ("(*k)<<<1, 0, s>>>(x);", "(*k)(moge_a...)", "(x);"),
    ],
)
def test_a_launch_becomes_a_call(source: str, kernel: str, arguments: str) -> None:
    translated = translate.translate(source, KINDS)
    assert "::emulator::host::On(::emulator::KernelType::kVector, " in translated
    assert "<<<" not in translated
    assert "\\n," not in translated  # between the arguments' names, by which a report calls them
    assert kernel in translated
    assert arguments in translated


@pytest.mark.parametrize(
    "source",
    [
        "// k<<<1, 0, s>>>(x)\n",
        "/* k<<<1, 0, s>>>(x)\n */",
        'puts("k<<<1, 0, s>>>(x)");',
        'puts("\\"k<<<1, 0, s>>>(x)");',
        'puts(R"(k<<<1, 0, s>>>(x)")");',
        "int n = 1'000'000; char c = '\"';",
    ],
)
def test_other_text_stays(source: str) -> None:
    assert translate.translate(source, KINDS) == source


def test_lines_keep_their_numbers() -> None:
    source = "int a;\nk<1,\n  2>\n  <<<8,  // blocks\n  nullptr, s>>>(x,\n  y);\nint b;\n"
    translated = translate.translate(source, KINDS)
    assert translated.count("\n") == source.count("\n")
    assert translated.split("\n")[6] == "int b;"
    assert "// blocks" not in translated  # it would swallow what follows


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("__global__ __vector__ void k(GM_ADDR x) {}", "kVector"),
        ('extern "C" __global__ __cube__ void k(GM_ADDR x) {}', "kCube"),
        ("__vector__ __global__ __aicore__ void k() {}", "kVector"),
        ("__global__ __mix__(1, 2) void k() {}", "kMix"),
        ("__mix__(0,1) __global__ void k() {}", "kMixVector"),
        ("__global__ __mix__(1, 1) void k() {}", "kMixPair"),
        (
            "__global__ __aicore__ void k() { KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY); }",
            "kCube",
        ),
        ("__global__ __aicore__ void k() { Mmad(c, a, b, p); }", "kCube"),
        ("__global__ __aicore__ void k() { Adds(a, b, 1, n); }", "kVector"),
        ("__global__ __aicore__ void k() { if ASCEND_IS_AIC { f(); } }", "kMix"),
        ("__global__ __vector__ void k(); // __cube__\n__global__ void k() {}", "kVector"),
    ],
)
def test_the_kind_of_a_kernel(text: str, kind: str) -> None:
    assert translate.kernels([text]) == {"k": kind}


def test_what_is_not_understood_is_said() -> None:
    with pytest.raises(translate.TranslationError, match="2: other is launched and no __global__"):
        translate.translate("\nother<<<1, 0, s>>>(x);", KINDS)
    with pytest.raises(translate.TranslationError, match="1: >>> without arguments"):
        translate.translate("k<<<1, 0, s>>>;", KINDS)
    with pytest.raises(translate.TranslationError, match="2: other is launched"):
        translate.translate("static void other(int x) {}\nother<<<1, 0, s>>>(x);", {"k": "kVector"})
    with pytest.raises(translate.TranslationError, match="2: a bracket that does not close"):
        translate.translate("\nk<<<1, 0, s>>>(x;", KINDS)
    with pytest.raises(translate.TranslationError, match=r"\(2, 1\) is not one"):
        translate.kernels(["__global__ __mix__(2, 1) void k() {}"])
