"""From raw rows to token ids: sources, shapes, templates, filtering by correctness, and the fate of every row."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data import arithmetic
    from tutelage.data.pool import Pool, Prepared, choose, choose_problems, longest_prompt, panel_size, prepare
    from tutelage.data.rows import (
        Example,
        Fate,
        Ledger,
        apply_template,
        check_malformed,
        filter_correct_dataset,
        graded_at_once,
        judge,
        load_data,
        load_template,
        nothing_survives,
        summary,
        to_example,
        verdict_cache,
    )
    from tutelage.data.shapes import BadRow, build_text_pairs, parse_row
    from tutelage.data.sources import Row, iter_rows, read_rows
    from tutelage.data.tokens import (
        Stops,
        TokenizedExample,
        characters_of,
        encode_prompt,
        encode_response,
        pad_and_shift,
        prompt_template,
        tokenize_prompt_and_output,
    )

__getattr__, __dir__, __all__ = lazily(__name__)
