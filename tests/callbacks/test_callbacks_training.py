import signal
from types import SimpleNamespace

import pytest
import torch

from brainlm_lightning.callbacks import throughput
from brainlm_lightning.callbacks.graceful_stop import GracefulStop
from brainlm_lightning.callbacks.run_folder import shown_settings
from brainlm_lightning.callbacks.step_seed import StepSeed
from brainlm_lightning.callbacks.throughput import Throughput


def ranks_that(decide):
    """A strategy whose ranks come to a decision."""

    def reduce_boolean_decision(asked, **how):
        return asked if how["all"] else decide(asked)  # of a signal, one that was told is enough; of weights, all count

    return SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision, barrier=lambda name: None)


def a_trainer(**facts):
    strategy = ranks_that(lambda asked: asked)
    defaults = {"accumulate_grad_batches": 1, "world_size": 1, "global_rank": 0, "global_step": 0, "strategy": strategy}
    return SimpleNamespace(**{**defaults, "datamodule": SimpleNamespace(seed=0), **facts})


@pytest.fixture
def signals_restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end_of_the_optimiser_step(signals_restored, tmp_path):
    saved, callback = [], GracefulStop()
    trainer = a_trainer(
        accumulate_grad_batches=3,
        lightning_module=torch.nn.Module(),
        log_dir=str(tmp_path),
        save_checkpoint=saved.append,
    )
    callback.on_train_start(trainer, None)
    callback.on_train_batch_end(trainer, None, None, None, 2)
    signal.raise_signal(signal.SIGTERM)
    for batch in (3, 4):
        callback.on_train_batch_end(trainer, None, None, None, batch)
    assert saved == []
    with pytest.raises(SystemExit) as ended:
        callback.on_train_batch_end(trainer, None, None, None, 5)
    assert ended.value.code == 143
    assert saved == [tmp_path / "checkpoints" / "last.ckpt"]


def test_a_rank_that_was_not_told_stops_with_the_others(signals_restored, tmp_path):
    saved, callback = [], GracefulStop()
    trainer = a_trainer(
        strategy=ranks_that(lambda asked: True),
        lightning_module=torch.nn.Module(),
        log_dir=str(tmp_path),
        save_checkpoint=saved.append,
    )
    callback.on_train_start(trainer, None)
    with pytest.raises(SystemExit):
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert len(saved) == 1


def test_throughput_counts_windows_and_waiting(monkeypatch):
    logged, clock = {}, iter([10.0, 10.5, 11.0, 12.5, 13.0, 20.0, 21.0, 22.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    module = SimpleNamespace(log=lambda name, value, rank_zero_only: logged.update({name: value}))
    callback, trainer, batch = Throughput(), a_trainer(world_size=2), {"signal_BPT": torch.zeros(6, 1, 1)}
    callback.on_train_start(trainer, module)  # 10.0: in mid-epoch no epoch starts
    for index in range(2):  # waits 0.5 and works 0.5, then waits 1.5 and works 0.5
        callback.on_train_batch_start(trainer, module, batch, index)
        callback.on_train_batch_end(trainer, module, None, batch, index)
    assert logged == {"speed/windows_per_second": 2 * 12 / 3.0, "speed/data_wait_share": 2.0 / 3.0}
    callback.on_validation_end(trainer, module)  # 20.0: seven seconds that do not count
    callback.on_train_batch_start(trainer, module, batch, 2)
    callback.on_train_batch_end(trainer, module, None, batch, 2)
    assert logged == {"speed/windows_per_second": 3 * 12 / 5.0, "speed/data_wait_share": 3.0 / 5.0}


def draws(**place):
    batch = place.pop("batch", 0)
    StepSeed().on_train_batch_start(a_trainer(**place), None, None, batch)
    return torch.rand(4)


def test_dropout_is_a_function_of_seed_step_micro_batch_and_rank():
    place = {"global_step": 7, "accumulate_grad_batches": 2, "world_size": 2, "batch": 1}
    assert torch.equal(draws(**place), draws(**place))
    elsewhere = [
        draws(
            **{
                **place,
                "global_step": step,
                "global_rank": rank,
                "batch": batch,
                "datamodule": SimpleNamespace(seed=seed),
            }
        )
        for step in (6, 7)
        for rank in (0, 1)
        for batch in (0, 1)
        for seed in (0, 1)
    ]
    assert len({tuple(drawn.tolist()) for drawn in elsewhere}) == 16


def test_settings_are_flattened_for_the_table():
    config = {
        "trainer": {"max_steps": 3},
        "model": {"class_path": "a.B", "init_args": {"masking": {"ratio": [0.2, 0.9]}, "initialisation": "kernel"}},
        "data": {"cohorts": "tiny", "micro_batch_size": None},
    }
    assert shown_settings(config) == {
        "model.masking.ratio": "[0.2, 0.9]",
        "model.initialisation": "kernel",
        "data.cohorts": "tiny",
        "data.micro_batch_size": "None",
    }
