"""The JSON schema of the space file: what editors complete, explain and underline.

It is made from the models, the level tables and what levels say of themselves. It is open where the loader has names
that JSON schema cannot express (dotted keys such as `fusion.heads`, levels from outside): the loader has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from experiments.space.fields import LEVEL_TABLES, OWN_KEYS, SECTION_TABLES, all_levels, fields, level_table, sections
from experiments.space.model import Space
from mer import levels
from mer.described import described
from mer.recipe import Recipe

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that every editor's YAML server understands."""

DOTTED = r"^((fusion|pooling|context|loss\.options)\.\w+|encoders\.\w+(\.\w+)?)$"
"""Keys of `base` that name a parameter of whatever level is below."""

OUTSIDE = {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "module:Class of a level from outside"}


def schema_text() -> str:
    """The schema as shipped in `search_spaces/space.schema.json`; a test keeps the two in step."""
    return json.dumps(schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def schema() -> dict[str, Any]:
    """The schema of a space file. An included file may give what this one leaves out, so nothing is required."""
    found = Space.model_json_schema()
    recipe = Recipe.model_json_schema()
    found["$schema"] = DRAFT
    found.pop("required", None)
    definitions = {**found["$defs"], **recipe["$defs"], **_level_definitions()}
    definitions["Scalar"] = {"type": ["string", "integer", "number", "boolean"]}
    for section, kind in (("Sampler", "sampler"), ("Loss", "loss")):
        definitions[section] = {
            **definitions[section],
            "properties": {**definitions[section]["properties"], "name": {"$ref": f"#/$defs/{kind} name"}},
        }
    for name in ("MissingConfig", "ConditionModel"):
        definitions[name]["properties"]["protocol"] = {"$ref": "#/$defs/missing name"}
    properties = found["properties"]
    properties["include"] = {
        "description": "a base space, or several, that this one is laid over",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    known = _recipe_fields()
    definitions |= {f"field {name}": kind for name, kind in known.items()}
    referred = {name: {"$ref": f"#/$defs/field {name}"} for name in known}
    assignments = {
        "type": "object",
        "properties": referred,
        "patternProperties": {DOTTED: {}},
        "additionalProperties": False,
    }
    definitions["bundles"] = {
        "type": "object",
        "description": "names to fields of the recipe",
        "additionalProperties": assignments,
    }
    properties["base"] = {"description": properties["base"]["description"], **assignments}
    properties["factors"] = {
        "description": properties["factors"]["description"],
        "type": "object",
        "properties": {name: _values(kind) for name, kind in referred.items()},
        "additionalProperties": _values({}),
    }
    properties["tune"] = {"$ref": "#/$defs/Tune", "description": properties["tune"]["description"]}
    ranges = {name: {"$ref": "#/$defs/Range"} for name in known}
    definitions["Tune"]["properties"]["parameters"]["properties"] = ranges
    for name, shorthands in SHORTHANDS.items():
        properties[name] = {
            "description": properties[name]["description"],
            "anyOf": [*shorthands, _without_description(properties[name])],
        }
    found["$defs"] = _with_shorthands(definitions)
    return found


TEXT, NUMBER, TEXTS = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}

SHORTHANDS: Mapping[str, list[dict[str, Any]]] = {
    "corpora": [TEXT],
    "studies": [NUMBER],
    "bundle": [NUMBER],
    "folds": [{"enum": ["speaker", "dialogue", "session"]}],
    "design": [
        {"enum": ["full", "one_factor"]},
        {"type": "object", "properties": {"fraction": {"type": "number"}}, "required": ["fraction"]},
        {"type": "array", "items": {"type": "object"}},
    ],
    "contrasts": [{"type": "array", "items": {"$ref": "#/$defs/Comparison or factor"}}],
    "conditions": [{"type": "array", "items": {"$ref": "#/$defs/Condition or complete"}}],
}
"""What a key may be beside its full form; the loader unfolds these before the models see them."""


def _with_shorthands(definitions: dict[str, Any]) -> dict[str, Any]:
    """Short forms inside the models."""
    one_or_many = {"anyOf": [{"$ref": "#/$defs/Scalar"}, {"type": "array", "items": {"$ref": "#/$defs/Scalar"}}]}
    definitions["Comparison or factor"] = {"anyOf": [TEXT, {"$ref": "#/$defs/Comparison"}]}
    definitions["Contrasts"]["properties"]["compare"]["items"] = {"$ref": "#/$defs/Comparison or factor"}
    rates = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]}
    condition = {**definitions["ConditionModel"]}
    condition["properties"] = {**condition["properties"], "rate": rates}
    definitions["Condition or complete"] = {"anyOf": [{"const": "complete"}, condition]}
    tune = definitions["Tune"]["properties"]
    pruner = tune["pruner"]
    tune["pruner"] = {
        "description": pruner["description"], "anyOf": [{"enum": ["asha", "none"]}, {"$ref": "#/$defs/Pruner"}],
    }  # fmt: skip
    for model in ("Rule", "TuneOverride"):
        definitions[model]["properties"]["when"] = {
            "type": "object", "additionalProperties": one_or_many, "description": "factor to level or levels",
        }  # fmt: skip
    for key in ("metrics", "conditions"):
        _or_one(definitions["Contrasts"]["properties"], key)
    _or_one(tune, "per")
    interactions = definitions["Design"]["properties"]["interactions"]
    interactions["items"] = {"anyOf": [TEXTS, {"type": "object", "additionalProperties": one_or_many}]}
    definitions["ResourcesModel"]["properties"]["memory"] = {"anyOf": [NUMBER, TEXT], "description": "bytes, or 4GB"}
    definitions["LimitsModel"]["properties"]["time"] = {
        "anyOf": [{"type": "number"}, TEXT], "description": "seconds, or 2h",
    }  # fmt: skip
    return definitions


