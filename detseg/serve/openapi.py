"""The HTTP API as OpenAPI describes it, and as a page for people, both of the model that is served."""

from pathlib import Path
from typing import Any

import jinja2

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
WHOLE: Schema = {"type": "integer"}
TEXT: Schema = {"type": "string"}
NAMED: Schema = {
    "name": TEXT | {"description": "of the class"},
    "label": WHOLE | {"description": "of the class: its place in the names of /model"},
}
REFUSALS = {
    400: "not an option or a value of one; a damaged image, or one of other channels than the model takes",
    403: "asked by the page of another site",
    408: "the file arrives too slowly",
    413: "too many bytes or too many pixels",
    415: "not an image, or of a type that is not read",
    503: "too many requests wait; try again",
    504: "the prediction takes too long",
}


def description(model: dict[str, Any]) -> Schema:
    """OpenAPI 3.1 of a server for a model, of which `model` is what GET /model says."""
    answer = {"description": "what was found", "content": _json({"$ref": "#/components/schemas/Prediction"})}
    predict = {
        "summary": "Predict on an image",
        "description": "The image is the body of the request, or the field `file` of a form. "
        + f"Types: {', '.join(model['formats'])}; up to {model['limits']['bytes'] / 1e6:g} MB and "
        + f"{model['limits']['pixels'] / 1e6:g} million pixels.",
        "operationId": "predict",
        "parameters": _parameters(model),
        "requestBody": {"required": True, "content": _bodies()},
        "responses": {"200": answer} | {str(status): _refusal(why) for status, why in REFUSALS.items()},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"detseg: {model['name']}",
            "version": model["version"],
            "description": "A trained model over HTTP. Every error is JSON with one message, `error`.",
        },
        "paths": {
            "/predict": {"post": predict},
            "/model": {"get": _get("model", "What the model is and what it takes", "Model")},
            "/health": {"get": _get("health", "Whether the server is up", "Health")},
        },
        "components": {"schemas": _schemas(model)},
    }


def reference(document: Schema, address: str) -> str:
    """The page that shows people a description, for a server at `address`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    schemas = document["components"]["schemas"]
    entries = [
        (method.upper(), path, entry) for path, one in document["paths"].items() for method, entry in one.items()
    ]
    return environment.get_template("docs.html.j2").render(
        document=document, address=address, entries=entries, rows={name: _rows(s) for name, s in schemas.items()}
    )


def _parameters(model: dict[str, Any]) -> list[Schema]:
    preview = {
        "name": "preview",
        "in": "query",
        "description": "also give a small JPEG of the image, for programs that cannot show its type",
        "schema": {"type": "boolean", "default": False},
    }
    if model["score_threshold"] is None:
        return [preview]
    threshold = {
        "name": "score_threshold",
        "in": "query",
        "description": "lowest score of an object",
        "schema": SHARE | {"default": model["score_threshold"]},
    }
    return [threshold, preview]


def _bodies() -> Schema:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    return {"multipart/form-data": {"schema": form}, "image/*": {"schema": file}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _refusal(why: str) -> Schema:
    return {"description": why, "content": _json({"$ref": "#/components/schemas/Error"})}


def _get(name: str, summary: str, schema: str) -> Schema:
    answer = {"description": "as it is now", "content": _json({"$ref": f"#/components/schemas/{schema}"})}
    return {"summary": summary, "description": "", "operationId": name, "parameters": [], "responses": {"200": answer}}


def _object(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Schema, what: str) -> Schema:
    return {"type": "array", "items": items, "description": what}


def _schemas(model: dict[str, Any]) -> Schema:
    tasks = {"enum": [model["task"]], "description": "what the model was trained for"}
    prediction = {
        "task": tasks,
        "width": WHOLE | {"description": "of the image, upright, in pixels"},
        "height": WHOLE | {"description": "of the image, upright, in pixels"},
        "seconds": NUMBER | {"description": "that the prediction took"},
        **_found(model),
        "preview": TEXT | {"description": "data URL of a JPEG, if asked for"},
    }
    about = {
        "name": TEXT | {"description": "of the run or file"},
        "version": TEXT | {"description": "of detseg"},
        "task": tasks,
        "names": _list(TEXT, "class names by label"),
        "colors": _list(TEXT, "what each class is drawn in, as CSS writes it; empty: not drawn"),
        "size": WHOLE | {"description": "side of the square that images are fitted into, in pixels"},
        "channels": WHOLE | {"description": "of the images that the model takes"},
        "masks": {"type": "boolean", "description": "whether objects have polygons"},
        "score_threshold": {"type": ["number", "null"], "description": "of objects, if a request names none"},
        "formats": _list(TEXT, "types of image files that are read"),
        "limits": _object({"bytes": WHOLE, "pixels": WHOLE, "seconds": NUMBER})
        | {"description": "of an upload, of an image, and of waiting for each"},
    }
    health = {
        "status": {"enum": ["ok"], "description": "that it answers"},
        "requests": WHOLE | {"description": "that are being worked on"},
    }
    return {
        "Prediction": _object(prediction, ("preview",)),
        "Model": _object(about),
        "Health": _object(health),
        "Error": _object({"error": TEXT | {"description": "what is wrong and what to do"}}),
    }


def _found(model: dict[str, Any]) -> Schema:
    """The part of an answer that depends on the task."""
    if model["task"] == "classify":
        likely = _object(NAMED | {"probability": SHARE})
        return {"classes": _list(likely, "all classes, the likeliest first: name, label and probability")}
    if model["task"] == "segment":
        area = _object(NAMED | {"share": SHARE, "probability": SHARE})
        what = "what is in the image, the largest first: name, label, share of the image, mean probability"
        mask = TEXT | {"description": "data URL of a grey PNG as large as the image: each pixel's value is its label"}
        return {"classes": _list(area, what), "mask": mask}
    box = {"type": "array", "items": NUMBER, "minItems": 4, "maxItems": 4}
    found: Schema = NAMED | {"score": SHARE, "box": box}
    what = "the best first: name, label, score, and box x1, y1, x2, y2 in pixels"
    if model["masks"]:
        found |= {"polygons": {"type": "array", "items": {"type": "array", "items": NUMBER}}}
        what += "; polygons x1, y1, x2, y2, … around the parts of its mask, the largest first, holes filled"
    return {"objects": _list(_object(found), what), "score_threshold": SHARE | {"description": "that was applied"}}


def _rows(schema: Schema) -> list[tuple[str, str, str]]:
    """Name, type and description of what an object of a schema holds."""
    rows = []
    for name, one in schema["properties"].items():
        kind = one.get("type", "text")
        kind = " or ".join(kind) if isinstance(kind, list) else kind
        rows.append((name, {"array": "list", "string": "text"}.get(kind, kind), one.get("description", "")))
    return rows
