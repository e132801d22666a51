"""Times the back ends of `linear_scan` beside each other.

    python -m experiments.benchmarks.scan [--quick] [--cases=S1,L64] [--out=FILE]

The measure is 'V1', the reference design: `lax.associative_scan` with einsum over dense complex
3 x 3 matrices that are ready-made, so that their construction costs it nothing. 'V1b' is V1 with
the matrix product written out entry by entry, 'goom' V1 in numbers of any magnitude, 'associative'
V1 as a back end, which builds the matrices from the gates. Backward passes give the gradients of
every array, for a random cotangent. 'copy' is x + 1 over as many bytes as the scan must read and
write at the least, compiled and timed in the same round.
"""

import sys
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.array_types import Array, PyTree
from common.kernels import CoupledTransition, GatedInput, goom, linear_scan
from common.kernels.cases import (
    BENCHMARK_CASES,
    DENSE_BENCHMARK_CASES,
    ScanCase,
    coupled_arguments,
    dense_arguments,
    random_array,
)
from common.kernels.reference import widen
from common.kernels.scan import Backend
from common.kernels.scan_associative import compose
from common.kernels.transitions import dense_matrix, without_repeats
from experiments.benchmarks.plots import draw_scan_cost
from experiments.benchmarks.timing import (
    Compiled,
    measure_in_turn,
    print_table,
    read_flags,
    write_json,
)

CASES = BENCHMARK_CASES + DENSE_BENCHMARK_CASES
QUICK = ("S1", "L1", "L16", "L64")
PASSES = ("forward", "forward+backward")
DESIGNS = ("V1", "V1b", "goom")
UP_TO = {"V1": 4096, "associative": 4096, "V1b": 64, "goom": 64}
"""Steps; beyond, these would take gigabytes and minutes to compile."""


def main() -> int:
    """Runs the command line."""
    cases = {case.name: case for case in CASES}
    names, _, quick, out = read_flags(
        "Times the back ends of linear_scan.", list(cases), QUICK, "runs/benchmarks/scan.json"
    )
    rows = []
    for name in names:
        rows += time_case(cases[name], 3 if quick else 5)
    write_json(out, rows)
    draw_scan_cost(rows, out.with_suffix(".png"))
    return 0


def time_case(case: ScanCase, repeats: int) -> list[dict[str, Any]]:
    """Times one case with every back end, forward and backward, and prints the rows."""
    rows = []
    for name in PASSES:
        problem = Problem(case, backward=name == PASSES[1])
        compiled = {"copy": problem.compiled_copy()}
        unavailable = {}
        for backend in (*DESIGNS, *(b for b in get_args(Backend) if b != "auto")):
            try:
                compiled[backend] = problem.compiled(backend)
            except ValueError as error:
                unavailable[backend] = str(error)
        results = dict(
            zip(compiled, measure_in_turn(list(compiled.values()), repeats), strict=True)
        )
        for backend, result in results.items():
            rows.append({"case": case.name, "steps": case.steps, "pass": name, "backend": backend})
            rows[-1] |= vars(result) | problem.comparison(results, backend, compiled[backend])
        rows += [
            {"case": case.name, "steps": case.steps, "pass": name, "backend": b, "unavailable": why}
            for b, why in unavailable.items()
        ]
    print_table(rows)
    return rows


