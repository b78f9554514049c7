"""Constants of the exponential function: argument reduction by Cody and Waite (1980), and a polynomial.

``exp(v) = 2^n exp(f)`` with ``n`` the nearest integer to ``v / ln 2`` and ``|f| <= ln(2) / 2``.
"""

from __future__ import annotations

import numpy as np

# float32: the polynomial of expf in Cephes (Moshier 1989).
LOW_32 = np.float32(-88.0)
HIGH_32 = np.float32(89.0)  # 2^128 is stored as infinity, and 1 / (1 + infinity) is 0
LOG2E_32 = np.float32(1.44269504088896341)
ROUND_32 = np.float32(1.5 * 2.0**23)  # adding it leaves the nearest integer in the lowest bits
LN2_HIGH_32 = np.float32(0.693359375)
LN2_LOW_32 = np.float32(-2.12194440e-4)
SERIES_32 = (
    np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3),
    np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1),
)  # fmt: skip
SHIFT_32 = np.int32(23)
BIAS_32 = np.int32(127)

# float64: the Taylor polynomial of degree 13, whose remainder is below 2^-57.
LOW_64 = -708.0
HIGH_64 = 710.0
LOG2E_64 = 1.44269504088896338700
ROUND_64 = 1.5 * 2.0**52
LN2_HIGH_64 = 6.93147180369123816490e-01
LN2_LOW_64 = 1.90821492927058770002e-10
SHIFT_64 = np.int64(52)
BIAS_64 = np.int64(1023)
