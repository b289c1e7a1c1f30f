"""Pictures by matplotlib. What they draw is prepared in `report/`."""
