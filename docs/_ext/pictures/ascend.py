"""An AI core of the chip, and which core computes which tile."""

from pictures import Svg
from pictures._parts import swizzled

CORES = 24
# as ascend_kernels/grouped_gemm/grouped_gemm_scheduler.h has it
SWIZZLE_ROWS = 8


def chip() -> Svg:
    """Memories as boxes, pipes as arrows."""
    svg = Svg(700, 440)
    svg.box(8, 44, 78, 372, "", "faint")
    svg.text(47, 214, "GM", "strong", "middle")
    svg.text(47, 234, "HBM", anchor="middle", size=12)
    svg.box(126, 44, 78, 372, "", "faint")
    svg.text(165, 214, "L2", "strong", "middle")
    svg.text(165, 234, "192 MB", anchor="middle", size=12)
    svg.line((88, 230), (124, 230), arrow=True)
    svg.line((124, 250), (88, 250), arrow=True)

    svg.text(262, 26, "cube core (AIC)", "strong")
    svg.box(252, 44, 440, 206)
    svg.box(316, 66, 86, 96, "", "g0")
    svg.text(359, 104, "L1", "strong", "middle")
    svg.text(359, 124, "512 KB", anchor="middle", size=12)
    for y, name in ((66, "L0A"), (120, "L0B")):
        svg.box(462, y, 82, 42, "", "g0")
        svg.text(503, y + 21, f"{name}  64 KB", anchor="middle", size=12)
        svg.line((404, y + 21), (459, y + 21), arrow=True)
    svg.text(432, 114, "MTE1", "strong", "middle")
    svg.box(598, 66, 82, 96, "", "g1")
    svg.text(639, 104, "M", "strong", "middle")
    svg.text(639, 124, "Mmad", anchor="middle", size=12)
    svg.line((546, 87), (595, 87), arrow=True)
    svg.line((546, 141), (595, 141), arrow=True)
    svg.box(598, 194, 82, 42, "", "g0")
    svg.text(639, 215, "L0C 128 KB", anchor="middle", size=12)
    svg.line((639, 164), (639, 191), arrow=True)
    svg.line((206, 114), (313, 114), arrow=True)
    svg.text(282, 102, "MTE2", "strong", "middle")
    svg.line((596, 215), (207, 215), arrow=True)
    svg.text(430, 203, "FIX", "strong", "middle")
    svg.text(262, 236, "S: the scalar unit, which issues to every pipe", size=12)

    svg.text(262, 276, "two vector cores (AIV) for each cube core, and each has", "strong")
    svg.box(252, 294, 440, 122)
    svg.box(316, 318, 106, 60, "", "g0")
    svg.text(369, 338, "UB", "strong", "middle")
    svg.text(369, 358, "192 KB", anchor="middle", size=12)
    svg.box(560, 318, 120, 60, "", "g1")
    svg.text(620, 338, "V", "strong", "middle")
    svg.text(620, 358, "vector unit", anchor="middle", size=12)
    svg.line((424, 338), (557, 338), arrow=True)
    svg.line((558, 360), (425, 360), arrow=True)
    svg.line((206, 336), (313, 336), arrow=True)
    svg.text(282, 324, "MTE2", "strong", "middle")
    svg.line((314, 362), (207, 362), arrow=True)
    svg.text(282, 376, "MTE3", "strong", "middle")
    svg.text(262, 402, "S: its own scalar unit", size=12)
    return svg


def share(total: int, core: int, cores: int) -> tuple[int, int]:
    """The units of a core: ``ShareOf`` of ascend_kernels/common.h."""
    each, more = divmod(total, cores)
    begin = core * each + min(core, more)
    return begin, begin + each + (core < more)


def order() -> Svg:
    """Both orders of tiles."""
    tile_rows, strips, width, height, left, top = 12, 6, 54, 20, 120, 64
    svg = Svg(700, 452)
    svg.text(8, 14, "Swizzled: an expert has more rows than a tile", "strong")
    svg.text(left + strips * width / 2, 38, "columns of the result", anchor="middle", size=12)
    svg.text(8, top + tile_rows * height / 2 - 8, "rows of tiles", size=12)
    svg.text(8, top + tile_rows * height / 2 + 8, "of one expert", size=12)
    for unit in range(tile_rows * strips):
        row, strip = swizzled(unit, SWIZZLE_ROWS, tile_rows, strips)
        x, y = left + strip * width, top + row * height
        svg.box(x, y, width - 2, height - 2, f"{unit % CORES}", f"g{unit // CORES}")
    x = left + strips * width + 24
    for wave in range(tile_rows * strips // CORES):
        svg.box(x, top + 30 * wave, 20, 18, "", f"g{wave}")
        svg.text(x + 28, top + 30 * wave + 9, f"wave {wave + 1} of the {CORES} cores", size=12)
    for i, text in enumerate(
        ("a box is a strip of tiles,", "its number the core that", "computes it")
    ):
        svg.text(x, top + 112 + 17 * i, text, size=12)

    top += tile_rows * height + 34
    svg.text(8, top, "Contiguous: every expert's rows fit into one tile", "strong")
    experts, cores, columns = 4, 6, 168  # 168 units of 16 columns: Pangu's 2 F
    scale = 560 / (experts * columns)
    svg.text(8, top + 33, "columns", size=12)
    svg.text(8, top + 67, "computed by", size=12)
    for e in range(experts):
        svg.box(
            left + e * columns * scale, top + 20, columns * scale - 2, 26, f"expert {e}", "faint"
        )
    for core in range(cores):
        begin, end = share(experts * columns, core, cores)
        svg.box(left + begin * scale, top + 54, (end - begin) * scale - 2, 26, f"core {core}", "g0")
    text = "drawn for 4 experts and 6 cores; each column of a weight is read by one core"
    svg.text(left, top + 98, text, size=12)
    return svg
