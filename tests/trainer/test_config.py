"""Flags, environment and defaults of a run."""

from dataclasses import replace

import pytest

from trainer.config import PRESETS, TrainingConfig, check_job, parse_flags, read_config, read_job
from trainer.errors import ConfigError


def config(*argv, **environ):
    return read_config(parse_flags(argv), environ)


def test_flag_beats_environment_beats_default():
    assert config().batch_size == PRESETS["quick"].batch_size
    assert config(PUSHTRAIN_PARAM_BATCH_SIZE="64").batch_size == 64
    assert config("--batch-size", "32", PUSHTRAIN_PARAM_BATCH_SIZE="64").batch_size == 32


def test_every_kind_of_value_is_read():
    read = config(
        PUSHTRAIN_PARAM_EPOCHS="3",
        PUSHTRAIN_PARAM_LEARNING_RATE="0.05",
        PUSHTRAIN_PARAM_MIRROR="true",
        PUSHTRAIN_PARAM_WIDTHS="8,16",
        PUSHTRAIN_PARAM_RESIDUAL="0,1",
        PUSHTRAIN_PARAM_DEVICE="cpu",
    )

    assert (read.epochs, read.learning_rate, read.mirror) == (3, 0.05, True)
    assert (read.widths, read.residual, read.device) == ((8, 16), (0, 1), "cpu")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EPOCHS", "0", "epochs must be at least 1, got 0"),
        ("EPOCHS", "many", "epochs must be a whole number, got 'many'"),
        ("EPOCHS", "", "epochs must be a whole number, got ''"),
        ("BATCH_SIZE", "0", "batch_size must be at least 1, got 0"),
        ("FILTER_RATE", "-1", "filter_rate must be above 0 and at most 10, got -1.0"),
        ("LEARNING_RATE", "0", "learning_rate must be above 0 and at most 10, got 0.0"),
        ("LEARNING_RATE", "nan", "learning_rate must be above 0 and at most 10, got nan"),
        ("LEARNING_RATE", "fast", "learning_rate must be a number, got 'fast'"),
        ("NORM_RATE", "0", "norm_rate must be above 0 and at most 10, got 0.0"),
        ("WEIGHT_DECAY", "-1", "weight_decay must be at least 0 and below 1, got -1.0"),
        ("LABEL_SMOOTHING", "1", "label_smoothing must be at least 0 and below 1, got 1.0"),
        ("SEED", "-1", r"seed must be at least 0 and below 2\*\*63, got -1"),
        ("MIRROR", "maybe", "mirror must be true or false, got 'maybe'"),
        ("EPOCS", "3", "parameter must be one of preset, .*, got epocs"),
        ("PRESET", "fast", "preset must be one of quick, standard, best, got fast"),
        ("WARM_START", "yes", "warm_start must be none or champion, got yes"),
        ("LEAST_STEPS", "-1", "least_steps must be at least 0, got -1"),
        ("PATCH", "3", "patch must be 2 or 4, got 3"),
        ("WHITENING", "0", "whitening must be at least 1, got 0"),
        ("WIDTHS", "64,x,1", "widths must be whole numbers with commas between, got '64,x,1'"),
        ("WIDTHS", "64,0,1", "widths must be numbers of at least 1, got 64,0,1"),
        ("RESIDUAL", "0,-1,0", "residual must be numbers of at least 0, got 0,-1,0"),
        ("RESIDUAL", "1,1", "residual must be as many as widths, got 1,1"),
        ("DEVICE", "tpu", "device must be auto, cpu or cuda, got tpu"),
        ("CHECKPOINT_SECONDS", "0", "checkpoint_seconds must be at least 1, got 0"),
    ],
)
def test_bad_parameter_is_refused(name, value, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        config(**{f"PUSHTRAIN_PARAM_{name}": value})


def test_faults_are_told_together():
    with pytest.raises(ConfigError, match=r"epochs must .*; batch_size must "):
        TrainingConfig(epochs=0, batch_size=0)


def test_unknown_flag_is_refused():
    with pytest.raises(ConfigError, match="unrecognized arguments: --epocs"):
        parse_flags(["--epocs", "3"])


@pytest.mark.parametrize("name", PRESETS)
def test_preset_gives_its_values_and_a_given_one_beats_them(name):
    assert config("--preset", name) == PRESETS[name]
    assert PRESETS[name].preset == name

    other = config("--preset", name, PUSHTRAIN_PARAM_LEARNING_RATE="0.125")
    assert other == replace(PRESETS[name], learning_rate=0.125)


def test_quick_is_the_preset_unless_another_is_asked_for():
    assert config() == PRESETS["quick"]
    assert config(PUSHTRAIN_PARAM_PRESET="best") == PRESETS["best"]


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(50_000, 2), (1437, 30), (24, 60), (500 * 18, 4)],
)
def test_small_set_gets_the_steps_it_needs(images, epochs):
    preset = replace(PRESETS["quick"], epochs=2, least_steps=60, batch_size=500)

    assert preset.resolve(images, colour=False).epochs == epochs


