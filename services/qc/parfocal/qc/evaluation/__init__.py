"""Parts that all evaluations share: inputs, scoring, statistics, sentences of a verdict, and publication."""
