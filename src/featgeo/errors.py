"""The one exception family and the one warning category of the library."""

from __future__ import annotations


class FeatgeoError(ValueError):
    """A failure the caller can mend: names the argument, what was found, and what to do.

    Args:
        argument: name of the argument (or the object) at fault.
        found: what was found there.
        remedy: what to do about it.
    """

    def __init__(self, argument: str, found: str, remedy: str) -> None:
        self.argument, self.found, self.remedy = argument, found, remedy
        super().__init__(f"{argument}: found {found}. {remedy}")

    def __reduce__(self) -> tuple[type[FeatgeoError], tuple[str, str, str]]:
        return type(self), (self.argument, self.found, self.remedy)


class FeatgeoWarning(UserWarning):
    """An assumption of the theory fails; the result carries the same text in its ``warnings``."""