def test_asked_epochs_are_kept_whatever_the_size():
    assert config("--epochs", "2").resolve(24, colour=False).epochs == 2


def test_batch_is_no_larger_than_the_set():
    assert TrainingConfig().resolve(24, colour=False).batch_size == 24


@pytest.mark.parametrize(("epochs", "shifted"), [(5, False), (6, True)])
def test_only_a_long_run_shifts_unless_told_otherwise(epochs, shifted):
    assert TrainingConfig(epochs=epochs).resolve(24, colour=True).shift is shifted
    assert TrainingConfig(epochs=epochs, shift=not shifted).resolve(24, colour=True).shift is (
        not shifted
    )


@pytest.mark.parametrize("colour", [False, True])
def test_only_images_in_colour_are_mirrored_unless_told_otherwise(colour):
    assert PRESETS["quick"].resolve(24, colour=colour).mirror is False
    for name in ("standard", "best"):
        assert PRESETS[name].resolve(24, colour=colour).mirror is colour
        told = replace(PRESETS[name], mirror=not colour)
        assert told.resolve(24, colour=colour).mirror is (not colour)


def test_job_is_read_from_the_environment():
    job = read_job(
        parse_flags([]),
        {
            "PUSHTRAIN_RUN": "0123456789ab",
            "PUSHTRAIN_ATTEMPT": "2",
            "PUSHTRAIN_IMAGE_DIGEST": "sha256:ff",
            "PUSHTRAIN_IMAGE_TAG": "c-1",
            "PUSHTRAIN_BUCKET": "bucket",
            "PUSHTRAIN_RUN_PREFIX": "runs/0123456789ab/",
            "PUSHTRAIN_CHECKPOINT_PREFIX": "checkpoints/0123456789ab/",
            "PUSHTRAIN_CHAMPION_KEY": "models/champion.json",
            "PUSHTRAIN_METRICS": "dev",
            "PUSHTRAIN_DATA_KEY": "data/dataset",
            "PUSHTRAIN_DATA_VERSION": "v1",
        },
    )

    check_job(job)
    assert str(job) == "run 0123456789ab attempt 2: image sha256:ff, tag c-1"
    assert (job.bucket, job.run_prefix) == ("bucket", "runs/0123456789ab/")
    assert job.checkpoint_prefix == "checkpoints/0123456789ab/"
    assert job.champion_key == "models/champion.json"
    assert job.metrics == "dev"
    assert (job.data_key, job.data_version) == ("data/dataset", "v1")


@pytest.mark.parametrize(
    ("argv", "missing"), [([], "data"), (["--data", "x"], "out"), (["--out", "x"], "data")]
)
def test_job_without_data_or_place_is_refused(argv, missing):
    with pytest.raises(ConfigError, match=f"^{missing} must be given: "):
        check_job(read_job(parse_flags(argv), {}))


@pytest.mark.parametrize("attempt", ["0", "first", "-1"])
def test_bad_attempt_is_refused(attempt):
    with pytest.raises(ConfigError, match="PUSHTRAIN_ATTEMPT must be a whole number from 1"):
        read_job(parse_flags([]), {"PUSHTRAIN_ATTEMPT": attempt})
