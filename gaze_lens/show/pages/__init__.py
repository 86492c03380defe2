"""HTML pages that load nothing: what they have in common, and a template for each."""
