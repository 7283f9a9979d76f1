"""The published claims as values: the runs, the intervals, the rules and the text."""
