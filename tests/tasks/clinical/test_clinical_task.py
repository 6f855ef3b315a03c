from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.split import assign_split
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.embedding.definitions import named_embeddings
from brainlm_lightning.embedding.recordings import embed_recordings
from brainlm_lightning.model.low_rank import ORIGINAL, WEIGHT, LowRank
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.tied import TiedAutoencoder, TiedConfig
from brainlm_lightning.model.vae import VAEConfig, VariationalAutoencoder
from brainlm_lightning.tasks.clinical.embedding import embed, hidden_parts
from brainlm_lightning.tasks.clinical.features import BaselinePlan, RecordingFeatures
from brainlm_lightning.tasks.clinical.folds import FoldPlan
from brainlm_lightning.tasks.clinical.labels import Target
from brainlm_lightning.tasks.clinical.methods import SklearnMethod, default_baselines
from brainlm_lightning.tasks.clinical.net import HeadPlan
from brainlm_lightning.tasks.clinical.task import ClinicalTask
from brainlm_lightning.tasks.optimisation import OptimisationPlan

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")  # a frozen encoder
SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)
AGE, HALVES = Target("age"), FoldPlan(number=2, test_on="all")
FEW = ("mean", "raw_linear", "connectivity_linear", "embedding_linear")
SIMULATION = {"subjects": 90, "frames": 160, "phenotype_r": 0.97, "strength_sd": 0.5}
SPLIT = {"key": "brainlm", "val": 0.2, "test": 0.3}
OLDEST = next(name for name in (f"tiny-{i:05d}" for i in range(90)) if assign_split(name, **SPLIT) == "test")


def trainer(steps=1):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **quiet,
    )


def cohort(**options):
    return CohortDataModule("tiny", **{"window_frames": 40, "global_batch_size": 8, "num_workers": 0} | options)


def plant(series, table):
    """Makes one subject the oldest of all, and symptoms the mean of the signal."""
    table.loc[table["subject"] == OLDEST, "age"] = table["age"].max() + 1
    table["symptoms"] = np.random.default_rng(0).standard_normal(len(table))
    for name, level in zip(table["recording"], table["symptoms"], strict=True):
        series[name] = series[name] + np.float32(level)


@pytest.fixture(scope="module")
def store(make_tiny_store, tmp_path_factory):
    """A cohort whose age depends on connectivity, nearly without noise, and symptoms on the signal's level."""
    root = tmp_path_factory.mktemp("stores")
    make_tiny_store(root, "--split.test=0.3", alter=plant, **SIMULATION)
    return root


