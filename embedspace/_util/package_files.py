"""Files that lie in a package: texts, and Jinja templates."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def package_text(package: str, name: str) -> str:
    """Text of a file in a package's folder."""
    return files(package).joinpath(name).read_text("utf-8")


def template_environment(package: str) -> jinja2.Environment:
    """The templates in a package's folder ``templates``: values are escaped, and an unknown name is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
