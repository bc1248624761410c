"""How a folder's ``__init__`` names what the folder offers, without loading it.

The names stand once, as imports under ``if TYPE_CHECKING:``, where type checkers and readers look for them; each is loaded when it
is first asked for (PEP 562). So ``import tutelage`` costs nothing, and a command loads only what it uses.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, from the imports under ``if TYPE_CHECKING:`` in its own file.

    Args:
        package: the package's ``__name__``; each import there is ``from MODULE import NAME, …``.
    """
    module = sys.modules[package]
    homes = _named(str(module.__file__))

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        # a submodule is offered by `from PACKAGE import SUBMODULE`
        value = importlib.import_module(f"{package}.{name}") if home == package else getattr(importlib.import_module(home), name)
        setattr(module, name, value)
        return value

    names = sorted(homes)
    return __getattr__, lambda: names, names


def _named(path: str) -> dict[str, str]:
    """The module that each offered name comes from."""
    body = ast.parse(Path(path).read_text(encoding="utf-8")).body
    blocks = [node.body for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
