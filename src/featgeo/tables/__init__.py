"""Tables: the modes of the dependence between categorical variables, at any size."""
