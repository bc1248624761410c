"""From raw rows to token ids: sources, shapes, templates, filtering by correctness, and the fate of every row."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data import arithmetic
    from tutelage.data.benchmarks import (
        BENCHMARKS,
        TEMPERATURE,
        Named,
        named_source,
        named_sources,
        validation_source,
    )
    from tutelage.data.chosen import choose, prepare
    from tutelage.data.filter import Tally, count_well_formed, draw_rows, judge_rows
    from tutelage.data.hold_out import Asked, problems_of
    from tutelage.data.ledger import Example, Fate, Ledger, summary
    from tutelage.data.overlap import Validation, normalised
    from tutelage.data.pool import Pool, choose_problems, panel_size, read_pool
    from tutelage.data.prepared import Prepared, Sequences, histogram
    from tutelage.data.recipe import question_of
    from tutelage.data.shapes import (
        LOOKED_AT,
        BadRow,
        Parsed,
        Reader,
        build_text_pairs,
        columns_by_content,
        columns_seen,
        likely_columns,
        reader_of,
    )
    from tutelage.data.sources import Row, iter_rows
    from tutelage.data.specification import filter_correct_dataset, load_data
    from tutelage.data.stops import Stops, end_token
    from tutelage.data.store import open_store
    from tutelage.data.stored import Store
    from tutelage.data.templates import (
        Template,
        encode_prompt,
        encode_response,
        encode_texts,
        guarded,
        is_rendered,
        plain,
        protect,
        rendered_words,
        special_tokens,
        template_of,
        write_problem,
        write_turns,
    )
    from tutelage.data.tokens import TokenizedExample, characters_of, pad_and_shift, tokenize_prompt_and_output
    from tutelage.data.unsolved import Unsolved, held_out_problems, unsolved_problems

__getattr__, __dir__, __all__ = lazily(__name__)
