"""NoWag: compress a matrix that was normalised by its norms, under a loss weighted by its inputs.

Columns are divided by their norms, then rows; what is left is pruned (NoWag-P) or vector quantised (NoWag-VQ) so that
the squared error, weighted by the mean square of each input, is small. Liu et al., COLM 2025, arXiv:2504.14569.

*Paper and code.* The released code keeps the last restart, here the best; centres without a vector are zero there, and
move to the worst-off vector here. Its k-means++ draws each centre from a new random subset, ours from one of 4 k.
A dead input weighs a millionth of the mean here. ``objective="output"`` puts the squared norms back, to the power zero
there. Fine-tuning of the codebook, optional, is not here.

*What the checks find.* Normalisation lowers the error of small rows by 40 %, and of all outputs hardly; where columns
differ the paper's loss is worse than none, and ``"output"`` is not. In tiny language models magnitude does as well.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.quant import _nowag_experiments as experiments
from porism_plugins.quant import _nowag_figures as figures
from porism_plugins.quant import _nowag_margins as margins
from porism_plugins.quant._codebooks import CodebookLinear
from porism_plugins.quant._nowag_method import compress_layer, nowag

__all__ = ["LAYERS", "PAPER", "compress_layer", "nowag"]

PAPER = Paper(
    key="nowag", title="NoWag: A Unified Framework for Shape Preserving Compression of Large Language Models",
    authors=("Lawrence Liu", "Inesh Chakrabarti", "Yixiao Li", "Mengdi Wang", "Tuo Zhao", "Lin F. Yang"),
    year=2025, ref="arXiv:2504.14569", kinds=("compressor",), family="quant", needs=("hf",),
    tags=("vector quantisation", "pruning", "one shot"), method="nowag",
)  # fmt: skip
LAYERS = (CodebookLinear,)

Rng = np.random.Generator
Number = Annotated[float, Interval(gt=0, le=10)]
Side = Annotated[int, Interval(ge=8, le=48)]
Small = Annotated[int, Interval(ge=2, le=16)]
Share = Annotated[float, Interval(gt=0, le=1)]
Spread = Annotated[float, Interval(ge=0, le=2)]
SPREAD = experiments.SPREAD
LAYER = "Gaussian 256 x 64, pixels of digits as inputs, 4 inputs a code, 2 bits"
TEXT = "Llama of characters, 2 layers 64 wide, one of 3 seeds; calibration and 4,096 held-out characters drawn anew"


@proved("The weighted mean is the best centre: any other loses the squared distance to it, times the weights' sum",
        where="Algorithm 1", control={"centre": "plain mean"})  # fmt: skip
def best_centre(*, v: Number = 1.0, u: Number = 3.0, w: Number = 1.0, z: Number = 2.0, c: Number = 4.0,
                centre: Literal["weighted mean", "plain mean"] = "weighted mean") -> Any:  # fmt: skip
    import sympy

    best = (w * v + z * u) / (w + z) if centre == "weighted mean" else (v + u) / 2
    return sympy.Eq(w * (v - c) ** 2 + z * (u - c) ** 2,
                    w * (v - best) ** 2 + z * (u - best) ** 2 + (w + z) * (c - best) ** 2)  # fmt: skip


@proved("With the squared norms in its weights the loss of a normalised entry is the error of W under h",
        where="derived", control={"power": 0})  # fmt: skip
def norms_put_back(*, h: Number = 1.0, rows: Number = 2.0, columns: Number = 3.0, entry: Number = 0.5,
                   found: Number = 0.7, power: Literal[2, 0] = 2) -> Any:  # fmt: skip
    """The control has the paper's weights, h alone."""
    import sympy

    normalised = entry / (rows * columns)
    return sympy.Eq(
        h * (rows * columns) ** power * (normalised - found) ** 2, h * (entry - rows * found * columns) ** 2
    )


