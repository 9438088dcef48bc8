"""The pure core: every decision is a function over frozen values, standard library only."""
