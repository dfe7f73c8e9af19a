"""Questions about drawn shapes and words for all tasks of bench=vlm, as small parquet files.

    python examples/vlm_questions.py --out questions
    asap-eval model=llava_tiny bench=vlm data=questions method=visionzip k=64 bench.new_tokens=8

Every answer is true of its picture, and the columns are those of the tasks' own data sets, so that
the files show what a folder for ``data=`` has to hold. They measure nothing: they are there to try
the plumbing. Needs the [vlm] extra.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

KINDS = ("circle", "square", "triangle", "cross", "ring", "star")
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 210), "black": (20,) * 3}
SIZES = ((168, 168), (240, 160), (160, 320), (300, 300))
"""Width and height of pictures, in turn."""
PEOPLE = 10
"""Answers that VizWiz and VQAv2 have of each question."""


@dataclass(frozen=True)
class Scene:
    """A picture: shapes from left to right, each with its colour."""

    picture: Image.Image
    shapes: Sequence[tuple[str, str]]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.shapes]

    @property
    def absent(self) -> list[str]:
        return [kind for kind in KINDS if kind not in self.kinds]


def scene(number: int) -> Scene:
    """One to three different shapes on grey."""
    g = np.random.default_rng(number)
    kinds = g.choice(len(KINDS), size=g.integers(1, 4), replace=False)
    names = list(COLOURS)
    shapes = [(KINDS[kind], names[g.integers(len(names))]) for kind in kinds]
    width, height = SIZES[number % len(SIZES)]
    noise = g.normal(200, 8, (height, width, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise)
    draw, each = ImageDraw.Draw(picture), width / len(shapes)
    for place, (kind, colour) in enumerate(shapes):
        radius = 0.35 * min(each, height)
        _draw(draw, kind, (place + 0.5) * each, height / 2, radius, COLOURS[colour])
    return Scene(picture, shapes)


def _draw(
    draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, colour: tuple[int, ...]
) -> None:
    box = (x - r, y - r, x + r, y + r)
    if kind == "circle":
        draw.ellipse(box, fill=colour)
    elif kind == "ring":
        draw.ellipse(box, outline=colour, width=max(2, int(r / 4)))
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    elif kind == "cross":
        for line in ((x - r, y, x + r, y), (x, y - r, x, y + r)):
            draw.line(line, fill=colour, width=max(2, int(r / 3)))
    else:
        corners = 3 if kind == "triangle" else 10
        lengths = [r if corners == 3 or at % 2 == 0 else r / 2.5 for at in range(corners)]
        angles = [2 * np.pi * at / corners - np.pi / 2 for at in range(corners)]
        points = zip(lengths, angles, strict=True)
        draw.polygon([(x + n * np.cos(a), y + n * np.sin(a)) for n, a in points], fill=colour)


def pope(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """A yes and a no of every picture for each of the three ways to choose what is absent."""
    often = Counter(kind for s in scenes for kind in s.kinds)
    ways = ("adversarial", "popular", "random")
    number = 0
    for way in ways:
        for at, s in enumerate(scenes):
            together = Counter(k for o in scenes if s.kinds[0] in o.kinds for k in o.kinds)
            absent = {
                "adversarial": max(s.absent, key=lambda kind: together[kind]),
                "popular": max(s.absent, key=lambda kind: often[kind]),
                "random": s.absent[at % len(s.absent)],
            }[way]
            for kind, answer in ((s.kinds[0], "yes"), (absent, "no")):
                yield {
                    "question_id": str(number),
                    "question": f"Is there a {kind} in the image?",
                    "answer": answer,
                    "category": way,
                    "image": s.picture,
                }
                number += 1


def gqa(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    for at, s in enumerate(scenes):
        kind, colour = s.shapes[0]
        question = f"What color is the {kind}?"
        yield {"imageId": f"n{at}", "question": question, "answer": colour, "image": s.picture}


def mme(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Two questions of every picture, one of them to be denied, in four categories."""
    categories = ("existence", "count", "color", "numerical_calculation")
    for at, s in enumerate(scenes):
        category, (kind, colour), count = categories[at % 4], s.shapes[0], len(s.shapes)
        other = next(name for name in COLOURS if name != colour)
        asked = {
            "existence": (f"Is there a {kind} here?", f"Is there a {s.absent[0]} here?"),
            "count": (f"Are there {count} shapes here?", f"Are there {count + 1} shapes here?"),
            "color": (f"Is the {kind} {colour}?", f"Is the {kind} {other}?"),
            "numerical_calculation": (
                f"Is the number of shapes plus 1 equal to {count + 1}?",
                f"Is the number of shapes plus 1 equal to {count + 2}?",
            ),
        }[category]
        for question, answer in zip(asked, ("Yes", "No"), strict=True):
            yield {
                "question_id": f"{category}/{at}.png",
                "question": f"{question} Please answer yes or no.",
                "answer": answer,
                "category": category,
                "image": s.picture,
            }