@always("Denormalising gives the matrix back, and the rows that were normalised last have unit norm", where="Sec. 3",
        control={"dropped": "rows"})  # fmt: skip
def round_trip(rng: Rng, *, rows: Side = 16, columns: Side = 16, spread: Spread = 1.0,
               dropped: Literal["none", "rows"] = "none") -> float:  # fmt: skip
    return margins.round_trip(rng, rows=rows, columns=columns, spread=spread, dropped=dropped)


@always("A matrix or a column in other units has the same normalised matrix", where="Sec. 3", control={"what": "row"})
def scaling(rng: Rng, *, rows: Side = 16, columns: Side = 16, factor: Annotated[float, Interval(ge=0.1, le=10)] = 3.0,
            what: Literal["matrix, column", "row"] = "matrix, column") -> float:  # fmt: skip
    """A row in other units has not, as it changes the column norms that are taken first: the control."""
    return margins.scaling(rng, rows=rows, columns=columns, factor=factor, parts=what.split(", "))


@always("Exactly ceil(r N) weights stay, in a matrix and in rows, and 2 of each 4, however many scores are equal",
        where="Sec. 4", control={"rule": "threshold"})  # fmt: skip
def counts(rng: Rng, *, rows: Small = 4, groups: Small = 4, remaining: Share = 0.3, levels: Small = 3,
           rule: Literal["exact", "threshold"] = "exact") -> float:  # fmt: skip
    return margins.counts(rng, rows=rows, groups=groups, remaining=remaining, levels=levels, rule=rule)


@always("No round of k-means raises the weighted loss, moves of empty centres included", where="Algorithm 1",
        control={"update": "plain mean"})  # fmt: skip
def descent(rng: Rng, *, count: Annotated[int, Interval(ge=20, le=100)] = 60,
            d: Annotated[int, Interval(ge=1, le=6)] = 3, k: Annotated[int, Interval(ge=1, le=20)] = 8,
            spread: Spread = 1.5,
            update: Literal["weighted", "plain mean"] = "weighted") -> float:  # fmt: skip
    return margins.descent(rng, count=count, d=d, k=k, spread=spread, update=update)


@always("Inputs in other units leave masks and codes as they are", where="Sec. 3", control={"change": "plus"})
def units_of_inputs(rng: Rng, *, rows: Annotated[int, Interval(ge=4, le=24)] = 12,
                    exponent: Annotated[int, Interval(ge=-20, le=20)] = 3,
                    change: Literal["times", "plus"] = "times") -> float:  # fmt: skip
    """The unit is a power of two: others round, and a score between two others may then go either way."""
    return margins.units_of_inputs(rng, rows=rows, exponent=exponent, change=change)


@always("As many centres as there are distinct subvectors lose nothing", where="Algorithm 1",
        control={"start": "random, none reseeded"})  # fmt: skip
def enough_codes(rng: Rng, *, distinct: Small = 6, copies: Small = 3, spare: Annotated[int, Interval(ge=0, le=8)] = 0,
                 start: Literal["k-means++", "random, none reseeded"] = "k-means++") -> float:  # fmt: skip
    return margins.enough_codes(rng, distinct=distinct, copies=copies, spare=spare, start=start)


@always("A layer takes the bits of the paper's count, within 2 %", where="Sec. 5", control={"stored": "16-bit codes"})
def size(rng: Rng, *, outputs: Annotated[int, Interval(ge=64, le=128)] = 64,
         groups: Annotated[int, Interval(ge=8, le=32)] = 8, subvector: Annotated[int, Interval(ge=1, le=4)] = 3,
         bits: Literal[1, 2] = 2, stored: Literal["packed", "16-bit codes"] = "packed") -> float:  # fmt: skip
    return margins.size(rng, outputs=outputs, groups=groups, subvector=subvector, bits=bits, stored=stored)


