"""The page of perturbation."""

from brainlm_lightning.report.perturbation import PerturbationPage


def test_a_page_says_what_cls_is_worth_and_nothing_of_a_model_without_it():
    counts = ("num_parcels", "num_parcels_fdr", "num_parcels_fdr_above", *(f"num_subjects_{end}" for end in ("a", "b")))
    counts = (*counts, "num_subjects_both", "num_subjects", "num_subjects_seen")
    metrics = {f"test/c/x/{net}_theta_size/{name}": 1.0 for net in ("mae", "vae") for name in counts}
    distances = ("num_pairs", *(f"distance_{when}{side}" for when in ("before", "after") for side in ("", "_null")))
    metrics |= {f"test/c/x/{net}/{name}": 1.0 for net in ("mae", "vae") for name in distances}
    metrics |= {"test/c/x/mae/cls_swap_mse": 2.5e-7, "test/c/x/mae/token_swap_mse": 0.8}
    (table,) = PerturbationPage().tables(metrics)
    (line,) = [note for note in table.notes if "CLS" in note]
    assert "mae: the target's CLS" in line
    assert "by 2.5e-07 of the signal's variance, all other tokens by 0.8" in line