class Problem:
    """One case, forward alone or with the gradients.

    Args:
        case: the shapes.
        backward: whether to take the gradients too.
    """

    def __init__(self, case: ScanCase, backward: bool):
        self.case, self.backward = case, backward
        dense = case in DENSE_BENCHMARK_CASES
        arguments = dense_arguments(case) if dense else coupled_arguments(case)
        self.layout, self.leaves = without_repeats(arguments)
        self.leaves = [jnp.asarray(x) for x in self.leaves]
        shapes = jax.eval_shape(self._scan("sequential"), self.leaves)
        rng = np.random.default_rng(1)
        self.weights = [jnp.asarray(random_array(rng, s.shape, str(s.dtype))) for s in shapes]
        self._exact = self._solve_exactly()

    def compiled(self, backend: str) -> Compiled:
        """Returns a back end, or one of `DESIGNS`, compiled for the case."""
        if self.case.steps > UP_TO.get(backend, self.case.steps):
            raise ValueError(f"left out beyond {UP_TO[backend]} steps")
        if backend in DESIGNS:
            designs = {"V1": self._v1, "V1b": self._v1b, "goom": self._goom}
            return self._compiled(designs[backend], self._dense_leaves(), self._v1_weights())
        return self._compiled(self._scan(backend), self.leaves, self.weights)

    def compiled_copy(self) -> Compiled:
        """Returns a copy of as many bytes as the scan must read and write."""
        states, arguments = _bytes(self.weights), _bytes(self.leaves)
        total = arguments + states + (states + arguments if self.backward else 0)
        return Compiled(lambda x: x + 1, jnp.zeros(total // 8, jnp.float32))

    def comparison(self, results: dict, backend: str, compiled: Compiled) -> dict[str, float]:
        """Returns a row's ratios to V1 and to the copy, and its error."""
        mine, row = results[backend], {}
        if "V1" in results:
            row["cpu_ratio_to_V1"] = results["V1"].cpu_ms / mine.cpu_ms
            if results["V1"].temporary_mb:
                row["memory_share_of_V1"] = mine.temporary_mb / results["V1"].temporary_mb
        row["copy_fraction"] = results["copy"].wall_ms / mine.wall_ms
        if backend not in ("copy", *DESIGNS):
            row["error"] = _largest_error(compiled.result(), self._exact)
        return row

    def _compiled(self, scan: Any, leaves: PyTree, weights: PyTree) -> Compiled:
        def with_gradients(leaves, weights):
            states, pullback = jax.vjp(scan, leaves)
            return states, pullback(weights)[0]

        if self.backward:
            return Compiled(with_gradients, leaves, weights)
        return Compiled(lambda leaves: scan(leaves), leaves)

    def _scan(self, backend: Any) -> Any:
        def scan(leaves):
            arguments = jax.tree.map(lambda i: leaves[i], self.layout)
            options: Any = {"reverse": self.case.reverse, "output": self.case.output}
            states = linear_scan(*arguments, backend=backend, **options)
            return list(states) if isinstance(states, tuple) else [states]

        return scan

    def _solve_exactly(self) -> PyTree:
        with jax.enable_x64(True):
            leaves, weights = jax.tree.map(widen, (self.leaves, self.weights))
            states, pullback = jax.vjp(self._scan("sequential"), leaves)
            out = (states, pullback(weights)[0]) if self.backward else states
            return jax.tree.map(np.asarray, out)

    def _dense_leaves(self) -> tuple[Array, Array]:
        """Returns matrices and offsets with time in front, as V1 likes them best."""
        transition, inputs, _ = jax.tree.map(lambda i: self.leaves[i], self.layout)
        if not isinstance(transition, CoupledTransition):
            return jnp.moveaxis(transition, -3, 0), jnp.moveaxis(inputs, -2, 0)
        pairs = [x if isinstance(x, GatedInput) else GatedInput(None, x) for x in inputs]
        shape = (self.case.steps, *self.case.batch)
        drives = [x.drive if x.gate is None else x.gate * x.drive for x in pairs]
        offsets = jnp.stack([jnp.broadcast_to(x, shape) for x in drives], -1)
        matrices = dense_matrix(transition.with_lanes(len(self.case.batch)))
        return jnp.broadcast_to(matrices, (*offsets.shape, len(pairs))), offsets

    def _v1_weights(self) -> Array:
        if self.case in DENSE_BENCHMARK_CASES:
            return jnp.moveaxis(self.weights[0], -2, 0)
        return jnp.stack(self.weights, -1)

    def _v1(self, leaves: tuple[Array, Array]) -> Array:
        return self._wanted(lax.associative_scan(compose, leaves)[1])

    def _v1b(self, leaves: tuple[Array, Array]) -> Array:
        matrices, offsets = leaves
        n = range(offsets.shape[-1])
        entries = [[matrices[..., i, j] for j in n] for i in n]
        columns = lax.associative_scan(compose_entries, (entries, [offsets[..., i] for i in n]))[1]
        return self._wanted(jnp.stack(columns, -1))

    def _goom(self, leaves: tuple[Array, Array]) -> Array:
        matrices, offsets = (
            jnp.moveaxis(x, 0, axis) for x, axis in zip(leaves, (-3, -2), strict=True)
        )
        states = goom.linear_scan(matrices, offsets, backend="associative")
        return self._wanted(jnp.moveaxis(goom.from_goom(states), -2, 0))

    def _wanted(self, states: Array) -> Array:
        return states[-1] if self.case.output == "last" else states


def compose_entries(first: PyTree, second: PyTree) -> PyTree:
    """Returns the affine map `second` after `first`, given by their entries."""
    (a, u), (c, v) = first, second
    n = range(len(u))
    matrix = [[sum(c[i][k] * a[k][j] for k in n) for j in n] for i in n]
    return matrix, [sum((c[i][k] * u[k] for k in n), start=v[i]) for i in n]


def _bytes(arrays: list[Array]) -> int:
    return sum(x.nbytes for x in arrays)


def _largest_error(actual: PyTree, expected: PyTree) -> float:
    """Returns the largest error of an array, relative to that array's largest value."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(x) - y).max() / np.abs(y).max()) for x, y in pairs)


if __name__ == "__main__":
    sys.exit(main())