def scienceqa_img(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    for at, s in enumerate(scenes):
        choices = [s.absent[0], s.kinds[0], s.absent[1]][: 2 + at % 2]
        yield {
            "question": "Which of these shapes is in the picture?",
            "choices": choices,
            "answer": 1,
            "hint": "The picture was drawn by a program." if at % 2 else "",
            "image": s.picture,
        }


def vizwiz_vqa_val(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Every fourth question cannot be answered; the people agree but for two."""
    for at, s in enumerate(scenes):
        colour = s.shapes[0][1]
        true, question = colour, f"what color is the {s.kinds[0]}?"
        if at % 4 == 3:
            true, question = "unanswerable", "what is the brand of this?"
        answers = [true] * (PEOPLE - 2) + ["unsuitable", "shape"]
        yield {
            "question_id": f"V{at}",
            "question": question,
            "answers": answers,
            "image": s.picture,
        }


def vqav2_val(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    for at, s in enumerate(scenes):
        said = [str(len(s.shapes))] * (PEOPLE - 1) + ["many"]
        yield {
            "question_id": 1000 + at,
            "question": "How many shapes are there?",
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": person + 1}
                for person, text in enumerate(said)
            ],
            "image": s.picture,
        }


def mmbench_en_dev_static(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Every question once in each order of its options; those with two have no C and D."""
    for at, s in enumerate(scenes):
        options = [s.kinds[0], *s.absent[: 3 if at % 2 else 1]]
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letters = dict(zip("ABCD", [*turned, "nan", "nan", "nan"], strict=False))
            yield {
                "index": at + 1 + turn * 1_000_000,
                "question": "Which shape is in the picture?",
                "hint": "nan",
                "answer": "ABCD"[turned.index(s.kinds[0])],
                **letters,
                "category": "object_localization" if at % 2 else "image_topic",
                "L2-category": "finegrained_perception" if at % 2 else "coarse_perception",
                "source": "drawn",
                "split": "dev",
                "image": s.picture,
            }


WORDS = ("EXIT", "OPEN", "42", "STOP", "7 pm", "TAXI")
"""What signs say."""


def sign(number: int) -> tuple[Image.Image, str]:
    """A word in large letters, black on white."""
    word = WORDS[number % len(WORDS)]
    picture = Image.new("RGB", SIZES[number % len(SIZES)], "white")
    font = ImageFont.load_default(size=picture.height // 4)
    draw = ImageDraw.Draw(picture)
    draw.text((picture.width // 2, picture.height // 2), word, "black", font, anchor="mm")
    return picture, word


def textvqa_val(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """The people agree but for one."""
    for at in range(len(scenes)):
        picture, word = sign(at)
        yield {
            "question_id": at,
            "question": "what does the sign say?",
            "answers": [word] * (PEOPLE - 1) + ["a sign"],
            "image": picture,
        }


def ocrbench(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    for at in range(len(scenes)):
        picture, word = sign(at)
        yield {
            "dataset": "drawn",
            "question": "what is written in the image?",
            "question_type": "Digit String Recognition"
            if word.isdecimal()
            else "Regular Text Recognition",
            "answer": [word],
            "image": picture,
        }


def docvqa_val(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    for at in range(len(scenes)):
        picture, word = sign(at)
        yield {
            "questionId": str(at),
            "question": "What is the text of this page?",
            "answers": [word, f"the text {word}"],
            "image": picture,
        }


def chartqa(scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Bars; half of the questions are asked by people, as in ChartQA."""
    for at in range(len(scenes)):
        heights = [10 + 5 * ((at + bar) % 4) for bar in range(4)]
        picture = Image.new("RGB", (200, 160), "white")
        draw = ImageDraw.Draw(picture)
        for bar, height in enumerate(heights):
            draw.rectangle((20 + 45 * bar, 150 - 5 * height, 50 + 45 * bar, 150), (50, 80, 210))
            draw.text((25 + 45 * bar, 135 - 5 * height), str(height), "black")
        yield {
            "type": "human_test" if at % 2 else "augmented_test",
            "question": "What is the value of the first bar?",
            "answer": str(heights[0]),
            "image": picture,
        }


TASKS = (
    *(pope, gqa, mme, scienceqa_img, vizwiz_vqa_val, vqav2_val, mmbench_en_dev_static),
    *(textvqa_val, ocrbench, docvqa_val, chartqa),
)


def write(folder: Path, pictures: int) -> dict[str, int]:
    """``<task>.parquet`` of every task about so many pictures; the questions in each."""
    from datasets import Dataset
    from datasets import Image as Picture

    folder.mkdir(parents=True, exist_ok=True)
    scenes, counts = [scene(number) for number in range(pictures)], {}
    for task in TASKS:
        rows = [{**row, "image": {"bytes": _png(row["image"])}} for row in task(scenes)]
        made = Dataset.from_list(rows).cast_column("image", Picture())
        made.to_parquet(folder / f"{task.__name__}.parquet")
        counts[task.__name__] = len(rows)
    return counts


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pictures", type=int, default=4, help="of each task (%(default)s)")
    options = parser.parse_args()
    for name, count in write(options.out, options.pictures).items():
        print(f"{count:4d} questions  {options.out / name}.parquet")


if __name__ == "__main__":
    main()
