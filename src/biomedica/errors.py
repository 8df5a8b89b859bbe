"""The exceptions that biomedica raises on purpose; anything else that escapes is a bug.

Bad data never raises: it becomes a `Reject` (see `records`). These are for what stops a command: a
wrong setting, a source that cannot be reached, a disk that is full, an archive that is not whole.
"""


class BiomedicaError(Exception):
    """Base of all of them. The message says what was found, where, and what would do."""


class ConfigError(BiomedicaError):
    """A setting, a command-line word or a combination of them that can't be meant."""


class SourceError(BiomedicaError):
    """The place that articles come from cannot be used at all (one missing object is a `Reject`)."""


class ArchiveError(BiomedicaError):
    """The archive's folder cannot be written, is in use, or does not hold what it says."""


class TaskError(BiomedicaError):
    """A task could not be finished, whatever was left out of it; its traceback is in the message."""


class EvaluationError(BiomedicaError):
    """A task's data, or what a model makes of it, can't be scored; the message names task, item and file."""


class DataMissingError(EvaluationError):
    """A task's data is not on this machine; the message says where it comes from and under what terms."""
