"""Effects drawn as inline SVG: a dot for the median, a bar for its interval, lines at zero and the threshold.

Positions are percentages, so one drawing fits a table cell, a page and a phone without scaling its strokes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from markupsafe import Markup

from porism.explore import Weakest
from porism.report.prose import number
from porism.verdicts import ArmSummary


@dataclasses.dataclass(frozen=True)
class Axis:
    """The stretch of numbers that a drawing shows."""

    low: float
    high: float
    at_least: float

    @classmethod
    def over(cls, arms: Iterable[ArmSummary], at_least: float) -> Axis:
        """The axis that shows zero, the threshold and every finite number of the arms."""
        shown = [0.0, at_least]
        shown += [x for arm in arms for x in (arm.effect, arm.low, arm.high) if x is not None]
        low, high = min(shown), max(shown)
        margin = 0.08 * (high - low) or 1.0
        return cls(low - margin, high + margin, at_least)

    def at(self, value: float) -> str:
        """Where a number lies, as an SVG percentage."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def interval(arm: ArmSummary, axis: Axis, *, height: int = 22) -> Markup:
    """One arm on the axis; an interval without an end runs to the edge."""
    middle = height / 2
    parts = [_rule(axis.at(0.0), "zero")]
    if axis.at_least:
        parts.append(_rule(axis.at(axis.at_least), "threshold"))
    if arm.low is not None or arm.high is not None:
        left = "0%" if arm.low is None else axis.at(arm.low)
        right = "100%" if arm.high is None else axis.at(arm.high)
        parts.append(f'<line class="bar" x1="{left}" x2="{right}" y1="{middle:g}" y2="{middle:g}"/>')
    if arm.effect is not None:
        parts.append(f'<circle class="dot" cx="{axis.at(arm.effect)}" cy="{middle:g}" r="4.5"/>')
    return _svg(height, parts)


def labels(axis: Axis) -> tuple[Markup, Markup]:
    """The words above (the threshold) and below (zero) a stack of intervals."""
    above = [_label(axis, axis.at_least, f"threshold {number(axis.at_least)}")] if axis.at_least else []
    return _svg(16, above), _svg(16, [_label(axis, 0.0, "0")])


def in_words(arm: ArmSummary | Weakest) -> str:
    """An effect and its interval in numbers.

    Examples
    --------
    >>> in_words(ArmSummary(outcome="holds", effect=0.5, low=0.25, high=None))
    '0.5 (0.25 to ∞)'
    """
    if arm.low is None and arm.high is None:
        return number(arm.effect)
    low = "−∞" if arm.low is None else number(arm.low)
    high = "∞" if arm.high is None else number(arm.high)
    return f"{number(arm.effect)} ({low} to {high})"


def _rule(x: str, name: str) -> str:
    return f'<line class="{name}" x1="{x}" x2="{x}" y1="0" y2="100%"/>'


def _label(axis: Axis, value: float, text: str) -> str:
    share = (value - axis.low) / (axis.high - axis.low)
    anchor = "middle" if math.isclose(share, 0.5, abs_tol=0.3) else "start" if share < 0.5 else "end"
    return f'<text x="{axis.at(value)}" y="12" text-anchor="{anchor}">{text}</text>'


def _svg(height: int, parts: Iterable[str]) -> Markup:
    """Hidden from screen readers: the numbers stand beside every drawing."""
    template = Markup('<svg class="interval" height="{}" aria-hidden="true">{}</svg>')
    return template.format(height, Markup("").join(map(Markup, parts)))
