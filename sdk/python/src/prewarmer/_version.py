"""The version, which the package and its User-Agent tell."""

__version__ = "0.1.0"
