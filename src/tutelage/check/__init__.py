"""``tutelage check``: proves on a person's own model, tokenizer and data what the tests prove on ours."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.check import doctor

__getattr__, __dir__, __all__ = lazily(__name__)
