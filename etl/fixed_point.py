"""Numbers with 32 fractional bits ("Q32"), and their logarithms and powers to base 2, in integers alone.

No ``exp``, ``log`` or ``sqrt`` of a C library, whose last bit may differ between glibc, musl and macOS.
"""

import math

ONE = 1 << 32
"""1.0"""


def q32(value: float) -> int:
    """``value`` in fixed point; exact, since scaling a float by a power of two is, but for the final rounding."""
    return round(value * ONE)


def log2_q32(value: int) -> int:
    """floor(log2(value)) with 32 fractional bits for value > 0 in Q32, one bit per squaring."""
    exponent = value.bit_length() - 33
    mantissa = value << 30 >> exponent if exponent >= 0 else value << 30 << -exponent  # in [1, 2), 62 fractional bits
    result = exponent
    for _ in range(32):
        mantissa = mantissa * mantissa >> 62
        carry = mantissa >> 63
        mantissa >>= carry
        result = result << 1 | carry
    return result


def _roots_of_two() -> list[int]:
    """2 ** (1/2), 2 ** (1/4), … 2 ** (2 ** -32), rounded down, with 62 fractional bits."""
    roots = [math.isqrt(2 << 124)]
    while len(roots) < 32:
        roots.append(math.isqrt(roots[-1] << 62))
    return roots


_ROOTS = _roots_of_two()


def exp2_q32(value: int) -> int:
    """2 ** value for value in Q32 (of either sign), in Q32, rounded down: a product of the roots of two."""
    fraction, result = value & (ONE - 1), 1 << 62
    for bit, root in enumerate(_ROOTS):
        if fraction >> (31 - bit) & 1:
            result = result * root >> 62
    shift = 30 - (value >> 32)
    return result >> shift
