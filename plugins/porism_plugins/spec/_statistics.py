"""What a run of speculative decoding cost and how often drafts were right."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Statistics:
    """Counts of one run.

    Parameters
    ----------
    target_calls, draft_calls
        Forward passes; one call serves all rows of a batch. A draft that is no model counts how often it was asked.
    new_tokens
        Tokens generated for each row, what ends it included.
    drafted, accepted
        For each row and each call of the target that it took part in: how many tokens deep the draft was, and how many
        of its tokens were accepted.
    """

    target_calls: int = 0
    draft_calls: int = 0
    new_tokens: list[int] = dataclasses.field(default_factory=list)
    drafted: list[list[int]] = dataclasses.field(default_factory=list)
    accepted: list[list[int]] = dataclasses.field(default_factory=list)

    @property
    def acceptance_rate(self) -> float:
        """Share of the tested positions that were accepted, in [0, 1]; NaN if nothing was drafted.

        A position behind a rejection is not tested. Of a chain of drawn tokens this estimates the mean of
        sum min(p, q) = 1 - TV(p, q).

        Examples
        --------
        >>> Statistics(drafted=[[4, 4]], accepted=[[4, 1]]).acceptance_rate
        0.8333333333333334
        """
        steps = self._steps()
        tested = sum(min(accepted + 1, drafted) for drafted, accepted in steps)
        return sum(accepted for _, accepted in steps) / tested if tested else float("nan")

    @property
    def accepted_share(self) -> float:
        """Share of all drafted positions that were accepted, in [0, 1]; NaN if nothing was drafted.

        Examples
        --------
        >>> Statistics(drafted=[[4, 4]], accepted=[[4, 1]]).accepted_share
        0.625
        """
        steps = self._steps()
        drafted = sum(drafted for drafted, _ in steps)
        return sum(accepted for _, accepted in steps) / drafted if drafted else float("nan")

    @property
    def tokens_per_call(self) -> float:
        """Generated tokens of a row for each call of the target that it took part in; NaN without a call."""
        calls = len(self._steps())
        return sum(self.new_tokens) / calls if calls else float("nan")

    def _steps(self) -> list[tuple[int, int]]:
        pairs = zip(self.drafted, self.accepted, strict=True)
        return [step for drafted, accepted in pairs for step in zip(drafted, accepted, strict=True)]
