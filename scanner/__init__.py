"""hemoscan: flags likely hemorrhages in folders of head CT slices. Research use only, not for diagnosis."""

__version__ = "0.1.0"
NOTICE = "hemoscan is for research use only, not for diagnosis: an unflagged study is not a normal study."
DEFAULT_MODEL = "densenet-bias"