@pytest.fixture(scope="module")
def pretrained(store, tmp_path_factory):
    """A checkpoint of a model that knows the cohort's training subjects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(store))
        data = cohort()
        data.setup("test")
        net, _ = start_model(lambda geometry: MaskedAutoencoder(geometry, SMALL), data, "kernel", 0)
        path = tmp_path_factory.mktemp("pretrained") / "model.ckpt"
        weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": weights, KEY: describe(net, data, "kernel")}, path)
    return str(path)


@pytest.fixture(autouse=True)
def in_place(store, monkeypatch):
    """The cohort in place."""
    monkeypatch.setenv("BRAINLM_DATA", str(store))


def run_test(pretrained, folder, target=AGE, plan=HALVES):
    """A test of the baselines alone."""
    few = {name: method for name, method in default_baselines(confounds=False).items() if name in FEW}
    task = ClinicalTask(pretrained, target, plan, parts=2, baselines=few, default_baselines=False)
    task.experiment_folder = folder / "clinical"
    running = trainer()
    running._default_root_dir = str(folder)
    running.test(task, datamodule=cohort(), verbose=False)
    return task


def fitted(pretrained, folder, steps=1, method="frozen", target=AGE, **options):
    """A task after so many steps of training."""
    options = {"head": HeadPlan(hidden=8), "parts": 2} | options
    task = ClinicalTask(pretrained, target, FoldPlan(number=2), method, **options)
    running = trainer(steps)
    running._default_root_dir = str(folder)
    torch.manual_seed(0)  # of dropout
    running.fit(task, datamodule=cohort())
    return task


def test_a_planted_dependence_is_found_and_none_where_there_is_none(pretrained, tmp_path):
    planted = run_test(pretrained, tmp_path).results
    none = run_test(pretrained, tmp_path, Target("noise_score")).results
    assert planted["test/tiny/age/connectivity_linear/pearson_r_low"] > 0.3
    nothing = "test/tiny/noise_score/connectivity_linear/pearson_r"
    assert none[f"{nothing}_low"] < 0 < none[f"{nothing}_high"]
    assert planted["test/tiny/age/connectivity_linear_minus_mean/p_corrected"] < 0.05
    assert planted["test/tiny/age/num_tested_seen_in_pretraining"] == 53 + 11  # who trained and validated


OTHERS = {
    "tied": lambda geometry: TiedAutoencoder(geometry, TiedConfig(10, 40, 1, 2)),
    "vae": lambda geometry: VariationalAutoencoder(geometry, VAEConfig(10, 16, 4)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_embeddings_of_every_masked_model_are_tested_and_only_the_papers_is_trained(kind, store, tmp_path):
    data = cohort()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy, accumulate_grad_batches=1)
    data.setup("test")
    net, _ = start_model(OTHERS[kind], data, None, 0)
    weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weights, KEY: describe(net, data, None)}, path)
    baselines = {name: SklearnMethod(name, "linear") for name in ("embedding", "untrained_embedding")}
    task = ClinicalTask(str(path), AGE, HALVES, parts=2, baselines=baselines, default_baselines=False)
    task.experiment_folder = tmp_path / "clinical"
    running = trainer()
    running._default_root_dir = str(tmp_path)
    running.test(task, datamodule=cohort(), verbose=False)
    both = [task.results[f"test/tiny/age/{name}/pearson_r"] for name in baselines]
    # No step has been made, so the control is the same model.
    assert both[0] == pytest.approx(both[1], abs=1e-6)
    # What is fed to the methods: CLS beside the mean over observed tokens, window by window.
    features = embed(net, data, np.array([0, 3]), 2)
    known = named_embeddings(list(data.atlas.networks), "none")
    expected = embed_recordings(net, data, np.array([0, 3]), {name: known[name] for name in ("cls", "mean")}, 2)
    for name, value in expected.items():
        assert features[name] == pytest.approx(value, abs=1e-5)
    with pytest.raises(ValueError, match="networks are trained on the encoder of a MaskedAutoencoder; run test"):
        fitted(str(path), tmp_path)


def test_classes_are_found_and_saved_by_subject(pretrained, tmp_path):
    task = run_test(pretrained, tmp_path, Target("sex", "classes"))
    assert task.results["test/tiny/sex/connectivity_linear/auc_low"] > 0.5
    assert task.results["test/tiny/sex/mean/auc"] == 0.5
    table = task.tables["predictions"]
    one = table[table["method"] == "connectivity_linear"]
    assert sorted(one["subject"]) == [f"tiny-{number:05d}" for number in range(90)]
    assert set(one["predicted"]) == {"F", "M"}
    assert np.allclose(one["score_F"] + one["score_M"], 1)


@pytest.fixture(scope="module")
def poisoned_store(make_tiny_store, tmp_path_factory):
    """The same cohort, with one subject's age and series made nonsense."""

    def poison(series, table):
        plant(series, table)
        table.loc[table["subject"] == OLDEST, "age"] = 1e6  # still the oldest: the folds stay as they were
        series[f"{OLDEST}_rest"] = series[f"{OLDEST}_rest"][::-1] ** 3

    root = tmp_path_factory.mktemp("poisoned")
    make_tiny_store(root, "--split.test=0.3", alter=poison, **SIMULATION)
    return root


