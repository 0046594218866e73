"""Milliseconds that were published in July 2017, with their inconsistencies.

A million objects (2^20), by size and order, on the author's machine. ``areamap`` is the allocator of 4.13 ("orig"),
``rfc-v1`` the posting of 16 July, ``linux-4.14`` that of 24 July ("v2"), which was merged. Letters give the worst case
over three orders, logs every run. Known inconsistencies are kept: 16 bytes, area map: 557 in the letter, 1067 and 927
in the logs; 4 bytes freed: 4960 in the first letter, 4953 in its log; 16 bytes freed in order: 1325 in the letter,
1425 in the data of its chart, 1146 and 1326 in the logs.
"""

from __future__ import annotations

import numpy as np

from percpu.results import Result

ORDERS = ("in-order", "alternate", "reverse")

# set, engine, size: milliseconds of allocation and of freeing, for each of ORDERS.
_PLAIN = [
    ("v2 log 3", "areamap", 4, (301, 308, 308), (4770, 2485, 74)),
    ("v2 log 3", "areamap", 16, (1067, 1066, 1067), (1146, 623, 71)),
    ("v2 log 3", "areamap", 64, (436, 428, 432), (273, 186, 71)),
    ("v2 log 3", "areamap", 256, (776, 770, 773), (131, 118, 79)),
    ("v2 log 3", "areamap", 1024, (3280, 3250, 3276), (122, 152, 102)),
    ("v2 log 3", "linux-4.14", 4, (491, 476, 477), (69, 70, 66)),
    ("v2 log 3", "linux-4.14", 16, (513, 513, 506), (70, 76, 68)),
    ("v2 log 3", "linux-4.14", 64, (607, 605, 607), (76, 78, 75)),
    ("v2 log 3", "linux-4.14", 256, (948, 943, 944), (91, 102, 84)),
    ("v2 log 3", "linux-4.14", 1024, (3518, 3519, 3514), (159, 351, 138)),
    ("v2 log 2", "areamap", 4, (358, 357, 358), (5670, 2929, 88)),
    ("v2 log 2", "areamap", 16, (927, 927, 929), (1326, 723, 85)),
    ("v2 log 2", "areamap", 64, (555, 554, 556), (323, 218, 84)),
    ("v2 log 2", "areamap", 256, (853, 849, 851), (151, 145, 92)),
    ("v2 log 2", "areamap", 1024, (3404, 3367, 3367), (136, 173, 115)),
    ("v2 log 2", "linux-4.14", 4, (552, 551, 551), (77, 80, 78)),
    ("v2 log 2", "linux-4.14", 16, (590, 586, 597), (79, 86, 81)),
    ("v2 log 2", "linux-4.14", 64, (700, 698, 699), (86, 89, 88)),
    ("v2 log 2", "linux-4.14", 256, (1039, 1045, 1040), (104, 116, 97)),
    ("v2 log 2", "linux-4.14", 1024, (3663, 3671, 3672), (177, 214, 154)),
    ("v2 log 1", "linux-4.14", 4, (488, 482, 482), (66, 69, 68)),
    ("v2 log 1", "linux-4.14", 16, (518, 514, 507), (68, 75, 70)),
    ("v2 log 1", "linux-4.14", 64, (610, 604, 603), (75, 76, 75)),
    ("v2 log 1", "linux-4.14", 256, (963, 949, 952), (90, 100, 85)),
    ("v2 log 1", "linux-4.14", 1024, (3516, 3531, 3515), (157, 194, 139)),
    ("v2 log 1", "areamap", 256, (768, 770, 767), (132, 125, 81)),
    ("v1 log", "areamap", 4, (331, 325, 334), (4953, 2537, 75)),
    ("v1 log", "areamap", 16, (482, 481, 481), (1149, 625, 73)),
    ("v1 log", "areamap", 64, (444, 443, 440), (280, 187, 74)),
    ("v1 log", "areamap", 128, (502, 496, 501), (177, 138, 76)),
    ("v1 log", "areamap", 1024, (3259, 3283, 3262), (123, 162, 105)),
    ("v1 log", "rfc-v1", 4, (724, 725, 725), (67, 69, 67)),
    ("v1 log", "rfc-v1", 16, (757, 753, 753), (69, 72, 69)),
    ("v1 log", "rfc-v1", 64, (853, 852, 847), (79, 79, 78)),
    ("v1 log", "rfc-v1", 128, (907, 908, 905), (87, 91, 84)),
    ("v1 log", "rfc-v1", 1024, (3757, 3769, 3768), (229, 261, 204)),
    ("v1 log, earlier kernel", "areamap", 4, (348, 347, 346), (5650, 2892, 86)),
    ("v1 log, earlier kernel", "areamap", 16, (762, 763, 761), (1329, 723, 82)),
    ("v1 log, earlier kernel", "areamap", 64, (608, 605, 608), (316, 212, 82)),
    ("v1 log, earlier kernel", "areamap", 128, (590, 587, 584), (211, 154, 84)),
    ("v1 log, earlier kernel", "areamap", 1024, (3387, 3402, 3418), (137, 163, 114)),
    ("v1 log, earlier kernel", "rfc-v1", 4, (824, 819, 825), (75, 78, 77)),
    ("v1 log, earlier kernel", "rfc-v1", 16, (862, 859, 856), (80, 81, 78)),
    ("v1 log, earlier kernel", "rfc-v1", 64, (972, 967, 963), (91, 89, 89)),
    ("v1 log, earlier kernel", "rfc-v1", 128, (1025, 1024, 1024), (99, 102, 95)),
    ("v1 log, earlier kernel", "rfc-v1", 1024, (3934, 3936, 3935), (258, 297, 226)),
]

