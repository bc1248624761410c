"""One page per run, sweep or improvement, and every sentence that is printed of them."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.report import page, show
    from tutelage.report.card import model_card

__getattr__, __dir__, __all__ = lazily(__name__)