def test_nothing_of_a_test_subject_moves_what_is_said_of_others(pretrained, tmp_path, poisoned_store, monkeypatch):
    clean = run_test(pretrained, tmp_path / "clean")
    monkeypatch.setenv("BRAINLM_DATA", str(poisoned_store))
    poisoned = run_test(pretrained, tmp_path / "poisoned")
    tables = [task.tables["predictions"].set_index(["method", "subject"]) for task in (clean, poisoned)]
    fold = int(tables[0].loc[("mean", OLDEST), "fold"])
    assert clean.question.scale(clean.question.folds[fold]) == poisoned.question.scale(poisoned.question.folds[fold])
    others = [table[(table["fold"] == fold) & (table.index.get_level_values("subject") != OLDEST)] for table in tables]
    assert others[0].equals(others[1])
    elsewhere = [table[table["fold"] != fold] for table in tables]
    assert not np.allclose(elsewhere[0]["predicted"], elsewhere[1]["predicted"])  # there it trains


@pytest.mark.parametrize("method", ["frozen", "untrained_tuned"])
def test_nothing_of_a_test_subject_moves_a_weight(method, pretrained, tmp_path, poisoned_store, monkeypatch):
    trained = {}
    for fold in (0, 1):
        before = fitted(pretrained, tmp_path / "clean", 2, method, fold=fold)
        with monkeypatch.context() as patch:
            patch.setenv("BRAINLM_DATA", str(poisoned_store))
            after = fitted(pretrained, tmp_path / "poisoned", 2, method, fold=fold)
        states = [task.predictor.state_dict() for task in (before, after)]
        tests = before.datamodule.recordings.table["subject_id"].iloc[before.question.folds[fold].test]
        trained[OLDEST in set(tests)] = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert trained == {True: True, False: False}


@torch.no_grad()
def said_of(task, rows):
    """What a fitted network says of recordings' first windows, and the truth."""
    batch = scale_on_device(next(iter(task.datamodule.evaluation_loader(rows))))
    task.predictor.eval()
    hidden_BPN = torch.zeros(len(batch["key_B"]), 16, 4, dtype=torch.bool)
    said_B = task.predictor(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])[:, 0]
    return said_B.numpy(), task.label_R[batch["recording_index_B"]].numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_a_tuned_network_finds_in_unseen_subjects_what_is_planted(pooling, pretrained, tmp_path):
    options = {"head": HeadPlan(pooling, 0.1, 16), "parts": 1, "optimisation": OptimisationPlan(learning_rate=3e-4)}
    task = fitted(pretrained, tmp_path, 250, "tuned", Target("symptoms"), **options)
    said, truth = said_of(task, task.question.folds[0].test)
    assert np.corrcoef(said, truth)[0, 1] > 0.5


@pytest.mark.parametrize(
    "method", ["frozen", "tuned", "tuned_qkv", "tuned_lora", "untrained_frozen", "untrained_tuned"]
)
def test_training_changes_what_the_method_says(method, pretrained, tmp_path):
    before = fitted(pretrained, tmp_path, 0, method).predictor.state_dict()
    after = fitted(pretrained, tmp_path, 3, method).predictor.state_dict()
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    encoder = {"patch_projection", "position", "cls_D", "encoder"}
    attention = {"encoder"}
    tuned = {"frozen": set(), "tuned_lora": attention, "tuned_qkv": attention, "tuned": encoder}
    assert changed == {"layers"} | tuned[method.removeprefix("untrained_")]


def test_with_adapters_no_weight_of_the_encoder_changes(pretrained, tmp_path):
    """Bit for bit, and every adapter does; with its rate of decay, too."""
    task = fitted(pretrained, tmp_path, 3, "tuned_lora", low_rank=LowRank(rank=3))
    after, before = task.predictor.net.state_dict(), task.question.pretrained.model.state_dict()
    own = {name.replace(f"{WEIGHT}{ORIGINAL}", ".weight"): value for name, value in after.items()}
    assert all(torch.equal(own.pop(name), value) for name, value in before.items())
    assert len(own) == 2 * 3  # of one block: up, down and gain for qkv, and for the output
    assert all(value.abs().max() > 0 for value in own.values())
    assert all(torch.equal(value, torch.tensor(16 / 3)) for name, value in own.items() if name.endswith("gain"))


