"""The description of the API says what the API does."""

import pytest

from tests.serve.served import Told, client_of, image_file

MODELS = [("detect", False), ("detect", True), ("localize", False), ("segment", False), ("classify", False)]


def check(value, schema, schemas):
    """Assert that a value keeps to a schema, as far as the API uses JSON Schema, and that no object has more names."""
    if "$ref" in schema:
        return check(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kinds["null"] = type(None)
    names = schema.get("type", [])
    names = names if isinstance(names, list) else [names]
    assert not names or isinstance(value, tuple(k for n in names for k in (kinds[n] if n == "number" else [kinds[n]])))
    assert value in schema.get("enum", [value])
    assert schema.get("minimum", -1e9) <= value <= schema.get("maximum", 1e9) if isinstance(value, float) else True
    if isinstance(value, dict):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for name, one in value.items():
            check(one, schema["properties"][name], schemas)
    if isinstance(value, list):
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1e9)
        for one in value:
            check(one, schema["items"], schemas)
    return True


@pytest.mark.parametrize(("task", "masks"), MODELS)
def test_answers_keep_to_it(task, masks):
    client = client_of(Told(task, masks))
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert document["openapi"] == "3.1.0"
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            content = image_file() if method == "post" else None
            for query in ("", "?preview=true") if content else ("",):
                reply = client.request(method.upper(), path + query, content=content)
                schema = entry["responses"]["200"]["content"]["application/json"]["schema"]
                check(reply.json(), schema, schemas)
    options = document["paths"]["/predict"]["post"]["parameters"]
    assert {option["name"] for option in options} == (
        {"preview"} if task in ("segment", "classify") else {"preview", "score_threshold"}
    )
    for option in options:
        value = str(option["schema"]["default"]).lower()
        assert client.post(f"/predict?{option['name']}={value}", content=image_file()).status_code == 200
    error = client.post("/predict", content=b"x")
    described = document["paths"]["/predict"]["post"]["responses"][str(error.status_code)]
    check(error.json(), described["content"]["application/json"]["schema"], schemas)


def test_the_check_sees_what_is_wrong():
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    for wrong in ({}, {"a": "1"}, {"a": 1, "b": 2}, []):
        with pytest.raises(AssertionError):
            check(wrong, schema, {})


@pytest.mark.parametrize(("task", "masks"), MODELS)
def test_people_read_it_too(task, masks):
    page = client_of(Told(task, masks), name="<b>mine</b>").get("/docs")
    assert "&lt;b&gt;mine&lt;/b&gt;" in page.text and "<b>mine" not in page.text
    for text in ("/predict", "/health", "/model", "curl -F file=@image.jpg http://127.0.0.1:8000/predict", "413"):
        assert text in page.text
    assert "<script" not in page.text
