import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from brainlm_lightning.checkpoint.description import describe_model, describe_parcels, subject_digest
from brainlm_lightning.data.store import Store
from brainlm_lightning.embedding.one_line import EmbeddingModel
from brainlm_lightning.embedding.reproduction import (
    ReproductionPlan,
    prediction_scores,
    reconstruction,
    reproduced,
)
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.published.brainlm import BrainLM, BrainLMConfig
from brainlm_lightning.report.published import reproduction_table

SMALL = {"patch_frames": 10, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1}


@pytest.fixture
def one(tiny_store):
    """An imported model with random weights, and its cohort: 24 subjects, 16 parcels, windows of 20 of 60 frames."""
    store = Store(tiny_store)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BrainLM(Geometry(torch.tensor(store.atlas.xyz_mm), 20), BrainLMConfig(**SMALL)).eval()
    about = {
        "model": describe_model(net),
        "parcels": describe_parcels(store.atlas),
        "tr_s": store.tr_s,
        "window_frames": 20,
        "scaling": {"recipe": "robust", "statistics": store.statistics.to_json()},
        "subjects": {"train": [], "val": []},
    }
    return EmbeddingModel(net, about), store


def test_the_future_is_scored_on_the_last_patch_of_every_window(one):
    model, store = one
    truth, found = [], []
    for row in (1, 5):
        median, iqr = store.statistics.robust.centre, store.statistics.robust.scale
        scaled = ((store.raw(row) - median) / iqr).astype(np.float32)
        for first in (0, 20, 40):
            window = torch.tensor(scaled[first : first + 20].T[None])
            hidden = torch.zeros(1, 16, 2, dtype=torch.bool)
            hidden[:, :, 1] = True
            with torch.no_grad():
                out = model.model(window, hidden, torch.ones(1, 16, dtype=torch.bool)).prediction_BPT
            truth.append(window[0, :, 10:].flatten())
            found.append(out[0, :, 10:].flatten())
    scores = reconstruction(model, store, [1, 5], "future", 0.5)
    assert scores["r2_pooled"] == pytest.approx(r2_score(np.concatenate(truth), np.concatenate(found)), abs=1e-4)
    assert scores["r2_pooled_low"] <= scores["r2_pooled"] <= scores["r2_pooled_high"]


@pytest.mark.parametrize("kind", ["number", "class"])
def test_a_prediction_is_that_of_folds_by_subject(kind):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    subjects = np.repeat([f"s{number}" for number in range(30)], 2)
    y = 10 * features[:, 0] + rng.normal(size=60) + 40
    labels = np.where(y > np.quantile(y, 0.7), "F", "M") if kind == "class" else y
    found = prediction_scores(features, pd.DataFrame({"subject_id": subjects, "y": labels}), "y", 5)
    target = labels if kind == "class" else (y - y.mean()) / y.std()
    machine = make_pipeline(StandardScaler(), SVC(class_weight="balanced") if kind == "class" else SVR())
    predicted = cross_val_predict(machine, features, target, cv=GroupKFold(5), groups=subjects)
    expected = (
        {"balanced_accuracy": balanced_accuracy_score(target, predicted)}
        if kind == "class"
        else {"mse_scaled": np.mean((target - predicted) ** 2)}
    )
    for name, value in expected.items():
        assert found[name] == pytest.approx(value)
        assert found[f"{name}_low"] < value < found[f"{name}_high"]


def test_everything_is_printed_beside_what_was_published(one):
    model, store = one
    numbers = reproduced(model, store, ReproductionPlan(ratios=(0.2,), futures=(0.5,), targets=("age", "sex"), folds=3))
    rows = {row[0]: row[1:] for row in reproduction_table("brainlm", store.name, numbers).rows}
    assert rows["20 % hidden: R²"][1:] == [
        "0.402 (UKB), 0.316 (HCP)",
        "0.134 (HCP, old_13M, gain 7, whole recordings)",
    ]
    assert rows["20 % hidden: R²"][0].startswith(f"{numbers['reconstruction/hidden0.2/r2_pooled']:.3f} [")
    assert rows["age from cls: MSE, scaled"][1] == "0.857 ± 0.114 (UKB, SVM on CLS), 0.485 ± 0.025 (fine-tuned)"
    assert rows["sex from cls: balanced accuracy"][2].startswith("0.76 (HCP")
    assert set(rows) >= {"last 50 % of a window: R²", "age from connectivity: MSE, scaled"}


def test_a_model_of_many_parcels_a_token_is_measured_on_the_future_alone(one, monkeypatch):
    monkeypatch.setattr(BrainLM, "has_parcels", False)
    numbers = reproduced(*one, ReproductionPlan(futures=(0.5,)))
    assert {name.split("/")[0] for name in numbers} == {"future"}


def test_people_that_the_model_was_trained_on_are_not_tested(one):
    model, store = one
    tested = store.recordings["subject_id"][store.recordings["split"] == "test"].iloc[0]
    seen = EmbeddingModel(model.model, {**model.about, "subjects": {"train": [subject_digest(tested)], "val": []}})
    with pytest.raises(ValueError, match=r"1 of \d+ test recordings are of subjects that the model was trained on"):
        reproduced(seen, store, ReproductionPlan())


def test_a_target_that_is_not_there_is_named(one):
    with pytest.raises(ValueError, match="no column 'iq'; it has recording_id"):
        reproduced(*one, ReproductionPlan(ratios=(), futures=(), targets=("iq",)))
    with pytest.raises(ValueError, match="'age' is known of 24 subjects; 20 folds need 40 or more"):
        reproduced(*one, ReproductionPlan(ratios=(), futures=(), targets=("age",), folds=20))
