"""How the embedded model and the members of the zoo were made: data, recipe, trainer, evaluation, report."""
