"""What an imported model reaches, beside what the paper says and what others measured."""

from collections.abc import Mapping

from brainlm_lightning.report.clinical import PAPER_MSE
from brainlm_lightning.report.forecast import PAPER as PAPER_FORECAST
from brainlm_lightning.report.reconstruction import PAPER_R2
from brainlm_lightning.report.report_table import ReportTable

# Independent measurements that others published with their code; old_13M at an input gain of 7 on HCP, 938 people.
OTHERS = {
    "reconstruction/hidden0.2": "0.134 (HCP, old_13M, gain 7, whole recordings)",
    "future/hidden0.1": "−0.016 (HCP, old_13M)",
    "clinical/sex/cls": "0.76 (HCP, old_13M, CLS, logistic regression)",
}
SHOWN = ("r2_pooled", "mse_scaled", "balanced_accuracy")
NOTES = [
    "Pooled R² over all hidden values of the test subjects; clinical variables by a support vector machine in folds of "
    "subjects, errors in units of the variable's variance. Intervals: 95 %, from resampling subjects.",
    "The paper's future is 40 frames, of a model that was fine-tuned for it; here nothing was fine-tuned.",
    "The paper's data, scaling and targets are others: a difference in a number is a question, not an answer.",
]


def reproduction_table(name: str, cohort: str, numbers: Mapping[str, float]) -> ReportTable:
    """One row for each number.

    Args:
        name: of the model.
        cohort: name of the cohort.
        numbers: from `embedding.reproduction.reproduced`.
    """
    rows = [["what", f"here, {cohort}", "the paper", "others"]]
    for key, value in numbers.items():
        of, _, score = key.rpartition("/")
        if score in SHOWN:
            ends = [numbers.get(f"{key}{end}") for end in ("_low", "_high")]
            interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends[0] is not None and ends[1] is not None else ""
            rows.append([_what(of, score), f"{value:.3f}{interval}", _paper(of), OTHERS.get(of, "–")])
    return ReportTable(f"{name} on {cohort}, beside published numbers", rows, NOTES)


def _what(of: str, score: str) -> str:
    kind, condition, *method = of.split("/")
    if kind == "clinical":
        return f"{condition} from {method[0]}: {'MSE, scaled' if score == 'mse_scaled' else 'balanced accuracy'}"
    share = 100 * float(condition.removeprefix("hidden"))
    return f"last {share:g} % of a window: R²" if kind == "future" else f"{share:g} % hidden: R²"


def _paper(of: str) -> str:
    kind, condition, *method = of.split("/")
    if kind == "reconstruction":
        ratio = float(condition.removeprefix("hidden"))
        found = [f"{values[ratio]:.3f} ({cohort})" for cohort, values in PAPER_R2.items() if ratio in values]
    elif kind == "future":
        ukb, hcp = PAPER_FORECAST["BrainLM, fine-tuned"]
        found = [f"{ukb[0]:.3f} (UKB)", f"{hcp[0]:.3f} (HCP), fine-tuned, 40 frames"]
    else:
        raw, embedded, tuned = PAPER_MSE.get(condition, ("", "", ""))
        found = [f"{embedded} (UKB, SVM on CLS), {tuned} (fine-tuned)"] if embedded and method == ["cls"] else []
        found = [f"{raw} (UKB, SVM on raw series)"] if raw and method != ["cls"] else found
    return ", ".join(found) or "–"
