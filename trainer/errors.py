"""What the user can put right: one line on stderr, no traceback."""


class TrainerError(Exception):
    """The base: whoever catches it prints the one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(TrainerError):
    """A parameter or flag that cannot be used; a retry would meet it again."""

    exit_code = 2


class DataError(TrainerError):
    """A data set, image or model file that is not what it must be."""


class StorageError(TrainerError):
    """A place that cannot be read or written."""


class AbsentError(StorageError):
    """A place that can be read, and holds no such object."""
