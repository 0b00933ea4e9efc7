"""Every error that bitcodec raises on purpose.

BitcodecError
├── ShapeError(ValueError)         an array of the wrong rank, width or length
├── ValueRangeError(ValueError)    a value outside its range: NaN, infinity, a bit that is no bit
├── ConfigError(ValueError)        a parameter that is unknown or contradicts another
├── FormatError(ValueError)        a file that is truncated, foreign or newer than this version
├── MismatchError(ValueError)      an artefact made with another codec
├── FileError(OSError)             a missing input, an output that exists or cannot be written
├── ServerError(ConnectionError)   a database server that is not reached, goes away or refuses
├── NotFittedError(RuntimeError)   a codec used before `fit`
├── RemoteError(RuntimeError)      a service elsewhere that does not answer as it should
├── BudgetError(RuntimeError)      a request that could cost more than was allowed
└── MissingExtraError(ImportError) an optional dependency that is not installed

Each also is the builtin error it resembles, so `except ValueError` keeps working.
"""

from __future__ import annotations


class BitcodecError(Exception):
    """Base of every error raised on purpose; the command line prints it in one line."""


class ShapeError(BitcodecError, ValueError):
    """An array has the wrong rank, width or length."""


class ValueRangeError(BitcodecError, ValueError):
    """A value is outside its range, for example NaN or infinity."""


class ConfigError(BitcodecError, ValueError):
    """A parameter is unknown, out of range or contradicts another."""


class FormatError(BitcodecError, ValueError):
    """A file is truncated, foreign, damaged or of a newer format."""


class MismatchError(BitcodecError, ValueError):
    """An artefact was made with another codec."""


class FileError(BitcodecError, OSError):
    """An input is missing, or an output exists or cannot be written."""


class ServerError(BitcodecError, ConnectionError):
    """A database server was not reached, went away or refused."""


class NotFittedError(BitcodecError, RuntimeError):
    """A codec was used before it was fitted."""


class RemoteError(BitcodecError, RuntimeError):
    """A service elsewhere refuses, or does not answer as it should."""


class BudgetError(BitcodecError, RuntimeError):
    """A request was not sent because it could cost more than was allowed."""


class MissingExtraError(BitcodecError, ImportError):
    """An optional dependency is not installed."""


class TrainingWarning(UserWarning):
    """A fit ended, but not as one would wish; the message names the remedy."""