@typically("Under unequal row scales normalisation and weighting have a lower output error than either alone, and "
           "either than plain k-means", where="Sec. 3", at_least=0.05, control={"normalised": False}, cap=32,
           scale=f"{LAYER}, log-normal row scales; the least of three log ratios")  # fmt: skip
def both_help(rng: Rng, *, normalised: bool = True) -> float:
    """After a first run of 64 replicates the cap was set to 32, for time; no threshold moved."""
    one = experiments.problem(rng, rows=SPREAD)
    arms = [{"normalised": normalised}, *list(experiments.ABLATIONS.values())[1:]]
    full, weighted, norms, plain = (experiments.log_error(one, rng, **options) for options in arms)
    return min(min(weighted, norms) - full, plain - weighted, plain - norms)


@typically("Under unequal row scales normalisation lowers the mean relative error of an output", where="Sec. 3",
           at_least=0.1, control={"normalised": False}, scale=f"{LAYER}, log-normal row scales")  # fmt: skip
def no_output_dominates(rng: Rng, *, normalised: bool = True) -> Paired:
    """Stated after a look at four replicates of ``both_help``, where large outputs are most of the error."""
    one = experiments.problem(rng, rows=SPREAD)
    arms = [experiments.log_error(one, rng, measure=experiments.row_error, normalised=n) for n in (normalised, False)]
    return Paired(*arms, "lower")


@typically("Under unequal column scales the paper's loss, which leaves the norms out, has a higher output error than "
           "no normalisation at all", where="a boundary of Sec. 3", at_least=0.1, control={"objective": "output"},
           scale=f"{LAYER}, log-normal column scales")  # fmt: skip
def column_norms_hurt(rng: Rng, *, objective: Literal["normalised", "output"] = "normalised") -> Paired:
    one = experiments.problem(rng, columns=SPREAD)
    full = experiments.log_error(one, rng, objective=objective)
    return Paired(full, experiments.log_error(one, rng, normalised=False))


@typically("With the norms put back into the loss the output error is lower than without normalisation, under unequal "
           "row and column scales", where="an extension", at_least=0.1, control={"objective": "normalised"},
           scale=f"{LAYER}, log-normal scales of both")  # fmt: skip
def norms_in_the_loss_help(rng: Rng, *, objective: Literal["output", "normalised"] = "output") -> Paired:
    one = experiments.problem(rng, rows=SPREAD, columns=SPREAD)
    full = experiments.log_error(one, rng, objective=objective)
    return Paired(full, experiments.log_error(one, rng, normalised=False), "lower")


@typically("Weighting by the inputs lowers the output error where their mean squares differ", where="Sec. 3",
           at_least=0.05, control={"inputs": "normal"}, scale=f"{LAYER}")  # fmt: skip
def weighting_helps(rng: Rng, *, inputs: Literal["digits", "normal"] = "digits") -> Paired:
    """The mean squares of the pixels span more than a factor of ten; the control's inputs have one size."""
    one = experiments.problem(rng, inputs=inputs)
    return Paired(*(experiments.log_error(one, rng, weighted=weighted) for weighted in (True, False)), "lower")


@typically("Of ten runs k-means++ ends at a lower loss than random centres in eight", where="Algorithm 1",
           control={"init": "random"}, scale="4,096 subvectors of 4, 256 centres, 40 rounds", cap=40)  # fmt: skip
def spread_centres_win(rng: Rng, *, init: Literal["k-means++", "random"] = "k-means++") -> float:
    """The margin was the share of wins less 0.8 at first, 0.2 in every replicate."""
    return experiments.gain_of_eight(rng, init=init)


@typically("At half the weights NoWag-P has a lower output error than magnitude pruning", where="Table 3", at_least=0.1,
           control={"ours": "magnitude"}, scale="Gaussian 256 x 64, digits as inputs, mean over outputs")  # fmt: skip
