"""Pages and pictures rendered from templates of the package."""

from __future__ import annotations

from importlib.resources import files


def render(package: str | None, name: str, **values) -> str:
    """The Jinja2 template `name` in `package`, which is a module's `__package__`, filled with `values`, which are text:
    what HTML would read as markup is escaped. Raises UndefinedError for a missing value."""
    from jinja2 import Environment, StrictUndefined

    assert package is not None

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8")).render(values) + "\n"
