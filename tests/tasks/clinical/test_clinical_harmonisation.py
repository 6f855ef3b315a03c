import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.tasks.clinical.fold_learning import FoldLearning
from brainlm_lightning.tasks.clinical.folds import Fold
from brainlm_lightning.tasks.clinical.harmonisation import Sited, check_sites
from brainlm_lightning.tasks.clinical.pipelines import pipeline, scores

# 14 recordings of three sites and 5 features; what `neuroCombat` 0.2.12 makes of them (Fortin's own code, here on numpy
# 2.4.6 with `it_sol` run to a change of 1e-13):
# neuroCombat(dat=GIVEN.T, covars=…, batch_col="site", continuous_cols=["age"], categorical_cols=["sex"])["data"].T
SITE = np.array(list("aaaaabbbbcccca"))
SEX = list("FMFMFMFMFMFMFM")
AGE = [22.7, 15.4, 10.8, 10.3, 26.3, 28.3, 22.1, 24.6, 20.9, 28.7, 26.3, 10.1, 27.1, 10.7]
GIVEN = np.array(
    [
        [-1.25, 0.4, 1.73, 3.09, 4.95], [1.04, 0.64, 2.91, 1.64, 3.43], [0.9, 0.63, 0.34, 0.7, 1.7],
        [0.22, -0.49, 0.82, 1.39, 2.6], [0.21, 1.67, 1.98, 3.82, 6.04], [2.99, 1.66, 5.84, 7.09, 7.94],
        [1.76, 2.29, 5.17, 6.78, 7.72], [2.82, 3.09, 2.75, 5.19, 7.08], [0.21, 2.94, 4.02, 5.33, 4.5],
        [-0.66, 1.0, 1.7, 6.04, 5.24], [0.33, 1.06, 4.21, 5.27, 5.89], [-2.2, 0.56, 1.69, 2.52, 1.4],
        [1.82, 0.03, 2.05, 5.0, 5.47], [2.0, 0.72, 0.44, 1.23, 1.05],
    ]
)  # fmt: skip
HARMONISED = np.array(
    [
        [-1.26051833, 0.855226355, 2.608249902, 4.231639445, 5.257921964],
        [1.165350194, 1.128755933, 3.992979312, 2.745040932, 3.792388979],
        [1.067283233, 1.113195583, 1.152163375, 1.770666817, 1.973886713],
        [0.311872698, -0.061422031, 1.711516849, 2.608460892, 3.027141841],
        [0.278610856, 2.19545035, 2.859627565, 4.984405895, 6.373273705],
        [1.540239295, 0.662298097, 3.784002808, 5.613463462, 6.633151289],
        [0.383345301, 1.139718937, 3.242972822, 5.052887084, 6.000933182],
        [1.361635738, 1.694904717, 1.466663717, 4.160572966, 5.748985161],
        [-0.8419611, 1.611714629, 2.383701692, 4.040126013, 3.715362457],
        [0.404685316, 1.476021939, 2.129628201, 5.91099356, 5.910377381],
        [1.186905238, 1.536488041, 4.515765812, 5.123105935, 6.632629556],
        [-1.074650095, 1.036388869, 2.058238036, 2.373324963, 2.122480776],
        [2.497297128, 0.513439563, 2.467434124, 4.834350798, 6.175036223],
        [2.202555254, 1.219165855, 1.287150508, 2.406199988, 1.244401605],
    ]
)


def sited(values, site=SITE, **kept):
    return Sited(np.asarray(values), np.asarray(site), pd.DataFrame(kept, index=range(len(values))))


def combat(of):
    """The step of the pipeline, as it is fitted in a fold."""
    learning = FoldLearning(np.arange(9), np.arange(9.0), np.arange(9), 0, 0, lambda *_: None, lambda _: {})
    return pipeline("harmonised_connectivity", "linear", learning)[0].fit(of)


def test_it_is_what_the_reference_implementation_makes_of_the_same_data():
    given = sited(GIVEN, age=AGE, sex=SEX)
    assert combat(given).transform(given) == pytest.approx(HARMONISED, abs=1e-6)


GENERATOR = np.random.default_rng(0)
SITES = np.repeat(["a", "b", "c"], 200)
AGES = GENERATOR.uniform(10, 40, 600) + 8 * (SITES == "b")  # another age at one site
SLOPES = GENERATOR.normal(0, 0.1, 30)
SHIFT = {"a": -2.0, "b": 0.5, "c": 3.0}
SPREAD = {"a": 0.5, "b": 1.0, "c": 2.0}


def planted():
    """Features of three sites with a shift and a spread each, and an effect of age that is the same everywhere."""
    noise = GENERATOR.standard_normal((600, 30)) * np.array([SPREAD[site] for site in SITES])[:, None]
    return noise + np.array([SHIFT[site] for site in SITES])[:, None] + np.outer(AGES, SLOPES)


