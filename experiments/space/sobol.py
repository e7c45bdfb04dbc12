"""Scrambled Sobol points, one coordinate at a time, as a function of (seed, parameter, k) alone.

Tuned hyperparameters that most spaces share have a Sobol dimension of their own, so that their points fill the joint
space evenly. Any other parameter uses the first dimension with its own shuffle of the indices (Burley, "Practical
hash-based Owen scrambling", JCGT 2020): even by itself, independent of the rest. So adding a parameter to a space moves
no point of another.

    >>> sorted(int(4 * point(7, "fusion.heads", k)) for k in range(4))
    [0, 1, 2, 3]
"""

from __future__ import annotations

from mer.streams import derive

BITS = 32

DIMENSIONS = {
    "optimizer.lr": 0,
    "projection.dropout": 1,
    "optimizer.weight_decay": 2,
    "classifier.dropout": 3,
    "projection.dim": 4,
    "optimizer.encoder_lr": 5,
    "loss.gamma": 6,
    "sampler.batch_size": 7,
}

# Joe & Kuo (2008), new-joe-kuo-6: degree, coefficients, initial direction numbers of dimensions 2 to 8.
_JOE_KUO = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
)


def _directions(dimension: int) -> tuple[int, ...]:
    if dimension == 0:
        return tuple(1 << (BITS - 1 - i) for i in range(BITS))
    degree, coefficients, initial = _JOE_KUO[dimension - 1]
    found = [m << (BITS - 1 - i) for i, m in enumerate(initial)]
    for i in range(degree, BITS):
        value = found[i - degree] ^ (found[i - degree] >> degree)
        for j in range(1, degree):
            if (coefficients >> (degree - 1 - j)) & 1:
                value ^= found[i - j]
        found.append(value)
    return tuple(found)


_DIRECTIONS = tuple(_directions(dimension) for dimension in range(len(_JOE_KUO) + 1))


def sobol(dimension: int, index: int) -> int:
    """Unscrambled Sobol integer (32 bits), in natural (not Gray code) order."""
    value = 0
    for direction in _DIRECTIONS[dimension]:
        if index & 1:
            value ^= direction
        index >>= 1
        if not index:
            break
    return value


def owen(value: int, seed: int, bits: int = BITS) -> int:
    """Nested uniform scramble: each bit is flipped by a coin that depends on the seed and on the bits above it."""
    result = 0
    for level in range(bits):
        shift = bits - 1 - level
        above = value >> (shift + 1)
        result = (result << 1) | (((value >> shift) & 1) ^ (derive(seed, level, above) & 1))
    return result


def _reversed(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def point(seed: int, parameter: str, k: int) -> float:
    """Coordinate of point k in (0, 1)."""
    dimension = DIMENSIONS.get(parameter)
    if dimension is None:
        k = _reversed(owen(_reversed(k, 20), derive(seed, parameter, "order"), 20), 20)
        dimension = 0
    scrambled = owen(sobol(dimension, k), derive(seed, parameter, "digits"))
    return (scrambled + 0.5) / float(2**BITS)
