"""Views: the samples of an archive that a recipe selects. Nothing is copied.

views/<name>/recipe.toml   as it was given
views/<name>/view.arrow    where each selected sample lies, and its split
views/<name>/counts.json   what was refused by which rule; what the view rests on, by digest
views/.index/              columns of all samples, kept so that the next run is quick
"""

from __future__ import annotations

from biomedica.select.recipe import Recipe, Rule, list_recipes, load_recipe, parse_recipe
from biomedica.select.run import Selected, Step, select, summary
from biomedica.select.view import VIEW, View, view_names

__all__ = [
    "VIEW",
    "Recipe",
    "Rule",
    "Selected",
    "Step",
    "View",
    "list_recipes",
    "load_recipe",
    "parse_recipe",
    "select",
    "summary",
    "view_names",
]
