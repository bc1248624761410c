"""The processes that read and compare, and the verdicts that are kept."""
