"""Makes the finished run in miniature known to the tests of publishing."""

from run_files import home, made

__all__ = ["home", "made"]
