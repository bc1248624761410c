"""Are two trees the same answer? By their kinds: numbers and functions, collections, relations, regions, families."""
