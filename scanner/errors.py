"""Every error that hemoscan raises on purpose, under one root.

Leaves also subclass the builtin that fits, so that a caller who does not know hemoscan can still catch them.
The command line turns each into one line on stderr and an exit code; none reaches a user as a traceback.
"""

from __future__ import annotations


class HemoscanError(Exception):
    """The root. Its text is meant for a user: it names the file, the tag or option, the value and the legal range."""


class ImageError(HemoscanError, ValueError):
    """An image that cannot be read: a row with status `error`."""


class NotForModelError(HemoscanError):
    """A readable file that is not for the model (a localizer, MR, a text file): a row with status `skipped`."""


class CardError(HemoscanError, ValueError):
    """A model's card or weights are missing, malformed, or not the ones that the card's hash names."""


class DataError(HemoscanError, ValueError):
    """A training set that is not laid out as expected, or lacks images that its labels name."""


class OptionError(HemoscanError, ValueError):
    """An option's value that is out of its legal range: wrong usage."""


class ResultsError(HemoscanError, ValueError):
    """Results of a training or a scan that cannot be read, or do not belong together."""


class StartError(HemoscanError, RuntimeError):
    """The weights that a training should start from cannot be had."""


class TrainingError(HemoscanError, RuntimeError):
    """A training that cannot go on, such as one with a non-finite loss."""


class DecoderError(HemoscanError, RuntimeError):
    """The processes that decode files cannot be started."""


class OutputError(HemoscanError, OSError):
    """An output that cannot be written."""


class StateError(OutputError):
    """A state, of what was scanned before, that cannot be used."""


class ObjectError(HemoscanError, ValueError):
    """A study of which no DICOM object can be made."""


class ExtraError(HemoscanError, ImportError):
    """A package that only some commands need is not installed."""


class LockedError(HemoscanError, RuntimeError):
    """Another run holds the lock of the state."""


class DeviceError(HemoscanError, ValueError):
    """A device that this machine lacks."""


class EngineError(HemoscanError, RuntimeError):
    """An engine that cannot be had on this machine, or a model that it cannot run."""


class ClusterError(HemoscanError, RuntimeError):
    """A cluster that cannot be joined or started, or a node of it that cannot do the work."""


class ExportError(HemoscanError, RuntimeError):
    """A model that cannot be exported, or whose exported file scores otherwise than the model."""