def pruned_below_magnitude(rng: Rng, *, ours: Literal["NoWag-P", "magnitude"] = "NoWag-P") -> Paired:
    one = experiments.problem(rng)
    return Paired(*(experiments.pruned_error(one, by) for by in (ours, "magnitude")), "lower")


@typically("On a single layer of unequal column scales NoWag-P has a higher output error than Wanda",
           where="against Table 3", at_least=0.1, control={"columns": "equal"},
           scale="Gaussian 256 x 64 with log-normal column scales, pixels of digits, half the weights")  # fmt: skip
def wanda_wins_on_unequal_columns(rng: Rng, *, columns: Literal["unequal", "equal"] = "unequal") -> Paired:
    one = experiments.problem(rng, columns=SPREAD if columns == "unequal" else 0.0)
    return Paired(*(experiments.pruned_error(one, by) for by in ("NoWag-P", "Wanda")))


@typically("A language model with half its weights has a lower perplexity by NoWag-P than by magnitude",
           where="Table 3", at_least=0.01, control={"ours": "magnitude"}, scale=TEXT)  # fmt: skip
def model_below_magnitude(rng: Rng, *, ours: Literal["NoWag-P", "magnitude"] = "NoWag-P") -> Paired:
    one = experiments.language(rng)
    return Paired(*(math.log(experiments.pruned_perplexity(one, by)) for by in (ours, "magnitude")), "lower")


@typically("A language model with half its weights has by NoWag-P at most 2 % more perplexity than by Wanda",
           where="Table 3", control={"ours": "at random"}, scale=TEXT)  # fmt: skip
def competitive_with_wanda(rng: Rng, *, ours: Literal["NoWag-P", "at random"] = "NoWag-P") -> float:
    """The control was magnitude at first, which is as close to Wanda here: the inputs of these layers are even."""
    one = experiments.language(rng)
    mine, wanda = (math.log(experiments.pruned_perplexity(one, by)) for by in (ours, "Wanda"))
    return 0.02 - (mine - wanda)


@typically("A language model at 2 bits has a lower perplexity by NoWag-VQ than by plain k-means", where="Table 2",
           at_least=0.02, control={"ours": "plain k-means"}, cap=24, scale=f"{TEXT}; 2 inputs a code")  # fmt: skip
def model_below_plain_kmeans(rng: Rng, *, ours: Literal["NoWag-VQ", "plain k-means"] = "NoWag-VQ") -> Paired:
    """After a first run of 64 replicates the cap was set to 24, for time; no threshold moved."""
    one = experiments.language(rng)
    found = [experiments.quantised_perplexity(one, rng, **experiments.ABLATIONS[by]) for by in (ours, "plain k-means")]
    return Paired(*(math.log(perplexity) for perplexity, _ in found), "lower")


@figure("Output error of one layer against the bits of a weight, all that is stored, for three kinds of scales.",
        where="Table 2")  # fmt: skip
def layers(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 1) -> Table:
    return figures.layer_table(rng, replicates=replicates)


layers.draw(figures.draw_layers)


@figure("Perplexity of a language model of characters: pruned, against the share that stays; quantised, against the "
        "bits of a weight, codebooks and scales included.", where="Tables 2 and 3")  # fmt: skip
def language(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 1) -> Table:
    return figures.language_table(rng, replicates=replicates)


language.draw(figures.draw_language)


def demo(rng: Rng, *, remaining: Share = 0.5) -> dict[str, float]:
    """Perplexity of a language model of characters as it is, at 2 bits, and with a share of its weights."""
    one = experiments.language(rng)
    found = {by: experiments.pruned_perplexity(one, by, remaining) for by in experiments.SCORES}
    for by, options in experiments.ABLATIONS.items():
        found[by] = experiments.quantised_perplexity(one, rng, **options)[0]
    return {"as it is": one.perplexity(), **found}


def example_options(rng: Rng) -> dict[str, str]:
    """For the conformance checks, which ask for a share; the tests run them for ``"vq"`` as well."""
    return {"mode": "prune"}
