"""The interactive viewer: what it records, its page, and its widget for notebooks."""
