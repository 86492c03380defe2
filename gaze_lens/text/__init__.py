"""Words and tokens: the tokens of a word, the text of a token, and the caption that fits a text best."""