def test_a_heads_features_are_standardised_by_training_subjects_alone(pretrained, tmp_path):
    task = fitted(pretrained, tmp_path, 1)
    here = task.question.folds[0]
    of = task.feature_RD[torch.from_numpy(here.train)]
    assert torch.allclose(task.predictor.head.mean_D, of.mean(0))
    assert torch.allclose(task.predictor.head.std_D, of.std(0).clamp(min=1e-6))
    assert set(here.test) & set(np.concatenate([task.datamodule.train_rows, task.datamodule.val_rows])) == set()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_tuned_heads_features_are_standardised_over_single_parts_of_windows(pooling, pretrained, tmp_path):
    """As it is fed them: over every part of every window of the training recordings, not over their means."""
    task = fitted(pretrained, tmp_path, 0, "tuned", parts=2, head=HeadPlan(pooling, hidden=8))
    net, fed = task.question.encoder(False, task.question.folds[0]).eval(), []
    for batch in task.datamodule.evaluation_loader(task.question.folds[0].train):
        batch = scale_on_device(batch)
        for hidden_BPN in hidden_parts(batch, 4, 2):
            encoding = net.encode(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])
            fed.append(encoding.cls_BD if pooling == "cls" else encoding.tokens_BVD.mean(1))
    fed = torch.cat(fed).detach()
    assert torch.allclose(task.predictor.head.mean_D, fed.mean(0), atol=1e-5)
    assert torch.allclose(task.predictor.head.std_D, fed.std(0, correction=0), rtol=1e-3)


def test_embeddings_are_a_function_of_the_recording_alone(pretrained, tmp_path):
    task = fitted(pretrained, tmp_path, 1)
    question, fold = task.question, task.question.folds[0]
    first = question.features(False, fold, 2)["cls"]
    assert len(list((tmp_path / ".cache").iterdir())) == 1
    question.data.eval_batch_size = 3
    elsewhere = replace(question, runs=tmp_path / "elsewhere")
    assert np.allclose(elsewhere.features(False, fold, 2)["cls"], first, atol=1e-5)
    assert not np.allclose(question.features(True, fold, 2)["cls"], question.features(False, fold, 1)["cls"])
    assert len(list((tmp_path / ".cache").iterdir())) == 4  # the control's weights, too


def test_the_control_starts_from_subjects_that_never_test(pretrained, tmp_path):
    task = fitted(pretrained, tmp_path, 0)
    subjects = task.datamodule.recordings.table["subject_id"]
    for fold in task.question.folds:
        assert set(subjects.iloc[task.question.start_rows(fold)]) & set(subjects.iloc[fold.test]) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": Target("iq")}, "no phenotype 'iq'"),
        ({"target": Target("sex")}, "'sex' is not a number"),
        ({"plan": FoldPlan(number=80)}, "fewer than 80 folds"),
        ({"plan": FoldPlan(number=2, leave_out="scanner")}, "names 'scanner'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_error(options, message, pretrained, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_test(pretrained, tmp_path, **options)
    assert not (tmp_path / ".cache").exists()


def test_harmonisation_keeps_the_effect_of_covariates_and_never_of_the_target(pretrained, tmp_path):
    question = fitted(pretrained, tmp_path, 0).question
    features = RecordingFeatures(question, BaselinePlan(site="symptoms", kept=("age", "sex")), 2)
    here = question.folds[0]
    given = features.of("harmonised_connectivity", here.test, here)
    people = question.data.recordings.table.iloc[here.test]
    assert given.kept.equals(people[["sex"]])
    assert given.site_n.tolist() == people["symptoms"].astype(str).tolist()
    assert np.array_equal(given.values_nF, features.of("connectivity", here.test, here))


def test_a_fold_that_is_not_there_is_one_error(pretrained, tmp_path):
    with pytest.raises(ValueError, match="fold is 2; there are 2, 0 to 1"):
        fitted(pretrained, tmp_path, fold=2)
