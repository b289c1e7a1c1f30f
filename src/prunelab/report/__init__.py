"""Pictures and tables out of metrics and rows. Nothing here computes a metric or imports torch."""
