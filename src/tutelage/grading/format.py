"""Where the answer stands in a response."""

from __future__ import annotations


def tagged_answer(response: str) -> str | None:
    """The text of the answer block, or None if the response is not one think block followed by one answer block.

    The rule: each tag occurs once (the opening ``<think>`` may stand in the prompt instead), in this order; before the think
    block, between the blocks and after the answer block there is white space or nothing.
    """
    text = response.strip()
    if text.startswith("<think>"):
        text = text[len("<think>") :]
    if "<think>" in text or any(text.count(tag) != 1 for tag in ("</think>", "<answer>", "</answer>")):
        return None
    _thought, _, rest = text.partition("</think>")
    before, _, rest = rest.partition("<answer>")
    answer, closed, after = rest.partition("</answer>")
    return answer.strip() if closed and not before.strip() and not after.strip() else None


def boxed_answer(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` with balanced braces (or of ``\\boxed 5``, as MATH writes at times), or None."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):
        bare = rest.partition("$")[0].split()
        return bare[0].rstrip(".,") if bare else None
    depth = 0
    for index, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:index].strip()
    return None