def _or_one(properties: dict[str, Any], key: str) -> None:
    properties[key] = {"anyOf": [TEXT, *properties[key]["anyOf"]], "description": properties[key]["description"]}


def _recipe_fields() -> dict[str, Any]:
    """Every name that a field of the recipe has: sections, dotted paths, short names that mean one field alone."""
    found: dict[str, Any] = {}
    short: dict[str, list[str]] = {}
    for path in fields():
        section, _, name = path.rpartition(".")
        info = sections()[section].model_json_schema()["properties"][name]
        if path in LEVEL_TABLES:
            info = {"$ref": f"#/$defs/{path}"}
        elif (kind := section.rpartition(".")[2]) in SECTION_TABLES and name == "name":
            info = {"$ref": f"#/$defs/{kind} name"}
        elif name == "protocol":
            info = {"$ref": "#/$defs/missing name"}
        found[path] = _without_description(info) if "$ref" in info else info
        short.setdefault(name, []).append(path)
    found |= {name: found[paths[0]] for name, paths in short.items() if len(paths) == 1 and name not in found}
    for path, model in sections().items():
        if path:
            found[path] = {"$ref": f"#/$defs/{model.__name__}"}
    return dict(sorted(found.items()))


def _values(kind: Mapping[str, Any]) -> dict[str, Any]:
    """A factor: a list of a field's values (a level may carry a `label`), or named bundles of fields."""
    values = [dict(kind), {"type": "object"}] if kind else [{}]
    return {
        "anyOf": [
            {"type": "array", "items": {"anyOf": values}},
            {"$ref": "#/$defs/bundles"},
        ]
    }


def _level_definitions() -> dict[str, Any]:
    """For each kind of level its names, and each level with its parameters."""
    found: dict[str, Any] = {}
    for kind, table in all_levels().items():
        named = [{"const": name, "description": described(target).summary} for name, target in table.items()]
        found[f"{kind} name"] = {"anyOf": [*named, OUTSIDE]}
    for field in LEVEL_TABLES:
        kind = field.removesuffix("s")
        shapes = [_level(kind, name, target) for name, target in level_table(field).items()]
        outside = {"type": "object", "properties": {"name": OUTSIDE}, "required": ["name"]}
        options = {"type": "object", "not": {"required": ["name"]}, "description": "parameters of the level below"}
        one = {"anyOf": [{"$ref": f"#/$defs/{kind} name"}, *shapes, outside, options]}
        found[kind] = one
    found["encoders"] = {
        "type": "object",
        "description": "modality to encoder",
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/encoder"}, {"type": "null"}]},
    }
    return found


def _level(kind: str, name: str, target: str) -> dict[str, Any]:
    said = described(target)
    properties: dict[str, Any] = {"name": {"const": name}, "label": {"type": "string"}}
    for parameter in levels.declaration(target).parameters.values():
        described_as = {"description": said.options[parameter.name]} if parameter.name in said.options else {}
        default = {} if parameter.default is levels.REQUIRED else {"default": parameter.default}
        properties[parameter.name] = {**_type(parameter.annotation), **default, **described_as}
    if kind == "encoder":
        properties |= {key: {"$ref": f"#/$defs/EncoderConfig/properties/{key}"} for key in sorted(OWN_KEYS)}
    return {
        "type": "object", "description": said.summary, "properties": properties, "required": ["name"],
        "additionalProperties": False,
    }  # fmt: skip


def _type(annotation: str) -> dict[str, Any]:
    """The schema of a parameter, from its annotation as the source writes it."""
    try:
        found: dict[str, Any] = TypeAdapter(eval(annotation, {"Literal": Literal})).json_schema()
    except (NameError, SyntaxError, TypeError):
        return {}
    return found


def _without_description(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("description", "title")}