# size, test, level: alloc 1, alloc 2, free 1, free 2 of the area map (None: not in the logs) and of linux-4.14.
_FILL = [
    (4, 5, 2, (5522, 4118, 4892, 2394), (1038, 481, 67, 70)),
    (4, 5, 4, (3086, 3155, 4816, 5411), (1006, 482, 67, 103)),
    (4, 6, 2, (5521, 4119, 2435, 2391), (1046, 479, 66, 71)),
    (4, 6, 4, (3092, 3156, 1869, 5421), (1001, 486, 67, 103)),
    (16, 5, 2, (2594, 1651, 1163, 473), (1124, 506, 69, 73)),
    (16, 5, 4, None, (1064, 513, 70, 107)),
    (16, 6, 2, (2599, 1563, 467, 470), (1102, 506, 67, 73)),
    (16, 6, 4, None, (1073, 517, 69, 106)),
    (64, 5, 2, (1153, 598, 285, 188), (1289, 636, 75, 77)),
    (64, 5, 4, (1019, 640, 283, 340), (1258, 706, 78, 116)),
    (64, 6, 2, (1161, 695, 193, 189), (1292, 728, 74, 80)),
    (64, 6, 4, (1018, 637, 159, 340), (1258, 748, 77, 116)),
    (256, 5, 2, (1715, 771, 158, 118), (2003, 892, 90, 110)),
    (256, 5, 4, (1654, 1533, 149, 193), (1954, 1784, 101, 146)),
    (256, 6, 2, (1704, 675, 135, 121), (1981, 974, 86, 112)),
    (256, 6, 4, (1668, 1585, 124, 189), (1946, 1808, 95, 147)),
    (1024, 5, 2, (6736, 3034, 160, 136), (7186, 3262, 147, 230)),
    (1024, 5, 4, (6620, 3145, 122, 199), (7159, 3493, 186, 271)),
    (1024, 6, 2, (6725, 3029, 162, 156), (7193, 3287, 146, 237)),
    (1024, 6, 4, (6603, 3138, 117, 202), (7151, 3540, 177, 272)),
]

