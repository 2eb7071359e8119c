"""What of Lightning's a user can give a run, and what is refused because it would decide a result."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import DeviceStatsMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from benchmark.errors import UsageError
from benchmark.suite.suite import parse
from benchmark.suite.watching import for_fit, is_fitted, watching

LIGHTNING = "lightning.pytorch"


def test_text_and_yaml_mean_the_same(tmp_path: Path) -> None:
    in_suite = watching({"profiler": "simple", "log_every_n_steps": 5, "logger": True})
    typed = watching({}, {"profiler": "simple", "log_every_n_steps": "5", "logger": "true"})
    assert in_suite == typed == {"profiler": "simple", "log_every_n_steps": 5, "logger": True}
    assert watching({"log_every_n_steps": 7, "profiler": "simple"}, {"log_every_n_steps": "3"}) == {
        "log_every_n_steps": 3,
        "profiler": "simple",
    }
    _, made = for_fit(in_suite, tmp_path, "block")
    assert type(made["profiler"]) is SimpleProfiler and made["profiler"].dirpath == tmp_path / "profiles"
    assert made["log_every_n_steps"] == 5 and made["default_root_dir"] == tmp_path


def test_objects_are_named_by_their_class_and_made_anew_for_each_fit(tmp_path: Path) -> None:
    given = watching(
        {
            "logger": {"class_path": f"{LIGHTNING}.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}},
            "callbacks": [{"class_path": f"{LIGHTNING}.callbacks.DeviceStatsMonitor"}],
            "profiler": {"class_path": f"{LIGHTNING}.profilers.AdvancedProfiler"},
        }
    )
    (first, made), (second, again) = (for_fit(given, tmp_path, "block") for _ in range(2))
    assert type(first[0]) is DeviceStatsMonitor and first[0] is not second[0]
    assert type(made["logger"]) is CSVLogger and made["logger"] is not again["logger"]
    assert type(made["profiler"]) is AdvancedProfiler and made["profiler"].filename == "block"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_time": "00:00:01:00"}, "max_time ends attacks early, and their records would say that less leaks"),
        ({"max_steps": 3}, "max_steps ends attacks early"),
        ({"max_epochs": 3}, "max_epochs ends attacks early"),
        ({"fast_dev_run": True}, "fast_dev_run ends attacks early"),
        ({"overfit_batches": 3}, "overfit_batches ends attacks early"),
        ({"gradient_clip_val": 1.0}, "trainer takes no gradient_clip_val, which Leakboard sets or which would change"),
        ({"precision": 16}, "trainer takes no precision"),
        ({"accumulate_grad_batches": 2}, "trainer takes no accumulate_grad_batches"),
        ({"devices": 2}, "trainer takes no devices"),
        ({"profilr": "simple"}, "unknown argument of trainer 'profilr': did you mean profiler"),
        ({"profiler": "sample"}, "profiler must be one of simple, advanced"),
        ({"log_every_n_steps": 0}, "log_every_n_steps is 0, but must be at least 1"),
        ({"log_every_n_steps": "often"}, "log_every_n_steps must be a whole number"),
        ({"callbacks": [{"class_path": "no_such.Mine"}]}, "the class no_such.Mine cannot be imported"),
        ({"callbacks": [{"class_path": f"{LIGHTNING}.callbacks.No"}]}, "callbacks.No cannot be imported"),
        ("simple", "trainer must be a mapping such as"),
    ],
)
def test_what_would_decide_a_result_or_is_wrong_is_told_in_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        watching(given)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("EarlyStopping", {"monitor": "loss"}, "EarlyStopping ends attacks early"),
        ("Timer", {"duration": "00:00:01:00"}, "Timer ends attacks early"),
        ("GradientAccumulationScheduler", {"scheduling": {0: 2}}, "changes what is fitted"),
        ("StochasticWeightAveraging", {"swa_lrs": 0.1}, "changes what is fitted"),
        ("LearningRateFinder", {}, "changes what is fitted"),
        ("BatchSizeFinder", {}, "changes what is fitted"),
    ],
)
def test_a_callback_of_lightnings_that_changes_a_fit_is_refused(
    name: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        watching({"callbacks": [{"class_path": f"{LIGHTNING}.callbacks.{name}", "init_args": arguments}]})


def test_it_is_in_no_key() -> None:
    given: dict[str, Any] = {"scenarios": [{"data": "Digits", "model": "LeNet"}], "attacks": ["IDLG"]}
    watched, plain = parse(given | {"trainer": {"profiler": "simple"}}, "mine"), parse(given, "mine")
    assert watched.trainer == {"profiler": "simple"} and not plain.trainer
    assert [cell.id for cell in watched.cells] == [cell.id for cell in plain.cells]


def test_attacks_that_are_fitted_are_known() -> None:
    assert all(is_fitted(name) for name in ("DLG", "IDLG", "DLGFB"))
    assert not any(is_fitted(name) for name in ("RGAP", "GaussNewton", "MeanImage"))
