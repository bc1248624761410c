from __future__ import annotations

from tutelage.console import _rich_progress, progress


def test_a_bar_that_has_ended_may_still_be_advanced():
    """Whoever advances from another thread may be late: what was interrupted is not the engine's fault."""
    with _rich_progress("solving", 3, 0) as advance:
        advance(1)
    advance(1)
    with progress("solving", 3) as advance:
        advance(1, "note")
    advance(1)
