"""Words and tokens: where a word's tokens are, what a token's text is, and which caption a text fits."""
