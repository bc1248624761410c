"""What a setting names as ``module:name``: a loss, a shape of rows or an engine of the user's own, in a file of the current directory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tutelage.errors import InputError


def is_plug_in(name: str) -> bool:
    """Whether a setting's value is of the form ``module:name``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_plug_in(setting: str, name: str) -> Any:
    """The object that ``module:name`` names. The module is looked for where Python looks, then in the current directory.

    Args:
        setting: the dotted name of the setting, for messages.

    Raises:
        InputError: there is no such module, or nothing of that name in it, or the module fails when it is imported.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # processes that are started later inherit it
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever the user's own file raises
        raise InputError(f'{setting} = "{name}": {module} cannot be imported: {type(error).__name__}: {error}') from None
    if not hasattr(imported, attribute):
        raise InputError(f'{setting} = "{name}": the module {module} has no {attribute}')
    return getattr(imported, attribute)
