"""Rows from where people keep them: files of every kind, directories by split, data sets of the hub."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data.sources.rows import Row, row_of
    from tutelage.data.sources.source import fingerprint, iter_rows, read_rows, seeded_order, unread_files

__getattr__, __dir__, __all__ = lazily(__name__)
