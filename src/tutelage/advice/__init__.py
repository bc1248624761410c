"""``tutelage plan``: will it fit, how long will it take, and what to change, each with its reason."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.advice.document import as_json
    from tutelage.advice.plan import plan_run
    from tutelage.advice.propose import Asked

__getattr__, __dir__, __all__ = lazily(__name__)
