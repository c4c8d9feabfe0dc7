"""Pictures, pages and terminal tables of results, from plain data: nothing here computes."""
