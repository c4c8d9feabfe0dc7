"""The validation of the theory: one file an experiment, one runner, one page written from the results alone."""
