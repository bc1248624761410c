"""From text to tree: tokens, then expressions, then what is made of them."""
