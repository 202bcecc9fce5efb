"""Every check is caught by its broken plugin, and by that check alone."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest

from porism.kinds import adapter as adapter_checks
from porism.kinds import cache as cache_checks
from porism.kinds import compressor as compressor_checks
from porism.kinds import decoder as decoder_checks
from porism.kinds import estimator as estimator_checks
from porism.kinds import layer as layer_checks
from porism.kinds import loss as loss_checks
from porism.kinds import optimizer as optimizer_checks
from porism.kinds import simulator as simulator_checks
from porism.testing import check_paper, checks_for, claim_checks, figure_checks, file_checks

PLUGINS = sorted((Path(__file__).parents[1] / "broken_plugins").glob("*.py"))
MODULES = (
    file_checks,
    claim_checks,
    figure_checks,
    loss_checks,
    optimizer_checks,
    compressor_checks,
    adapter_checks,
    cache_checks,
    layer_checks,
    decoder_checks,
    simulator_checks,
    estimator_checks,
)

# What a fault cannot help breaking besides its own check.
ALSO = {"check_estimator_is_deterministic": {"check_estimator_forgets_an_earlier_fit"}}


def failing(paper: Path) -> dict[str, Exception]:
    """The checks that a paper fails; to import it in a fresh process takes long and is left to files about that."""
    failures = {}
    for check in checks_for(str(paper)):
        if check.name.startswith("check_import") and not paper.stem.startswith("check_import"):
            continue
        try:
            check(str(paper))
        except unittest.SkipTest as reason:
            if check.name == paper.stem:
                pytest.skip(str(reason))
        except Exception as error:
            failures[check.name] = error
    return failures


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.stem)
def test_only_the_intended_check_fails(plugin: Path) -> None:
    failures = failing(plugin)
    assert set(failures) == {plugin.stem} | ALSO.get(plugin.stem, set()), failures
    assert isinstance(failures[plugin.stem], AssertionError), "a check says what to mend, it does not just crash"


def test_every_check_has_a_broken_plugin() -> None:
    names = {name for module in MODULES for name in vars(module) if name.startswith("check_")}
    assert names == {plugin.stem for plugin in PLUGINS}


def test_all_faults_are_reported_at_once(toy: str) -> None:
    with pytest.raises(ExceptionGroup, match=r"toy\.py fails") as raised:
        check_paper(toy)
    names = [error.__notes__[-1] for error in raised.value.exceptions]
    assert names == ["check_docstring_names_the_reference", "check_simulator_rejects_values_out_of_range"]


def test_a_fault_mended_in_the_file_is_seen(tmp_path: Path) -> None:
    """What was run is remembered for a version of the file only."""
    source = next(p for p in PLUGINS if p.stem == "check_replicate_is_finite").read_text()
    paper = tmp_path / "mended.py"
    paper.write_text(source)
    check = next(check for check in checks_for(str(paper)) if check.name == "check_replicate_is_finite")
    with pytest.raises(AssertionError, match="not finite"):
        check(str(paper))
    paper.write_text(source.replace('float("nan")', "1.0"))
    check(str(paper))
