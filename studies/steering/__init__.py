"""How steering by mass compares with steering by logits, on the embedded model."""
