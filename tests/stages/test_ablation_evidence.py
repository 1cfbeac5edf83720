"""What the evidence says of measurements that were made up: claims that nobody tested, assistants that arms share."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill.artifacts import write_json
from distill.config.ablations import Ablations, Arm, Comparison, Curve
from distill.evaluate.samples import SAMPLES, Samples
from distill.reporting import Silent
from distill.stages.ablation import ArmRun
from distill.stages.ablation_evidence import write_evidence
from distill.stages.base import write_table
from tests.stages.small_grid_config import get_config

METRIC = "human/ndcg@10"
TABLES = {"items.parquet": "a", "keyphrases.parquet": "b", "human.parquet": "c"}


class World:
    """Folders as a grid leaves them; a model is one number, its nDCG on every query but for noise."""

    def __init__(self, root: Path, **grid):
        self.root, self.runs = root, []
        self.grid: Ablations = get_config()
        for name, value in {"comparisons": (), "curves": (), "seeds": (0,)}.items():
            setattr(self.grid, name, grid.pop(name, value))
        self.grid.arms = {name: Arm() for name in ("student", "one", "two")}
        self.grid.only = grid.pop("only", ())

    def arm(self, name: str, student: float, assistant: tuple[str, float, int] | None = None, seed: int = 0):
        """`assistant` is its folder, its figure and its layers."""
        folders = {
            "prepare": self._folder("prepare", outputs=TABLES),
            "judge": self._folder("judge", judged_training_pairs=5),
            "student": self._folder(f"student-{name}-{seed}", steps=3),
            "measure_student": self._measured(f"{name}-{seed}", "", student),
        }
        if name == "student":
            folders["measure_baselines"] = self._measured(f"baselines-{seed}", "zero_shot", 0.3)
        if assistant:
            folder, figure, layers = assistant
            folders["assistant"] = self._folder(f"assistant-{folder}")
            write_json(folders["assistant"] / "model" / "spec.json", {"layers": layers})
            folders["measure_assistant"] = self._measured(folder, "assistant", figure)
        self.runs.append(ArmRun(name, seed, self.grid.base(), folders))

    def evidence(self, failed=None):
        found = write_evidence(self.grid.validate(), self.runs, self.root, ["ablate"], Silent(), failed)
        return found, json.loads((self.root / "evidence.json").read_text()), (self.root / "evidence.md").read_text()

    def _folder(self, name: str, outputs: dict | None = None, **counts):
        write_json(self.root / name / "manifest.json", {"outputs": outputs or {}, "counts": counts, "seconds": 1.0})
        return self.root / name

    def _measured(self, name: str, model: str, value: float) -> Path:
        folder, table = self._folder(f"measured-{name}"), Samples()
        noise = np.random.default_rng(len(name)).normal(0, 0.01, 20)
        table.add(METRIC, model, np.clip(value + noise, 0, 1))
        write_table(folder / SAMPLES, table.samples())
        return folder


def test_a_claim_that_was_not_tested_did_not_hold(tmp_path):
    claims = (Comparison("student", "zero_shot", (METRIC,)), Comparison("student", "one", (METRIC, "truth/recall@20")))
    as_it_is = Comparison("student", "two", (METRIC,), family="as it is", expected=False)
    world = World(tmp_path, comparisons=(*claims, as_it_is), only=("student",))
    world.arm("student", 0.6)
    found, figures, page = world.evidence()
    verdicts = [one.verdict for one in found.findings["claims"]]
    assert verdicts == ["holds", "untested", "untested"] and list(found.findings) == ["claims"]
    assert "Every claim of this grid held" not in page and "made no claim" not in page
    for metric in (METRIC, "truth/recall@20"):
        assert f"- `student` above `one` on `{metric}`: not tested" in page
    assert "`diff/truth/recall@20/student-one`: truth/recall@20 was not measured for student" in page
    assert "These arms were not run, and comparisons with them are not made: `one`, `two`." in page
    assert f"diff/{METRIC}/student-" not in page
    # The claim that was tested is corrected for itself alone, and what was not has no number.
    assert figures[f"diff/{METRIC}/student-zero_shot/p_holm"] == figures[f"diff/{METRIC}/student-zero_shot/p"]
    assert not any("student-one" in name for name in figures)


def test_an_arm_that_failed_is_named_with_its_reason_and_claims_of_it_are_not_tested(tmp_path):
    world = World(tmp_path, comparisons=(Comparison("student", "one", (METRIC,)),), only=("student", "one"))
    world.arm("student", 0.6)
    found, _, page = world.evidence({"one": "seed 0: ValueError: the loss is not finite"})
    assert [arm.name for arm in found.arms] == ["student"] and found.not_run == ["two"]
    assert "- `one`: seed 0: ValueError: the loss is not finite" in page
    assert f"- `student` above `one` on `{METRIC}`: not tested" in page


def test_a_grid_whose_claims_were_all_left_out_does_not_say_that_it_made_none(tmp_path):
    world = World(tmp_path, comparisons=(Comparison("student", "one", (METRIC,)),), only=("student",))
    world.arm("student", 0.6)
    _, _, page = world.evidence()
    assert "not tested" in page and "made no claim" not in page


def test_a_curve_of_one_point_is_not_drawn(tmp_path):
    series = {"both": ("student", "one"), "one alone": ("one",)}
    curve = Curve("By labels", "labels", (METRIC,), series)
    world = World(tmp_path, comparisons=(), curves=(curve,))
    world.arm("student", 0.6)
    world.arm("one", 0.5)
    world.arm("two", 0.5)
    (line,) = world.evidence()[0].curves["By labels"][METRIC]
    assert line.label == "both"


@pytest.mark.parametrize(("expected", "verdict"), [(True, "holds"), (False, "higher")])
def test_a_gain_that_is_larger_here_than_there(tmp_path, expected, verdict):
    statement = Comparison("two", "one", (METRIC,), expected=expected, than=("student", "zero_shot"))
    world = World(tmp_path, comparisons=(statement,))
    for name, figure in {"student": 0.4, "one": 0.3, "two": 0.6}.items():
        world.arm(name, figure)
    found, figures, page = world.evidence()
    (finding,) = found.findings["claims"]
    assert finding.verdict == verdict
    assert figures[f"diff/{METRIC}/(two-one)-(student-zero_shot)"] == pytest.approx(0.2, abs=0.02)
    words = "`two` above `one`, by more than `student` above `zero_shot`"
    assert f"| {words if expected else '`two` − `one` − (`student` − `zero_shot`)'} | `{METRIC}` | +0." in page


def test_a_gain_over_a_model_that_was_not_measured_is_not_tested(tmp_path):
    statements = [Comparison("student", "zero_shot", (METRIC,), than=("two", "one"), family=name) for name in "ab"]
    statements[1].factor = 0.9
    world = World(tmp_path, comparisons=tuple(statements), only=("student", "one"))
    world.arm("student", 0.4)
    world.arm("one", 0.3)
    found, figures, _ = world.evidence()
    assert [one.verdict for family in found.findings.values() for one in family] == ["untested"] * 2
    assert not [name for name in figures if name.startswith("diff/")]


def test_every_claim_held(tmp_path):
    world = World(tmp_path, comparisons=(Comparison("student", "zero_shot", (METRIC,)),), only=("student",))
    world.arm("student", 0.6)
    _, figures, page = world.evidence()
    assert "Every claim of this grid held." in page
    assert figures[f"diff/{METRIC}/student-zero_shot"] == pytest.approx(0.3, abs=0.02)


def test_arms_that_share_an_assistant_other_than_the_reference_s_both_have_it(tmp_path):
    series = {"assistants": ("one", "two", "student")}
    world = World(
        tmp_path,
        comparisons=(Comparison("two.assistant", "assistant", (METRIC,), expected=False),),
        curves=(Curve("By depth", "assistant_depth", (METRIC,), series, assistants=True),),
    )
    world.arm("student", 0.6, ("whole", 0.7, 3))
    world.arm("one", 0.5, ("cut", 0.4, 1))
    world.arm("two", 0.5, ("cut", 0.4, 1))
    found, figures, _ = world.evidence()
    assert figures[f"{METRIC}/one.assistant"] == figures[f"{METRIC}/two.assistant"] == pytest.approx(0.4, abs=0.02)
    assert figures[f"diff/{METRIC}/two.assistant-assistant"] == pytest.approx(-0.3, abs=0.02)
    (line,) = found.curves["By depth"][METRIC]
    assert [(place, round(one.estimate, 1)) for place, one in line.points] == [(1, 0.4), (1, 0.4), (3, 0.7)]


def test_arms_that_share_the_reference_s_assistant_do_not_repeat_it(tmp_path):
    world = World(tmp_path, only=("student", "one"))
    world.arm("student", 0.6, ("whole", 0.7, 3))
    world.arm("one", 0.5, ("whole", 0.7, 3))
    _, figures, _ = world.evidence()
    assert f"{METRIC}/assistant" in figures and f"{METRIC}/one.assistant" not in figures
