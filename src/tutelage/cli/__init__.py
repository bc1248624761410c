"""The command line: one file a command, its arguments and its work together."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.cli.entry import main

__getattr__, __dir__, __all__ = lazily(__name__)
