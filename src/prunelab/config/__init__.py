"""The parameters of a study: reading them, checking them, and saying what is wrong with them."""
