"""Load the templates of the mails. Compiling them takes longer than anything else that is done once for a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import jinja2

from notifierd.messages.text import pad
from notifierd.model.errors import ConfigError

PARTS: Final = ("subject.txt", "txt", "html")
"""A mail's parts, by the ends of their templates' names."""


def load_templates(folder: str, language: str) -> Mapping[str, jinja2.Template]:
    """Return the template of each of PARTS: that of *folder* if it has one, else the built-in one.

    Raises:
        ConfigError: a template cannot be read.
    """
    shipped = jinja2.PackageLoader("notifierd.messages", "templates")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), shipped]) if folder else shipped,
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["pad"] = pad
    with complaining():
        templates = {part: environment.get_template(f"mail.{language}.{part}") for part in PARTS}
    for template in templates.values():
        template.globals = dict(template.globals)  # copied by each rendering: a ChainMap takes 20 times as long
    return templates


@contextmanager
def complaining() -> Iterator[None]:
    """Convert the errors that a template can cause into a ConfigError."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError((f"content.templates: {error.name}, line {error.lineno}: {error.message}",)) from error
    except (jinja2.TemplateError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError((f"content.templates: {type(error).__name__}: {error}",)) from error
