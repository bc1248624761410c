"""The value of an expression, exact or to many digits, within a fixed amount of work."""