def test_planted_shifts_and_spreads_go_and_a_planted_effect_of_age_stays():
    values = planted()
    given = sited(values, SITES, age=AGES)
    found = combat(given).transform(given)
    about = found - np.outer(AGES, SLOPES)
    means, spreads = (np.array([of(about[site == SITES]) for site in "abc"]) for of in (np.mean, np.std))
    assert np.ptp(means) < 0.05
    assert np.ptp(spreads) < 0.05
    slopes = np.polynomial.polynomial.polyfit(AGES, found, 1)[1]
    assert slopes == pytest.approx(SLOPES, abs=0.03)
    assert np.ptp([about[site == SITES].mean(0).std() for site in "abc"]) < 0.1


def test_without_the_covariate_its_effect_goes_with_the_sites():
    """What harmonisation costs where sites differ in what is to be predicted: `b` is older by eight years."""
    given = sited(np.outer(AGES, np.ones(30)) + GENERATOR.standard_normal((600, 30)), SITES)
    found = combat(given).transform(given)
    assert np.ptp([found[site == SITES].mean() for site in "abc"]) < 0.1
    assert np.ptp([given.values_nF[site == SITES].mean() for site in "abc"]) > 7


def test_the_estimates_are_the_training_recordings_alone_and_each_is_transformed_by_itself():
    """Poison test recordings: nothing that was fitted moves, nor what is made of the other test recordings."""
    values, labels = planted(), GENERATOR.standard_normal(600)
    train, test = np.arange(0, 600, 2), np.arange(1, 600, 2)
    learning = FoldLearning(train, labels[train], train, 0, 0, lambda *_: None, lambda _: {})
    wild = values.copy()
    wild[test[0]] = 1e6
    found = []
    for given in (values, wild):
        parts = [sited(given[rows], SITES[rows], age=AGES[rows]) for rows in (train, test)]
        fitted = pipeline("harmonised_connectivity", "linear", learning).fit(parts[0], labels[train])
        found.append((fitted[0], scores(fitted, parts[1], 0)))
    for name in ("mean_F_", "scale_F_", "effect_KF_", "shift_SF_", "spread_SF_"):
        assert np.array_equal(getattr(found[0][0], name), getattr(found[1][0], name))
    assert np.array_equal(found[0][1][1:], found[1][1][1:])
    alone = sited(values[test[5:6]], SITES[test[5:6]], age=AGES[test[5:6]])
    together = found[0][0].transform(parts[1])
    assert found[0][0].transform(alone)[0] == pytest.approx(together[5], abs=1e-12)


def test_one_test_recording_of_a_class_is_encoded_as_in_training():
    """A test set of one sex is not taken for the first one."""
    kept = {"sex": np.where(np.arange(600) % 3 == 0, "F", "M")}
    values = planted() + 5 * (kept["sex"] == "M")[:, None]
    fitted = combat(sited(values, SITES, **kept))
    men = kept["sex"] == "M"
    whole = fitted.transform(sited(values, SITES, **kept))[men]
    alone = fitted.transform(sited(values[men], SITES[men], sex=kept["sex"][men]))
    assert alone == pytest.approx(whole, abs=1e-12)


def test_features_that_do_not_vary_within_sites_stay_and_move_no_others():
    values = planted()
    still = np.column_stack([values, np.zeros(600), SITES == "b"])
    found = combat(sited(still, SITES, age=AGES)).transform(sited(still, SITES, age=AGES))
    assert np.array_equal(found[:, 30:], still[:, 30:])
    expected = combat(sited(values, SITES, age=AGES)).transform(sited(values, SITES, age=AGES))
    assert found[:, :30] == pytest.approx(expected, abs=1e-9)


def test_a_site_that_did_not_train_is_one_error():
    fitted = combat(sited(planted(), SITES))
    with pytest.raises(ValueError, match=r"site 'd' has no training recording in the fold where it tests"):
        fitted.transform(sited(planted()[:1], ["d"]))
    with pytest.raises(ValueError, match=r"site 'd' has 1 training recording"):
        combat(sited(planted(), np.where(np.arange(600) == 0, "d", SITES)))


def test_a_covariate_that_follows_from_the_site_is_one_error():
    with pytest.raises(ValueError, match=r"the effect of field and age cannot be told from the sites'"):
        combat(sited(planted(), SITES, field=np.where(SITES == "a", 3.0, 1.5), age=AGES))


TABLE = pd.DataFrame({"site": ["a", "a", "a", "b", "b", "c", "c", None]})


@pytest.mark.parametrize(
    ("train", "test", "column", "message"),
    [
        ([0, 1, 3, 4], [5, 6], "site", "site 'c' has no training recording"),
        ([0, 1, 3], [2, 4], "site", "site 'b' has 1 training recording in a fold"),
        ([0, 1, 3, 4, 7], [2], "site", "'site' is empty for some recordings"),
        ([0, 1], [2], "scanner", "baseline_plan.site names 'scanner'"),
    ],
)
def test_what_cannot_be_harmonised_is_one_error_before_any_work(train, test, column, message):
    fold = Fold(0, "0", np.array(train[:-1]), np.array(train[-1:]), np.array(test))
    with pytest.raises(ValueError, match=message):
        check_sites(TABLE, column, [fold], paired=False)


def test_paired_features_are_not_harmonised():
    with pytest.raises(ValueError, match="told apart within subjects"):
        check_sites(TABLE, "site", [], paired=True)
