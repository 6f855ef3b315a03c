"""How fast it is, and how fast it learns: ratios measured side by side on the machine at hand."""
