"""Notebooks that papermill fills: the quickstart and the model card."""
