"""Scores of subjects from predictions for recordings.

Shapes: n predictions (a subject in a repeat), O outputs: 1 for a number, Q for classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainlm_lightning.evaluation.names import MetricName
from brainlm_lightning.tasks.clinical.feature_names import UNTRAINED
from brainlm_lightning.tasks.clinical.labels import TargetScale
from brainlm_lightning.tasks.clinical.score import (
    Layout,
    Scores,
    class_scores,
    compare_auc,
    compare_errors,
    regression_scores,
)

if TYPE_CHECKING:
    from brainlm_lightning.tasks.clinical.question import Question

Floats = NDArray[np.float64]

# The model that others are compared with: the first of these that there is, else the first baseline.
REFERENCES = ("tuned", "frozen", "connectivity_linear")
CONTROLS = (
    ("gram_linear", "window_connectivity_linear"),
    ("gram_linear", "signal_features_linear"),
    ("connectivity_gram_linear", "connectivity_linear"),  # is the embedding worth anything beside connectivity?
    ("confounds_connectivity_linear", "confounds_linear"),  # and is connectivity, beside the confounds?
)


@dataclass(frozen=True)
class Predictions:
    """Every method's predictions for the test subjects of every fold.

    Attributes:
        question: with target and folds.
        layout: subject and fold of each prediction.
        subject_n: name of the subject.
        truth_n: labels in own units, or class numbers; the mean of a subject's recordings.
        output_nO: method -> the mean over the subject's recordings, on the fold's training scale or as class scores.
    """

    question: "Question"
    layout: Layout
    subject_n: NDArray[Any]
    truth_n: Floats
    output_nO: dict[str, Floats]

    @classmethod
    def of(cls, question: "Question", predicted: dict[str, list[NDArray[np.floating]]]) -> "Predictions":
        """Averages a subject's recordings; of paired classes, those of each class.

        Args:
            question: with folds.
            predicted: method -> for each fold (test recordings, O).
        """
        subject_R = question.data.recordings.table["subject_id"].to_numpy()
        parts = []
        for number, fold in enumerate(question.folds):
            columns = {"truth": question.labels.values_R[fold.test]}
            for name, outputs in predicted.items():
                columns |= {f"{name}/{k}": column for k, column in enumerate(outputs[number].T)}
            keys = [subject_R[fold.test], columns["truth"]] if question.labels.paired else [subject_R[fold.test]]
            mean = pd.DataFrame(columns).groupby(keys).mean()
            parts.append(mean.assign(fold=number))
        table = pd.concat(parts)
        names, subject_n = np.unique(table.index.get_level_values(0).to_numpy(dtype=str), return_inverse=True)
        repeat_X = np.array([fold.repeat for fold in question.folds])
        output_nO = {
            name: table[[f"{name}/{k}" for k in range(question.num_outputs)]].to_numpy(dtype=float)
            for name in predicted
        }
        layout = Layout(subject_n, table["fold"].to_numpy(), repeat_X, question.labels.paired)
        return cls(question, layout, names[subject_n], table["truth"].to_numpy(dtype=float), output_nO)

    def scored(self) -> tuple[dict[str, float], dict[str, NDArray[Any]], pd.DataFrame]:
        """Metrics `test/<cohort>/<target>/<method>/<score>`, arrays of the same names, and the table to save."""
        of = MetricName(self.question.cohort, self.question.target.name)
        scores = {name: self._score(name) for name in self.output_nO}
        found = {name: value.flat(self.layout.num_subjects) for name, value in scores.items()}
        results: dict[str, float] = {}
        for method, flat in found.items():
            results |= {replace(of, method=method).of(name): value for name, value in flat.items()}
        results |= {of.of(name): float(count) for name, count in self.question.counts().items()}
        results |= {of.of(name): value for name, value in self._comparisons(scores).items()}
        return results, self._arrays(of), self._table()

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.question.labels.classes

    def _score(self, name: str) -> Scores:
        if self._classes:
            return class_scores(self.layout, self.truth_n.astype(int), self.output_nO[name])
        return regression_scores(self.layout, self.truth_n, self._own(name), (self._scaled_truth, self._scaled(name)))

    def _scaled(self, name: str) -> Floats:
        return self.output_nO[name][:, 0]

    def _own(self, name: str) -> Floats:
        """Predictions in the phenotype's own unit."""
        return self._by_fold(lambda scale, here: scale.inverse(self._scaled(name)[here]))

    @property
    def _scaled_truth(self) -> Floats:
        return self._by_fold(lambda scale, here: scale.forward(self.truth_n[here]))

    def _by_fold(self, change: Callable[[TargetScale, NDArray[np.bool_]], Floats]) -> Floats:
        """Each fold's numbers through its own scale."""
        changed = np.empty(len(self.truth_n))
        for number, fold in enumerate(self.question.folds):
            here = self.layout.fold_n == number
            changed[here] = change(self.question.scale(fold), here)
        return changed

    def _comparisons(self, scores: dict[str, Scores]) -> dict[str, float]:
        reference = next((name for name in REFERENCES if name in scores), next(iter(scores)))
        pairs = [(reference, other) for other in scores if other != reference]
        twins = [(name, f"{UNTRAINED}{name}") for name in scores]
        pairs += [pair for pair in (*twins, *CONTROLS) if set(pair) <= set(scores) and pair not in pairs]
        if self._classes:
            return compare_auc(scores, pairs, self.layout.num_subjects)
        errors = {name: self.layout.by_subject((self._own(name) - self.truth_n) ** 2) for name in scores}
        return compare_errors(errors, pairs)

    def _arrays(self, of: MetricName) -> dict[str, NDArray[Any]]:
        """Truth and predictions: the number, or the score of each class."""
        found: dict[str, NDArray[Any]] = {of.of("truth"): self.truth_n}
        if self._classes:
            found[of.of("classes")] = np.array(self._classes)
        for name, output_nO in self.output_nO.items():
            shown = self._own(name) if not self._classes else output_nO
            found[replace(of, method=name).of("predicted")] = shown
        return found

    def _table(self) -> pd.DataFrame:
        """One row per subject, repeat and method."""
        parts = []
        for name, output_nO in self.output_nO.items():
            fold = self.layout.fold_n
            columns = {"subject": self.subject_n, "repeat": self.layout.repeat_X[fold], "fold": fold, "method": name}
            if self._classes:
                classes = np.array(self._classes)
                columns |= {"true": classes[self.truth_n.astype(int)], "predicted": classes[output_nO.argmax(1)]}
                columns |= {f"score_{of}": output_nO[:, k] for k, of in enumerate(self._classes)}
            else:
                columns |= {"true": self.truth_n, "predicted": self._own(name)}
                columns |= {"true_scaled": self._scaled_truth, "predicted_scaled": self._scaled(name)}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)
