"""Three arms on an even smaller marketplace: `direct` needs no assistant, `twin` differs in nothing that it reads."""

from distill.config import TaskWeights
from distill.config.ablations import Ablations, Arm, Comparison, Curve
from tests.stages import small_config


def get_config() -> Ablations:
    base = small_config.get_config()
    base.evaluate.arms = ()
    base.data.marketplace.items = 300
    base.data.marketplace.keyphrases = 400
    base.data.marketplace.human_queries = 40
    base.score.lexical = base.score.dense = base.score.random = 1
    base.assistant.validations = base.student.validations = 1
    base.student.epochs = 1.0
    base.student.tasks = TaskWeights(clicks=0.0, search_relevance=0.0, distill=1.0)  # compiles fastest
    metrics = ("human/ndcg@10", "human/auc_exact", "truth/recall@20")
    return Ablations(
        **vars(base),
        seeds=(0, 1),
        resamples=200,
        arms={
            "student": Arm(about="the whole | of it"),
            "direct": Arm(("student.distill.teacher=judge", "student.widths=(16,32)"), labels=300),
            "twin": Arm(("index.brute_force_below=10",)),
        },
        comparisons=(
            Comparison("student", "direct", metrics),
            Comparison("student", "twin", metrics, family="twins", expected=False),
            Comparison("student@16", "student", ("human/ndcg@10",), family="twins", factor=0.9),
            Comparison("assistant", "zero_shot", ("human/auc_exact", "truth/recall@20"), family="assistant"),
        ),
        curves=(
            Curve("Label efficiency", "labels", ("human/ndcg@10",), {"either": ("direct", "student")}),
            Curve("Embedding width", "width", ("human/ndcg@10",), {"student": ("student",)}),
            Curve("Depth", "assistant_depth", ("human/auc_exact",), {"assistant": ("student",)}, assistants=True),
        ),
        simulated=("Everything here is simulated.",),
    )
