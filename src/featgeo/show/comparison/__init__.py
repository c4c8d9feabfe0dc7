"""Several reports side by side: in the terminal, on a page, in figures; from plain data."""
