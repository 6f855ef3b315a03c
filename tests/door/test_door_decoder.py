"""The cross decoder and steps that decode a share of the hidden patches, through the real command line."""

import pytest
from tiny import CONFIG, door, scalars

from brainlm_lightning.checkpoint.description import check_matches
from brainlm_lightning.checkpoint.files import read_checkpoint
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.run_folder import BEST, read_metrics

SHARE = "model.init_args.masking.decoded_share"
CROSS = {f"{CONFIG}.decoder": "cross", SHARE: 0.25, "trainer.max_steps": 4}


@pytest.fixture
def crossed(runs):
    """The run folder of a fit with the cross decoder."""
    return door("fit", runs, CROSS)


def test_a_model_with_the_cross_decoder_is_trained_tested_and_loaded(crossed, runs):
    metrics = read_metrics(door("test", runs))  # the test takes the decoder over from the fit
    assert -1 < metrics["test/tiny/hidden0.75/mae/r2_pooled"] < 1  # after four steps
    assert load_model(crossed / BEST)[0].config.decoder == "cross"


def test_micro_batches_decode_the_share_that_whole_batches_do(crossed, runs):
    parts = door("fit", runs, {**CROSS, "data.micro_batch_size": 1})
    expected = scalars(crossed, "train/loss")
    assert scalars(parts, "train/loss") == {step: pytest.approx(expected[step], abs=1e-6) for step in range(4)}


def test_the_first_loss_is_that_of_all_where_hidden_patches_alone_are_decoded(runs):
    chosen = ({}, {SHARE: 1.0}, {SHARE: 0.5})
    losses = [scalars(door("fit", runs, settings), "train/loss")[0] for settings in chosen]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({SHARE: 0}, r"decoded_share is 0.0; expected a share above 0"),
        ({SHARE: 0.5, "model.init_args.masking.loss_on": "all"}, "of hidden patches, and masking.loss_on is all"),
    ],
)
def test_a_share_that_cannot_be_is_refused(settings, message, runs):
    with pytest.raises(SystemExit, match=message):
        door("fit", runs, settings)


def test_a_checkpoint_from_before_an_option_has_its_default(pretrained):
    expected, _ = read_checkpoint(pretrained)
    older = {**expected, "model": {**expected["model"], "config": dict(expected["model"]["config"])}}
    del older["model"]["config"]["decoder"]
    check_matches(older, expected)
    crossed = {
        **expected,
        "model": {**expected["model"], "config": {**expected["model"]["config"], "decoder": "cross"}},
    }
    with pytest.raises(ValueError, match=r"model config: the checkpoint has .*'joint'"):
        check_matches(older, crossed)
