"""Quality, cost and intervals, as plain dicts with the unit in the key. Nothing here draws or writes."""
