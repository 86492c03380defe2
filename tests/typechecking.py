"""What checks types and shapes in the tests: an int passes where a float is expected."""

import beartype

checker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
