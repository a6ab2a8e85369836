"""The forms of the deployments: JSON Schemas made from what the services publish and what the store holds.

No parameter of a method is listed here. The same function makes the schema that is registered and the one that
refreshes a drop-down, so the two cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from parfocal import v1
from parfocal.runtime.datasets.kinds import needed_title
from parfocal.runtime.store.manifests import MOST_PARTS

Schema = dict[str, Any]
_PUBLISH = "publish one with `parfocal dataset create NAME FOLDER`, or type the name of one that will be there."
_MOST_CHOICES = 1000
_NO_DATASET = f"No dataset has been published yet: {_PUBLISH}"
_SPLIT: Schema = {
    "type": "string",
    "title": "Part of the dataset",
    "description": "test: the images kept for judging models; train: those models are trained on.",
    "enum": ["test", "train"],
    "default": "test",
}
_AGAIN: Schema = {"type": "boolean", "title": "Do it again", "default": False}


def train_form(method: v1.Method, datasets: Sequence[str], models: Sequence[str] = ()) -> Schema:
    """Return the schema of the form that trains `method`.

    `datasets` are those of a kind that suits the method, `models` those that a training can go on from.
    """
    needs = method.data_requirements
    wanted = needed_title(needs.target)
    properties = {
        "dataset": choice(
            "Dataset",
            f"The images to train on: {wanted}. {needs.description}",
            datasets,
            f"There is no dataset of {wanted} yet: {_PUBLISH}",
        ),
        "model": {
            "type": "string",
            "title": "Name of the model",
            "description": "Letters, digits, '.', '_' and '-'. "
            "If there is a model of this name, it gets a new version; nothing is overwritten.",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        },
        "initial_model": choice(
            "Go on from a model",
            "Start from this model of the same method instead of from nothing. Leave it empty for a fresh start.",
            models,
            f"No model has been made with {method.title} yet: leave this empty.",
        ),
        "initial_weights": {
            "type": "string",
            "title": "Weights of this model",
            "description": "Which of the weights that it keeps, for example best or last. Leave it empty for the usual "
            "ones.",
        },
        "parameters": parameter_group(method, v1.JOB_KIND_TRAINING, "Settings of the training"),
    }
    return _form(properties, required=("dataset", "model"))


def judge_form() -> Schema:
    """Return the schema of the form that has the model of a training judged."""
    job = {
        "type": "string",
        "title": "Training",
        "description": "The job of the training, as `parfocal jobs list` names it.",
    }
    return _form({"training": job}, required=("training",))


def predict_form(method: v1.Method, models: Sequence[str], datasets: Sequence[str]) -> Schema:
    """Return the schema of the form that applies models of `method`."""
    properties = {
        "model": choice(
            "Model",
            "The model to apply, with its version.",
            models,
            f"No model has been made with {method.title} yet: train one first, or type the name of one that will "
            "be there.",
        ),
        "dataset": choice(
            "Dataset",
            "The images to predict, if they are part of a dataset. Else leave it empty and name a folder below.",
            datasets,
            "No dataset has been published yet: name a folder below.",
        ),
        "split": _SPLIT,
        "input_uri": {
            "type": "string",
            "title": "Folder of images",
            "description": "Instead of a dataset: a folder in the store, for example "
            "`s3://parfocal-results/default/my-upload/inputs`.",
        },
        "parameters": parameter_group(method, v1.JOB_KIND_PREDICTION, "Settings of the prediction"),
        "parts": {
            "type": "integer",
            "title": "Parts of each image",
            "description": "For very large images: as many jobs predict a part of each image at the same time, one for "
            "each GPU, and a last one merges them. 1: one job does all.",
            "minimum": 1,
            "maximum": MOST_PARTS,
            "default": 1,
        },
    }
    return _form(properties, required=("model",))


def predict_new_form(method: v1.Method, models: Sequence[str] | None) -> Schema:
    """Return the schema of the form that applies models of `method` to the new images of a folder.

    Without `models` any can be named: a schedule keeps its own, whatever else comes and goes.
    """
    title, text = "Model", "The model to apply, with its version."
    none_yet = (
        f"No model has been made with {method.title} yet: train one first, or type the name of one that will be there."
    )
    properties = {
        "model": choice(title, text, models or (), none_yet if models is not None else text),
        "source": {
            "type": "string",
            "title": "Folder of images",
            "description": "A folder in the store, for example `s3://inbox/microscope-1`. Images in its sub-folders "
            "are predicted too; those that have been predicted before are left out.",
        },
        "output": {
            "type": "string",
            "title": "Folder for the results",
            "description": "A folder in the store, for example `s3://parfocal-results/default/microscope-1`. Results "
            "have the names of the images.",
        },
        "then": {
            "type": "array",
            "title": "Then",
            "description": "Further models, each applied to what the one before has made: for example CARE first, and "
            "StarDist on the restored images.",
            "items": {
                "type": "object",
                "properties": {
                    "model": {"type": "string", "title": "Model", "description": "The model, with its version."},
                    "parameters": {"type": "object", "title": "Settings of its prediction", "default": {}},
                },
                "required": ["model"],
            },
            "default": [],
        },
        "keep_steps": {
            "type": "boolean",
            "title": "Keep what the steps make",
            "description": "Deliver what the models before the last one make as well, below `steps/`.",
            "default": False,
        },
        "unlike": {
            "type": "string",
            "title": "Images that differ from the training data",
            "description": "What to do about them: warn at the end; stop before, if most images of a sample differ; or "
            "ignore it.",
            "enum": ["warn", "stop", "ignore"],
            "default": "warn",
        },
        "settle_seconds": {
            "type": "number",
            "title": "Time to settle (s)",
            "description": "Images that still change within so many seconds are left to the next run.",
            "minimum": 0,
            "maximum": 600,
            "default": 10,
        },
        "channels": {
            "type": "array",
            "title": "Channels to take",
            "description": "Of composites the channels that the model takes, by name or number from 1. Empty: those "
            "that were taken of the files that it was trained on. Images without channels are taken whole.",
            "items": {"type": "string"},
            "default": [],
        },
        **{
            name: {
                "type": "string",
                "title": f"{name.capitalize()} to take",
                "description": f"Of stacks the {name} to take, for example 3-9; empty: all.",
                "pattern": r"^(\d+(-\d+)?)?$",
                "default": "",
            }
            for name in ("planes", "frames")
        },
        "parameters": parameter_group(method, v1.JOB_KIND_PREDICTION, "Settings of the prediction"),
    }
    return _form(properties, required=("model", "source", "output"))


def compare_form(
    method: v1.Method, models: Sequence[str], evaluations: Sequence[str], datasets: Sequence[str]
) -> Schema:
    """Return the schema of the form that compares what the evaluation method `method` judges."""
    properties = {
        "models": choices(
            "Models",
            "The models to compare. Those that have not been judged on these images are judged first.",
            models,
            f"No model that {method.title} judges has been made yet: train one first, or type the names of those that "
            "will be there.",
        ),
        "dataset": choice(
            "Dataset",
            "On whose images to compare the models. Not needed if only evaluations are compared.",
            datasets,
            _NO_DATASET,
        ),
        "split": _SPLIT,
        "evaluations": choices(
            "Evaluations",
            "Beside the models, or instead of them: what has been judged already, for example the images that another "
            "program predicted. All must be of the same images.",
            evaluations,
            f"{method.title} has not judged anything yet. Type the jobs of evaluations, or leave it empty.",
        ),
        "parameters": parameter_group(method, v1.JOB_KIND_COMPARISON, "Settings of the comparison"),
        "again": {**_AGAIN, "description": "Judge all models again, even where that has been done before."},
    }
    return _form(properties, required=())


def check_form(method: v1.Method, datasets: Sequence[str]) -> Schema:
    """Return the schema of the form that has `method` look at a dataset."""
    properties = {
        "dataset": choice(
            "Dataset",
            "The images to look at. Training and test images are looked at together.",
            datasets,
            _NO_DATASET,
        ),
        "parameters": parameter_group(method, v1.JOB_KIND_EVALUATION, "Limits"),
        "again": {**_AGAIN, "description": "Look again, even if that has been done before with the same limits."},
    }
    return _form(properties, required=("dataset",))


def choice(title: str, description: str, values: Sequence[str], if_empty: str) -> Schema:
    """Return a drop-down; with nothing to choose from a text field, because an empty drop-down blocks the form.

    With more than anybody looks through, it is a text field as well: Prefect keeps no event of more than 1.5 MB, and
    one of a changed form has it twice.
    """
    if not values:
        return {"type": "string", "title": title, "description": if_empty}
    if len(values) > _MOST_CHOICES:
        return {"type": "string", "title": title, "description": f"{description} {_too_many(values)}"}
    return {"type": "string", "title": title, "description": description, "enum": list(values)}


def _too_many(values: Sequence[str]) -> str:
    return f"There are {len(values):,}: type the name, for example {values[0]}."


def choices(title: str, description: str, values: Sequence[str], if_empty: str) -> Schema:
    """Return a drop-down of which several can be chosen; with nothing to choose from a list of text fields."""
    if not values:
        return {"type": "array", "title": title, "description": if_empty, "items": {"type": "string"}}
    if len(values) > _MOST_CHOICES:
        text = f"{description} {_too_many(values)}"
        return {"type": "array", "title": title, "description": text, "items": {"type": "string"}}
    items = {"type": "string", "enum": list(values)}
    return {"type": "array", "title": title, "description": description, "items": items}


def parameter_group(method: v1.Method, kind: v1.JobKind.ValueType, title: str) -> Schema:
    """Return the published parameters of a kind of work as one group of fields."""
    published: Schema = next(
        (json.loads(item.json_schema) for item in method.parameter_schemas if item.job_kind == kind), {}
    )
    definitions = published.get("$defs", {})
    properties = {
        name: {**_with_range(_field(field, definitions)), "position": position}
        for position, (name, field) in enumerate(published.get("properties", {}).items())
    }
    group: Schema = {
        "type": "object",
        "title": title,
        "description": "What you leave as it is has the default of the method.",
        "properties": properties,
        "additionalProperties": False,
    }
    if published.get("required"):
        group["required"] = published["required"]
    return group


def _form(properties: Mapping[str, Schema], required: Sequence[str]) -> Schema:
    return {
        "title": "Parameters",
        "type": "object",
        "properties": {name: {**field, "position": at} for at, (name, field) in enumerate(properties.items())},
        "required": list(required),
    }


def _with_range(field: Schema) -> Schema:
    """Return a field whose help says which numbers are allowed; Prefect's form says it only after the fact."""
    bounds = (
        ("minimum", "from {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "to {}"),
        ("exclusiveMaximum", "below {}"),
    )
    words = " ".join(text.format(f"{field[key]:,}".replace(",", " ")) for key, text in bounds if key in field)
    help_text = str(field.get("description", ""))
    return {**field, "description": f"{help_text} ({words})".strip()} if words else field


def _field(field: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return a field as Prefect's form shows it best: without references, and without "or nothing" alternatives."""
    if "$ref" in field:
        target = definitions[field["$ref"].rsplit("/", 1)[-1]]
        return _field({**target, **{key: value for key, value in field.items() if key != "$ref"}}, definitions)
    if "const" in field:
        return {**{key: value for key, value in field.items() if key != "const"}, "enum": [field["const"]]}
    alternatives = [item for item in field.get("anyOf", ()) if item.get("type") != "null"]
    if len(alternatives) == 1 and len(field["anyOf"]) == 2:
        # Leaving the field empty means nothing; a choice between "number" and "None" helps nobody.
        rest = {key: value for key, value in field.items() if key != "anyOf"}
        if rest.get("default") is None:
            rest.pop("default", None)
        return _field({**alternatives[0], **rest}, definitions)
    resolved = dict(field)
    if "items" in field:
        resolved["items"] = _field(field["items"], definitions)
    if "properties" in field:
        resolved["properties"] = {name: _field(item, definitions) for name, item in field["properties"].items()}
    return resolved
