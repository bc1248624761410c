"""From raw rows to token ids: sources, shapes, templates, filtering by correctness, and the fate of every row."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data import arithmetic
    from tutelage.data.conversations import Turn, write_problem, write_turns
    from tutelage.data.encoding import encode_prompt, encode_response, encode_texts
    from tutelage.data.filter import Tally, count_well_formed, draw_rows, judge_rows
    from tutelage.data.ledger import Example, Fate, Ledger, summary
    from tutelage.data.marks import MARK, plain, protect, special_tokens
    from tutelage.data.pool import (
        Pool,
        Prepared,
        choose,
        choose_problems,
        panel_size,
        prepare,
        read_pool,
    )
    from tutelage.data.rendered import is_rendered, rendered_words
    from tutelage.data.shapes import BadRow, Parsed, build_text_pairs, parse_row
    from tutelage.data.sources import Row, iter_rows, read_rows
    from tutelage.data.specification import filter_correct_dataset, load_data
    from tutelage.data.stops import Stops
    from tutelage.data.templates import Template, apply_template, prompt_template, template_of
    from tutelage.data.tokens import (
        TokenizedExample,
        characters_of,
        pad_and_shift,
        tokenize_prompt_and_output,
    )

__getattr__, __dir__, __all__ = lazily(__name__)
