"""Pictures of two coloured shapes and questions about them that neither the picture nor the question answers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from biomedica.clip import ModelSettings, build, save
from biomedica.evaluate.items import Items, Question
from biomedica.models import open_encoder

if TYPE_CHECKING:
    from biomedica.evaluate.tokens import TowerModel

SIDE = 32
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 230),
    "yellow": (240, 220, 40),
}
SHAPES = ("circle", "square", "cross")
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 1,
        "width": 64,
        "head_width": 32,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


def write_model(folder: Path, **vision: Any) -> Path:
    """A model file of open_clip for `biomedica.clip.build`: one layer in each tower."""
    path = folder / "shapes.json"
    path.write_text(json.dumps({**MODEL, "vision_cfg": {**MODEL["vision_cfg"], **vision}}))  # type: ignore[dict-item]
    return path


def open_model(folder: Path) -> TowerModel:
    """The model, at random, through a folder and by name, as a user has it."""
    from biomedica.evaluate.tokens import tower_model

    save(folder / "small", build(ModelSettings(name=str(write_model(folder)))), {"about": "small"})
    return tower_model(open_encoder(f"open_clip:local-dir:{folder / 'small'}", fit="own"))


def shapes(split: str, num_pictures: int, seed: int = 0) -> Items:
    """Two questions a picture: the colour of one shape (open), and whether there is some colour (closed).

    Drawn evenly: without the picture 1 of 4 colours and 1 of 2 closed answers is guessed.
    """
    random = np.random.default_rng([seed, *split.encode()])
    pictures: list[Any] = []
    questions: list[Question] = []
    for _ in range(num_pictures):
        left, right = random.permutation(SHAPES)[:2]
        colours = random.permutation(list(COLOURS))
        pictures.append(_draw([(left, colours[0]), (right, colours[1])], random))
        asked = int(random.integers(2))
        is_there = bool(random.integers(2))
        questions.append(
            Question(
                text=f"What colour is the {(left, right)[asked]}?",
                answer=str(colours[asked]).title() + ".",
                is_closed=False,
            )
        )
        questions.append(
            Question(
                text=f"Is there anything {colours[asked if is_there else 2]}?",
                answer="Yes" if is_there else "No",
                is_closed=True,
                options=("yes", "no"),
            )
        )
    return items_of(split, pictures, questions)


def items_of(split: str, pictures: list[Any], questions: list[Question]) -> Items:
    """As many questions of each picture, one after the other."""
    each = len(questions) // len(pictures)
    names = [f"picture-{row // each}" for row in range(len(questions))]
    return Items(
        task="shapes",
        split=split,
        ids=tuple(f"{split}-{row:05d}" for row in range(len(questions))),
        places=tuple(f"shapes.npz [{row}]" for row in range(len(questions))),
        read=lambda row: pictures[row // each],
        groups=tuple(f"{split} {name}" for name in names),
        picture_ids=tuple(names),
        questions=tuple(questions),
    )


def _draw(drawn: list[tuple[str, str]], random: Any) -> Any:
    """Pixels: the first shape in the left half, the second in the right one; noise, so that no two are the same."""
    image = Image.new("RGB", (SIDE, SIDE), (120, 120, 120))
    draw = ImageDraw.Draw(image)
    for half, (shape, colour) in enumerate(drawn):
        x = half * 16 + int(random.integers(1, 4))
        y = int(random.integers(2)) * 16 + int(random.integers(1, 4))
        fill = COLOURS[colour]
        if shape == "circle":
            draw.ellipse((x, y, x + 11, y + 11), fill=fill)
        elif shape == "square":
            draw.rectangle((x, y, x + 11, y + 11), fill=fill)
        else:
            draw.rectangle((x, y + 4, x + 11, y + 7), fill=fill)
            draw.rectangle((x + 4, y, x + 7, y + 11), fill=fill)
    noise = random.integers(-4, 5, (SIDE, SIDE, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
