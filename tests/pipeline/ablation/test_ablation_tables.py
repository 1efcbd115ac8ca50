"""Contract of an ablation's rows and tables: paired by seed and sample, the same numbers in every format, escaped."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.errors import DamagedStore
from unialign.pipeline.ablation.bootstrap import mean_interval
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import Ablation, FailedTrial, FailedTrials, TrialResult, paired_hits, rows_of
from unialign.pipeline.ablation.tables import columns, comma_separated, escaped, latex, markdown, table

SIMPLE = {"baseline": "1-nn", "features": "poses", "top1": 0.9, "mean_class": 0.9, "seconds": 0.1}


def predicted(run: Path, hits: dict[str, bool]) -> None:
    """Keep predictions of two classes that are right for these ids."""
    run.mkdir(parents=True)
    right = np.array(list(hits.values()))
    np.savez(
        run / "predictions.npz",
        ids=np.array(list(hits)),
        labels=np.zeros(len(hits), dtype=np.int64),
        probabilities=np.where(right[:, None], [[0.9, 0.1]], [[0.2, 0.8]]).astype(np.float32),
    )


def trained(row: str, seed: int, top1: float, run: Path = Path("none"), **more: Any) -> TrialResult:
    keys, metrics = {"frames": {"key": "0" * 64}}, {"top1": top1, "mean_class": top1}
    return TrialResult(Trial(row, seed, ()), str(run), metrics, 10.0 + seed, keys, reused=False, **more)


def ablation(results: list[TrialResult], *names: str) -> Ablation:
    return Ablation("test", tuple(results), rows_of(names, results), 0)


def test_changes_are_paired_over_the_samples_that_both_rows_have(tmp_path: Path) -> None:
    # One clip is missing for the second row, as where a cache lacks its poses; clips come in any order.
    predicted(tmp_path / "a0", {"w": False, "x": False, "y": True, "z": False})
    predicted(tmp_path / "a1", {"w": False, "x": True, "y": False, "z": False})
    predicted(tmp_path / "b0", {"z": True, "y": True, "x": True})
    predicted(tmp_path / "b1", {"z": False, "y": True, "x": True})
    results = [trained("a", 0, 0.25, tmp_path / "a0"), trained("a", 1, 0.25, tmp_path / "a1")]
    results += [trained("b", 0, 1.0, tmp_path / "b0"), trained("b", 1, 2 / 3, tmp_path / "b1")]
    paired = paired_hits(list(zip(results[2:], results[:2], strict=True)))
    assert paired is not None
    assert paired.tolist() == [[1, 0, 1], [0, 1, 0]]
    first, second = rows_of(["a", "b"], results)
    expected = mean_interval(paired)
    assert second["change"] == expected.mean == 0.5
    assert (second["change_low"], second["change_high"]) == (expected.low, expected.high)
    assert (second["change_over"], second["change_samples"]) == ("seeds and samples", 3)
    assert (first["change"], first["change_low"], first["change_over"]) == (0.0, None, None)


def test_one_seed_is_paired_over_samples_alone_and_has_no_deviation(tmp_path: Path) -> None:
    predicted(tmp_path / "a", {"x": False, "y": True})
    predicted(tmp_path / "b", {"x": True, "y": True})
    row = rows_of(["a", "b"], [trained("a", 0, 0.5, tmp_path / "a"), trained("b", 0, 1.0, tmp_path / "b")])[1]
    assert (row["change"], row["change_over"], row["top1_std"]) == (0.5, "samples", None)
    assert row["change_low"] < 0.5 < row["change_high"]


def test_without_predictions_seeds_alone_are_drawn_and_one_seed_has_no_interval() -> None:
    results = [trained("a", 0, 0.5), trained("a", 1, 0.6), trained("b", 1, 0.7), trained("b", 0, 0.8)]
    row = rows_of(["a", "b"], results)[1]
    assert row["change"] == pytest.approx(0.2)
    assert (row["change_low"], row["change_high"]) == (pytest.approx(0.1), pytest.approx(0.3))
    assert (row["change_over"], row["change_samples"]) == ("seeds", 0)
    single = rows_of(["a", "b"], [results[0], results[3]])[1]
    assert (single["change"], single["change_low"], single["change_over"]) == (pytest.approx(0.3), None, None)


def test_rows_hold_mean_deviation_time_and_the_largest_memory() -> None:
    results = [
        trained("a", seed, top1, memory=memory) for seed, top1, memory in ((0, 0.5, 5), (1, 0.7, 9), (2, 0.6, 7))
    ]
    (row,) = rows_of(["a"], results)
    assert (row["top1"], row["top1_std"]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (row["seeds"], row["seconds"], row["memory"], row["gpu_memory"]) == (3, 11.0, 9, None)


def test_rows_without_a_common_seed_or_without_any_result_are_not_compared() -> None:
    rows = rows_of(["a", "b", "c"], [trained("a", 0, 0.5), trained("b", 1, 0.7)])
    assert [row["change"] for row in rows] == [0.0, None, None]
    assert (rows[2]["seeds"], rows[2]["top1"]) == (0, None)
    assert table(ablation([trained("b", 1, 0.7)], "a", "b"))[0][1:] == ("0", "-", "-", "-", "-", "-", "-")


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        predicted(tmp_path / name, {"x": True})
    (tmp_path / "b" / "predictions.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DamagedStore, match=r"b/predictions.npz"):
        rows_of(["a", "b"], [trained("a", 0, 0.5, tmp_path / "a"), trained("b", 0, 1.0, tmp_path / "b")])


def test_all_formats_hold_the_same_numbers() -> None:
    found = ablation(
        [trained("a", 0, 0.5), trained("a", 1, 0.6), trained("b", 0, 0.8, memory=1_234_567_890), trained("b", 1, 0.7)],
        "a",
        "b",
    )
    assert table(found)[1] == ("b", "2", "75.0 ± 7.1", "75.0 ± 7.1", "+20.0", "[+10.0, +30.0]", "10.5", "1235")
    assert "| b | 2 | 75.0 ± 7.1 | 75.0 ± 7.1 | +20.0 | [+10.0, +30.0] | 10.5 | 1235 |\n" in markdown(found)
    assert r"b & $2$ & $75.0 \pm 7.1$ & $75.0 \pm 7.1$ & $+20.0$ & $[+10.0, +30.0]$ \\" in latex(found)
    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [float(rows[1][name]) for name in ("change", "memory")] == pytest.approx([0.2, 1_234_567_890])
    assert rows[0]["change_low"] == ""


def test_a_gpu_adds_a_column() -> None:
    found = ablation([trained("a", 0, 0.5, memory=10**9, gpu_memory=2 * 10**9)], "a")
    assert columns(found)[-2:] == ("memory (MB)", "GPU memory (MB)")
    assert table(found)[0][-2:] == ("1000", "2000")


def test_a_change_that_rounds_to_nothing_has_no_minus_sign() -> None:
    found = ablation([trained("a", 0, 0.5), trained("b", 0, 0.4999)], "a", "b")
    assert table(found)[1][4] == "+0.0"


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\\\\&%$#_{}~^<>|[]-'`\n"))))
def test_no_row_name_can_break_the_latex_table(name: str) -> None:
    # Without what we write for them, nothing is left that means anything to LaTeX.
    written = r"\\text[a-z]+\{\}|\\ensuremath\{\\pm\}|\\[&%$#_{}]|\{[\[\]]\}|\{\}"
    assert not re.search(r"[\\&%$#_{}~^<>|\[\]\n\r]", re.sub(written, "", escaped(name)))
    assert not re.search(r"--|``|''", escaped(name))
    found = ablation([trained(name, 0, 0.5)], name)
    body = latex(found).partition(r"\midrule")[2].splitlines()
    assert len(body) == 5
    # Without seconds and memory.
    assert len(re.findall(r"(?<!\\)&", body[1])) == len(columns(found)) - 3


def test_latex_is_a_table_with_caption_and_label_and_begins_no_row_with_a_bracket() -> None:
    made = ablation([trained("[a]_1 & 50 % -- \\x", 0, 0.5), trained("b", 0, 0.6)], "[a]_1 & 50 % -- \\x", "b")
    found = latex(replace(made, name="my_grid", baselines=(SIMPLE,)))
    assert r"{[}a{]}\_1 \& 50 \% -{}- \textbackslash{}x & $1$ & $50.0$" in found
    assert r"\caption{Ablation my\_grid: accuracies in percent, one seed." in found
    assert r"\label{tab:my-grid}" in found
    assert re.findall(r"\\(toprule|midrule|bottomrule)", found) == ["toprule", "midrule", "midrule", "bottomrule"]
    # Rows above the second rule, simple classifiers below it.
    assert found.rindex(r"\midrule") < found.index("baseline: 1-nn on poses")
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", found)
    assert opened == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]


def test_rows_that_were_tested_on_different_clips_say_so() -> None:
    results = [trained("a", seed, 0.5) for seed in (0, 1)] + [trained("b", seed, 0.5) for seed in (0, 1)]
    shares = (0.6, 0.6, 0.4, 0.4)
    made = [
        replace(result, metrics={**result.metrics, "coverage": share})
        for result, share in zip(results, shares, strict=True)
    ]
    found = ablation(made, "a", "b")
    for text in (markdown(found), latex(found).replace("\\", "")):
        assert "tested on different clips, by what has features (a 60.0%, b 40.0% of the test clips)" in text
    assert "60.0 ±" not in markdown(found)
    assert "of the test clips" not in markdown(ablation(results, "a", "b"))


def test_markdown_keeps_a_name_with_bars_in_one_cell() -> None:
    found = markdown(ablation([trained("a|b *c*", 0, 0.5)], "a|b *c*"))
    assert r"| a\|b \*c\* | 1 |" in found


def test_the_error_names_rows_seeds_and_each_reason_once(tmp_path: Path) -> None:
    def failed(row: str, seed: int, error: str, code: int) -> FailedTrial:
        return FailedTrial(Trial(row, seed, ()), error, code)

    some = [failed("b", 0, "no store.", 4), failed("b", 1, "no store.", 4), failed("c", 0, "no store.", 4)]
    base = Ablation("test", (trained("a", 0, 0.5),), (), 0, tuple(some))
    error = FailedTrials(base, tmp_path)
    assert str(error) == (
        "3 of 4 training runs failed: b (seed 0, 1), c (seed 0): no store; the others are done and kept, the same "
        "command retries these."
    )
    assert error.exit_code == 4
    mixed = Ablation("test", (), (), 0, (*some, failed("d", 0, "bad value.", 2)))
    assert FailedTrials(mixed, tmp_path).exit_code == 1
