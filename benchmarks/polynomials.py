"""Derives the polynomials of the scan's exp2 and softplus and prints their coefficients and largest errors.

    python benchmarks/polynomials.py

Each is the polynomial with the smallest largest error relative to its function (Remez exchange), given what has to be
exact at 0. Its coefficients are float32: from the lowest order on, where it matters most, one is rounded and the others
are fitted anew around it. Errors are those of the rounded polynomial without the rounding of its evaluation, which adds
about 6e-8. `mmvmamba/ops/native/simd.inc` has both. `mmvmamba/ops/triton/device_functions.py` has the second, since a
GPU has an exp2.
"""

import numpy as np


def remez(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The coefficients for which the largest |basis coefficients - target| over the rows, in order, is smallest."""
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
    """Where `error` is largest between its changes of sign: `count` places, of alternating sign."""
    runs = np.split(np.arange(len(error)), np.flatnonzero(np.diff(np.sign(error))) + 1)
    places = np.array([run[np.abs(error[run]).argmax()] for run in runs])
    while len(places) > count:
        sizes = np.abs(error[places])
        if len(places) == count + 1:
            places = places[1:] if sizes[0] < sizes[-1] else places[:-1]
        else:  # two neighbours, or signs would no longer alternate
            pair = np.maximum(sizes[1:], sizes[:-1]).argmin()
            places = np.delete(places, [pair, pair + 1])
    return places


def fit(x: np.ndarray, function: np.ndarray, known: list[float], degree: int) -> tuple[list[float], float]:
    """Float32 coefficients of a polynomial close to `function`, lowest order first, and its largest relative error.

    Args:
        known: the first coefficients, which are given.
    """
    powers = x[:, None] ** np.arange(degree + 1) / function[:, None]
    found = [float(np.float32(c)) for c in known]
    while len(found) <= degree:
        rest = 1 - powers[:, : len(found)] @ found
        found.append(float(np.float32(remez(powers[:, len(found) :], rest)[0])))
    return found, np.abs(powers @ found - 1).max()


def exp2() -> tuple[list[float], float]:
    """2^f on [-1/2, 1/2]; at 0 its value is exact, and its slope but for rounding."""
    f = np.linspace(-0.5, 0.5, 20000)
    return fit(f, np.exp2(f), [1, np.log(2)], 6)


def log1p() -> tuple[list[float], float]:
    """log(1 + u) on [0, 1], of which softplus is made; at 0 value and slope are exact."""
    u = np.linspace(0, 1, 20001)[1:]
    return fit(u, np.log1p(u), [0, 1], 9)


if __name__ == '__main__':
    for function in (exp2, log1p):
        coefficients, error = function()
        print(f'{function.__doc__}\nlargest relative error {error:.2g}')
        for order, coefficient in enumerate(coefficients):
            print(f'  {order}: {coefficient!r}')
