"""The report: one HTML page with Plotly charts."""
