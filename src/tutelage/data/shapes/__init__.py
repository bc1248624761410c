"""How a row is read: by the names of its columns, by `data.columns`, or by a function of the user's own."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data.shapes.messages import is_messages
    from tutelage.data.shapes.parsed import BadRow, Parsed
    from tutelage.data.shapes.reader import LOOKED_AT, Reader, build_text_pairs, reader_of
    from tutelage.data.shapes.recognise import likely_columns
    from tutelage.data.shapes.saw import columns_by_content, columns_seen

__getattr__, __dir__, __all__ = lazily(__name__)
