"""Weights as expressions of t, read by a parser of our own: nothing of them is executed as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from lorakit.registry import nearest

_BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "abs": abs,
    "min": min,
    "max": max,
}
_NAMES = {"pi": math.pi}
_LONGEST = 200


def parse(text: str) -> Callable[[float], float]:
    """The function of t that `text` is: numbers, t, pi, + - * / ^, sin cos exp sqrt abs min max.

    ValueError says what is not understood; the function raises it for a t where there is no value.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; {_LONGEST} are taken")
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("it is neither WEIGHT@FRACTION,... nor an expression of t") from None
    inner = _compiled(tree)

    def at(t: float) -> float:
        try:
            value = inner(t)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValueError(f"no value at t = {t:g}: {error}") from None
        if isinstance(value, complex) or not math.isfinite(value):
            raise ValueError(f"no finite value at t = {t:g}")
        return float(value)

    return at


def _compiled(node: ast.AST) -> Callable[[float], float]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        number = float(node.value)
        return lambda t: number
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner, sign = _compiled(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0
        return lambda t: sign * inner(t)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right, join = _compiled(node.left), _compiled(node.right), _BINARY[type(node.op)]
        return lambda t: join(left(t), right(t))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and node.args:
        if node.func.id not in _FUNCTIONS:
            raise ValueError(f"no function '{node.func.id}'{nearest(node.func.id, _FUNCTIONS)}")
        call, args = _FUNCTIONS[node.func.id], [_compiled(arg) for arg in node.args]
        return lambda t: call(*(arg(t) for arg in args))
    raise ValueError(f"'{ast.unparse(node)}' is not understood; there are numbers, t, pi, + - * / ^ and functions of t")


def _named(name: str) -> Callable[[float], float]:
    if name == "t":
        return lambda t: t
    if name not in _NAMES:
        raise ValueError(f"no '{name}' in an expression; there are t and pi")
    return lambda t: _NAMES[name]
