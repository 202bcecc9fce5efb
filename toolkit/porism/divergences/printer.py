"""Prints sympy expressions as code for numpy, torch and Triton."""

from __future__ import annotations

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from porism.divergences.declared import DECLARATIONS


class Printer(StrPrinter):  # type: ignore[misc]
    """Prints an expression as the formatter would, with functions of a namespace, few passes over memory."""

    def __init__(self, module: str, extra: str = "") -> None:
        super().__init__()
        self._module, self._extra = module, extra
        self.triton = module == "tl."

    def _print_Function(self, expression: sympy.Expr) -> str:
        name = {"Abs": "abs"}.get(expression.func.__name__, expression.func.__name__)
        arguments = ", ".join(self.factored(argument) for argument in expression.args)
        if name in ("q_log", "log_q_exp"):
            return f"{name}({arguments}{self._extra})"
        if self._module == "math.":
            return f"scalar_log({arguments})" if name == "log" else f"math.{name}({arguments})"
        if self.triton and name == "sign":
            return f"sign_of({arguments})"
        return f"{self._module}{name}({arguments})"

    _print_exp = _print_log = _print_Abs = _print_sign = _print_Function

    def factored(self, expression: sympy.Expr) -> str:
        """With a common factor in front: 0.5 * (p + q) takes a pass less than 0.5 * p + 0.5 * q."""
        factor, rest = expression.primitive() if expression.is_Add else (sympy.Integer(1), expression)
        return str(self._print(expression)) if factor == 1 else f"{self._print(factor)} * ({self._print(rest)})"

    def _print_Max(self, expression: sympy.Expr) -> str:
        low, value = expression.args
        return f"{self._module}clip({self._print(value)}, {self._print(low)}, None)"

    def _print_Infinity(self, _: sympy.Expr) -> str:
        return "math.inf"

    def _print_NegativeInfinity(self, _: sympy.Expr) -> str:
        return "-math.inf"

    def _print_Rational(self, number: sympy.Rational) -> str:
        dyadic = number.q & (number.q - 1) == 0
        return repr(float(number)) if dyadic and number.q <= 1024 else f"{number.p} / {number.q}"

    def _print_Half(self, _: sympy.Expr) -> str:
        return "0.5"

    def _print_Add(self, expression: sympy.Add, order: str | None = None) -> str:
        terms = sorted(self._as_ordered_terms(expression), key=lambda term: term.could_extract_minus_sign())
        text = self._tight(terms[0], "Add", strict=True)
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            text += f" {'-' if minus else '+'} {self._tight(-term if minus else term, 'Add')}"
        return text

    def _print_Mul(self, expression: sympy.Mul) -> str:
        if expression.as_coeff_Mul()[0] < 0:
            return "-" + self._tight(-expression, "Add")
        above, below = expression.as_numer_denom() if not expression.has(sympy.exp) else (expression, sympy.Integer(1))
        if below.is_Integer and below & (below - 1) == 0 and below > 1:
            above, below = expression * below, sympy.Integer(below)
            factor = repr(float(1 / below)) + " * "
            number, rest = above.as_coeff_Mul()
            if number != 1:
                factor = repr(float(number / below)) + " * "
            return factor + self._product(rest)
        text = self._product(above)
        return text if below == 1 else f"{text} / {self._tight(below, 'Mul')}"

    def _tight(self, expression: sympy.Expr, level: str, strict: bool = False) -> str:
        if expression.is_Rational and expression >= 0:
            return str(self._print(expression))
        return str(self.parenthesize(expression, PRECEDENCE[level], strict))

    def _product(self, expression: sympy.Expr) -> str:
        # scalars first, so that Python multiplies them before an array is touched
        factors = sympy.Mul.make_args(expression)
        number = [factor for factor in factors if factor.is_number]
        scalars = [factor for factor in factors if not factor.is_number and _is_scalar(factor)]
        arrays = [factor for factor in factors if not factor.is_number and not _is_scalar(factor)]
        return " * ".join(self._tight(factor, "Mul", strict=True) for factor in number + scalars + arrays)

    def _print_Pow(self, expression: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expression.as_base_exp()
        if exponent == sympy.Rational(1, 2):
            return f"{self._module}sqrt({self._print(base)})"
        if exponent.is_number and exponent < 0:
            below = base**-exponent
            return f"1 / {self._tight(below, 'Mul')}"
        if self.triton and exponent == 2:
            return f"({base} * {base})"  # Triton has no power operator
        if exponent == sympy.Rational(3, 2):
            return f"{self._print(base)} * {self._module}sqrt({self._print(base)})"
        left, right = self._tight(base, "Pow"), self._tight(exponent, "Pow")
        simple = (base.is_Symbol or base.is_Integer) and (exponent.is_Symbol or exponent.is_Integer)
        return f"{left}**{right}" if simple else f"{left} ** {right}"


def _is_scalar(expression: sympy.Expr) -> bool:
    return bool(expression.free_symbols <= _PARAMETERS)


_PARAMETERS = {declaration.parameter.symbol for declaration in DECLARATIONS if declaration.parameter}
