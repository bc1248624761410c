"""From what a row says to the texts and the ids that are learnt: prompts, conversations, special tokens."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.data.templates.conversations import Turn, asks_template, in_the_form_of, write_problem, write_turns
    from tutelage.data.templates.encoding import encode_prompt, encode_response, encode_texts
    from tutelage.data.templates.guard import ExceededError, guarded
    from tutelage.data.templates.marks import MARK, plain, protect, special_tokens
    from tutelage.data.templates.rendered import foreign_words, is_rendered, rendered_words
    from tutelage.data.templates.template import Template, chat_sources, template_of

__getattr__, __dir__, __all__ = lazily(__name__)
