"""Derives the polynomials for exp2, softplus and GELU in the kernels, and prints their coefficients and maximum errors.

    python benchmarks/polynomials.py

Each polynomial is the minimax approximation of its function in relative error (Remez exchange), subject to exact values
at 0. The coefficients are float32: starting at the lowest order, where rounding matters most, each coefficient is
rounded and the remaining ones are refitted. The printed errors are those of the rounded polynomial, without the
rounding of its evaluation, which adds about 6e-8. `mmvmamba/ops/native/simd.inc` uses the first two polynomials,
`rowwise.inc` the third. `mmvmamba/ops/triton_kernels/device_functions.py` uses only the second, because GPUs have an
exp2 instruction.
"""

import numpy as np
from scipy.special import erfcx


def remez(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the coefficients that minimise max |basis @ coefficients - target| over the (ordered) rows."""
    points, terms = basis.shape
    chosen = np.round((1 - np.cos(np.pi * np.arange(terms + 1) / terms)) / 2 * (points - 1)).astype(int)
    signs = (-1.0) ** np.arange(terms + 1)
    for _ in range(100):
        *coefficients, level = np.linalg.solve(np.column_stack([basis[chosen], signs]), target[chosen])
        error = basis @ coefficients - target
        if np.abs(error).max() <= abs(level) * (1 + 1e-12):
            return np.array(coefficients)
        chosen = extremes(error, terms + 1)
    return np.array(coefficients)


def extremes(error: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` positions of the extrema of `error` between its sign changes, with alternating signs."""
    runs = np.split(np.arange(len(error)), np.flatnonzero(np.diff(np.sign(error))) + 1)
    places = np.array([run[np.abs(error[run]).argmax()] for run in runs])
    while len(places) > count:
        sizes = np.abs(error[places])
        if len(places) == count + 1:
            places = places[1:] if sizes[0] < sizes[-1] else places[:-1]
        else:  # remove two neighbours, so that signs still alternate
            pair = np.maximum(sizes[1:], sizes[:-1]).argmin()
            places = np.delete(places, [pair, pair + 1])
    return places


def fit(
    x: np.ndarray, function: np.ndarray, known: list[float], degree: int, weight: np.ndarray | float = 1
) -> tuple[list[float], float]:
    """Fits a polynomial and returns its float32 coefficients, lowest order first, and its maximum relative error.

    Args:
        x: sample points.
        function: values of the function at these points.
        known: the fixed coefficients of the lowest orders.
        degree: degree of the polynomial.
        weight: factor of the relative error at each point, in the fit only.
    """
    powers = x[:, None] ** np.arange(degree + 1) / function[:, None]
    found = [float(np.float32(c)) for c in known]
    weights = np.broadcast_to(weight, x.shape)
    while len(found) <= degree:
        rest = 1 - powers[:, : len(found)] @ found
        found.append(float(np.float32(remez(powers[:, len(found) :] * weights[:, None], rest * weights)[0])))
    return found, np.abs(powers @ found - 1).max()


def exp2() -> tuple[list[float], float]:
    """2^f on [-1/2, 1/2]; the value at 0 is exact, and the slope is exact except for rounding."""
    f = np.linspace(-0.5, 0.5, 20000)
    return fit(f, np.exp2(f), [1, np.log(2)], 6)


def log1p() -> tuple[list[float], float]:
    """log(1 + u) on [0, 1], which softplus is computed from; the value and slope at 0 are exact."""
    u = np.linspace(0, 1, 20001)[1:]
    return fit(u, np.log1p(u), [0, 1], 9)


def gelu() -> tuple[list[float], float]:
    """Phi(-a) exp(a^2 / 2) in t = 1 / (1 + 0.34 a) for a in [0, 13.3]; the error of Phi is at most 1.9e-8."""
    a = (1 / np.linspace(1 / (1 + 0.34 * 13.3), 1, 20000) - 1) / 0.34
    return fit(1 / (1 + 0.34 * a), erfcx(a / np.sqrt(2)) / 2, [0], 7, weight=np.exp(-(a**2) / 2) + 0.003)


if __name__ == '__main__':
    for function in (exp2, log1p, gelu):
        coefficients, error = function()
        print(f'{function.__doc__}\nmaximum relative error {error:.2g}')
        for order, coefficient in enumerate(coefficients):
            print(f'  {order}: {coefficient!r}')
