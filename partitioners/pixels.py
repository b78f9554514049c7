"""Pictures of who owns what: a pixel for every place, as PNG files of indexed colours."""

from __future__ import annotations

import colorsys
import struct
import zlib

import numpy as np
import numpy.typing as npt

MOST_COLOURS = 255  # of an indexed picture, beside the one of places without a unit
TURN = 0.618034  # of the colour wheel from one part to the next, so that few parts are far apart
LIGHT = (0.42, 0.72, 0.58)  # in turn


def png(indices: npt.NDArray[np.uint8], colours: list[tuple[int, int, int]]) -> bytes:
    """The file of a picture.   indices (rows, columns) of colours (W3C 2003, "PNG specification", colour type 3)"""
    rows, columns = indices.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), indices], axis=1).tobytes()
    pieces = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(value for colour in colours for value in colour)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
              for name, data in pieces]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def part_colours(n_parts: int) -> list[tuple[int, int, int]]:
    """White for places without a unit, then a colour for every part, or for as many as there can be."""
    colours = [(255, 255, 255)]
    for part in range(min(n_parts, MOST_COLOURS)):
        red, green, blue = colorsys.hls_to_rgb((0.57 + part * TURN) % 1.0, LIGHT[part % len(LIGHT)], 0.6)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def owners_png(owners: npt.NDArray[np.int64], places: npt.NDArray[np.float64], n_parts: int) -> bytes:
    """The owners of one layer at their places: of maps at one place the first is drawn.   places (n_units, 2)"""
    lines = [np.unique(places[:, i], return_inverse=True) for i in range(2)]
    shape, (row, column) = [len(values) for values, _ in lines], [inverse.ravel() for _, inverse in lines]
    most = 2 * int(np.ceil(np.sqrt(len(places))))
    for i, ordered in enumerate((row, column)):
        if shape[i] > most and shape[0] * shape[1] > 4 * len(places):  # not on a grid: places are rounded to one
            ordered[:] = ordered * most // shape[i]
            shape[i] = most
    picture = np.zeros(shape, np.uint8)
    picture[row[::-1], column[::-1]] = 1 + owners[::-1] % MOST_COLOURS
    return png(picture, part_colours(n_parts))
