"""The programs that made the embedded model and the members of the zoo: data, recipe, trainer, evaluation, report."""
