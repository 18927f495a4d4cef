"""Recipes: how the checkpoints that are delivered were made."""