# letter, case, size: area map allocation and freeing, bitmap allocation and freeing; worst of three orders.
_LETTERS = [
    ("v1", "worst case", 4, 335, 4960, 725, 70),
    ("v1", "worst case", 16, 485, 1150, 760, 70),
    ("v1", "worst case", 64, 445, 280, 855, 80),
    ("v1", "worst case", 128, 505, 177, 910, 90),
    ("v1", "worst case", 1024, 3385, 140, 3770, 260),
    ("v2", "worst case", 4, 310, 4770, 490, 70),
    ("v2", "worst case", 16, 557, 1325, 515, 75),
    ("v2", "worst case", 64, 436, 273, 610, 80),
    ("v2", "worst case", 256, 776, 131, 950, 100),
    ("v2", "worst case", 1024, 3280, 122, 3520, 200),
    ("v2", "half full", 4, 4118, 4892, 481, 67),
    ("v2", "half full", 16, 1651, 1163, 506, 69),
    ("v2", "half full", 64, 598, 285, 636, 75),
    ("v2", "half full", 256, 771, 158, 892, 90),
    ("v2", "half full", 1024, 3034, 160, 3262, 147),
]

# The contrived case, 4 bytes at alignment 8, a million objects.
CONTRIVED_SECONDS = {"areamap": 52 * 60, "linux-4.14": 16}


def plain() -> Result:
    """Tests 1 to 3 as logged.

    Returns
    -------
    Result
        ``log``, ``engine``, ``order`` (str), ``size_bytes`` (int64), ``alloc_ms``, ``free_ms`` (float64).

    Examples
    --------
    >>> r = plain()
    >>> len(r), r.free_ms.max()
    (138, np.float64(5670.0))
    """
    rows = [
        (log, engine, order, size, alloc[i], free[i])
        for log, engine, size, alloc, free in _PLAIN
        for i, order in enumerate(ORDERS)
    ]
    log, engine, order, size, alloc, free = zip(*rows, strict=True)
    return Result(
        {
            "log": np.array(log),
            "engine": np.array(engine),
            "order": np.array(order),
            "size_bytes": np.array(size),
            "alloc_ms": np.array(alloc, float),
            "free_ms": np.array(free, float),
        }
    )


def letters() -> Result:
    """Tables of the two letters: the worst case of three orders, and pages half full.

    Returns
    -------
    Result
        ``letter``, ``case`` (``worst case`` or ``half full``), ``size_bytes`` (int64), and ``areamap_alloc_ms``,
        ``areamap_free_ms``, ``bitmap_alloc_ms``, ``bitmap_free_ms`` (float64); the bitmap of letter v1 is ``rfc-v1``,
        that of v2 ``linux-4.14``.

    Examples
    --------
    >>> len(letters())
    15
    """
    letter, case, size, *times = zip(*_LETTERS, strict=True)
    names = ("areamap_alloc_ms", "areamap_free_ms", "bitmap_alloc_ms", "bitmap_free_ms")
    columns = {"letter": np.array(letter), "case": np.array(case), "size_bytes": np.array(size)}
    return Result(columns | {name: np.array(ms, float) for name, ms in zip(names, times, strict=True)})


def fill_levels() -> Result:
    """Tests 5 and 6 as logged.

    Returns
    -------
    Result
        ``engine`` (str), ``size_bytes``, ``test`` (5 in order, 6 reverse), ``level`` (int64), ``alloc_1_ms``,
        ``alloc_2_ms``, ``free_1_ms``, ``free_2_ms`` (float64). The area map at 16 bytes and level 4 is not in the logs.

    Examples
    --------
    >>> len(fill_levels())
    38
    """
    rows = [
        (engine, size, test, level, *times)
        for size, test, level, *both in _FILL
        for engine, times in zip(("areamap", "linux-4.14"), both, strict=True)
        if times is not None
    ]
    engine, size, test, level, *times = zip(*rows, strict=True)
    names = ("alloc_1_ms", "alloc_2_ms", "free_1_ms", "free_2_ms")
    columns = {"engine": np.array(engine), "size_bytes": np.array(size)}
    columns |= {"test": np.array(test), "level": np.array(level)}
    return Result(columns | {name: np.array(ms, float) for name, ms in zip(names, times, strict=True)})
