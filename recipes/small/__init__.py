"""The recipe of the bundled checkpoint, see README.md: `python -m recipes.small MANIFEST OUT`."""
