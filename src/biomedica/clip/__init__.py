"""Text-image models of open_clip: made, saved, converted, merged, counted.

    build(settings) -> Made                    from an architecture's name, a model JSON, a folder, or two towers
    save(folder, made, card)                   a folder that open_clip loads with no network
    to_transformers(folder, folder)            the same model as `CLIPModel`
    merge, sweep, merge_folders                WiSE-FT
    cost(settings) -> Cost, plan(cost, …)      parameters, FLOPs, accelerator hours

torch and open_clip are imported when a function needs them, not before.
"""

from biomedica.clip.build import build
from biomedica.clip.cost import TFLOPS, UTILISATION, Cost, Plan, cost, plan
from biomedica.clip.merge import Point, merge, merge_folders, sweep
from biomedica.clip.save import relocate, save
from biomedica.clip.settings import Made, ModelSettings, Preprocess
from biomedica.clip.to_transformers import to_transformers

__all__ = [
    "TFLOPS",
    "UTILISATION",
    "Cost",
    "Made",
    "ModelSettings",
    "Plan",
    "Point",
    "Preprocess",
    "build",
    "cost",
    "merge",
    "merge_folders",
    "plan",
    "relocate",
    "save",
    "sweep",
    "to_transformers",
]
