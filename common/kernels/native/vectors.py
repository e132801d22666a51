"""Pieces of LLVM code: counted loops, and arithmetic on vectors of real or complex numbers."""

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir

INDEX = ir.IntType(64)
POINTER = ir.PointerType()
VECTOR_BYTES = 64

Value = Any
"""A value of the generated code; llvmlite's classes share no useful base."""


def index(number: int) -> Value:
    """Returns a constant."""
    return ir.Constant(INDEX, number)


@contextlib.contextmanager
def counted_loop(builder: ir.IRBuilder, start: Value, stop: Value, step: int = 1) -> Iterator[Any]:
    """Emits its body for start, start + step, ... below stop; the first is taken in any case."""
    before, head = builder.block, builder.append_basic_block()
    builder.branch(head)
    builder.position_at_end(head)
    counter = builder.phi(INDEX)
    counter.add_incoming(start, before)
    yield counter
    following = builder.add(counter, index(step))
    counter.add_incoming(following, builder.block)
    done = builder.append_basic_block()
    builder.cbranch(builder.icmp_signed("<", following, stop), head, done)
    builder.position_at_end(done)


class Arithmetic:
    """Emits arithmetic on vectors of numbers, complex ones as pairs of reals beside each other.

    Args:
        builder: where the code goes.
        double: whether the reals have 64 bits, or 32.
        is_complex: whether the numbers are complex.
    """

    def __init__(self, builder: ir.IRBuilder, double: bool, is_complex: bool):
        self.builder = builder
        self.real = ir.DoubleType() if double else ir.FloatType()
        self.real_bytes = 8 if double else 4
        self.parts = 2 if is_complex else 1

    @property
    def widest(self) -> int:
        """Numbers in the widest vector."""
        return VECTOR_BYTES // (self.real_bytes * self.parts)

    def zeros(self, width: int) -> Value:
        """Returns a vector of zeros."""
        return ir.Constant(self._vector(width), None)

    def load(self, array: Value, offset: Value, width: int) -> Value:
        """Loads `width` numbers from number `offset` of an array on."""
        place, kind = self._place(array, offset), self._vector(width)
        return self.builder.load(place, align=self.real_bytes, typ=kind)

    def store(self, value: Value, array: Value, offset: Value) -> None:
        """Stores a vector from number `offset` of an array on."""
        self.builder.store(value, self._place(array, offset), align=self.real_bytes)

    def load_real(self, array: Value, offset: Value) -> Value:
        """Loads one real number."""
        place = self.builder.gep(array, [offset], source_etype=self.real)
        return self.builder.load(place, align=self.real_bytes, typ=self.real)

    def store_real(self, value: Value, array: Value, offset: Value, add: bool = False) -> None:
        """Stores one real number, or adds it to what is there."""
        place = self.builder.gep(array, [offset], source_etype=self.real)
        if add:
            there = self.builder.load(place, align=self.real_bytes, typ=self.real)
            value = self.builder.fadd(value, there)
        self.builder.store(value, place, align=self.real_bytes)

    def spread(self, real: Value, width: int) -> Value:
        """Returns a vector that holds a real number in every place."""
        kind = self._vector(width)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), real, index(0))
        return self._shuffle(one, [0] * kind.count)

    def add(self, left: Value | None, right: Value) -> Value:
        """Returns the sum; None is nothing."""
        return right if left is None else self.builder.fadd(left, right, flags=["contract"])

    def scale(self, left: Value, right: Value) -> Value:
        """Returns products place by place, as of a spread real number and a vector."""
        return self.builder.fmul(left, right, flags=["contract"])

    def product(self, left: Value, right: Value) -> Value:
        """Returns the product of the numbers."""
        if self.parts == 1:
            return self.scale(left, right)
        pairs = range(0, left.type.count, 2)
        real = self._shuffle(left, [i for pair in pairs for i in (pair, pair)])
        imaginary = self._shuffle(left, [i for pair in pairs for i in (pair + 1, pair + 1)])
        crossed = self._shuffle(right, [i for pair in pairs for i in (pair + 1, pair)])
        signed = self.scale(self._signs(left.type, (-1.0, 1.0)), crossed)
        return self.add(self.scale(real, right), self.scale(imaginary, signed))

    def sum_of_reals(self, products: Value) -> Value:
        """Returns the sum of Re(x y), given x and y multiplied place by place."""
        if self.parts == 2:
            products = self.scale(products, self._signs(products.type, (1.0, -1.0)))
        kind = products.type
        name = f"llvm.vector.reduce.fadd.v{kind.count}f{8 * self.real_bytes}"
        module = self.builder.module
        if not (reduce := module.globals.get(name)):
            reduce = ir.Function(module, ir.FunctionType(self.real, [self.real, kind]), name)
        zero = ir.Constant(self.real, 0.0)
        return self.builder.call(reduce, [zero, products], fastmath=["reassoc"])

    def _vector(self, width: int) -> ir.VectorType:
        return ir.VectorType(self.real, width * self.parts)

    def _place(self, array: Value, offset: Value) -> Value:
        if self.parts == 2:
            offset = self.builder.shl(offset, index(1))
        return self.builder.gep(array, [offset], source_etype=self.real)

    def _shuffle(self, vector: Value, places: list[int]) -> Value:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def _signs(self, kind: ir.VectorType, pair: tuple[float, float]) -> Value:
        return ir.Constant(kind, list(pair) * (kind.count // 2))
