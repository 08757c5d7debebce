"""Version of the package, also part of its User-Agent."""

__version__ = "0.2.0"
