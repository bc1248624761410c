"""A text in one notation: symbols, wrappers, sentences, units, numbers in words; answers that are words."""
