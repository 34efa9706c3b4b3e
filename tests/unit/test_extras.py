"""A missing extra is named in the error; a missing module of our own stays an ImportError."""

import pytest

from unstale.errors import ConfigurationError, MissingExtra
from unstale.runtime.extras import needs


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtra) as raised, needs("companion", what="The pool"):
        import no_such_package.inside  # type: ignore[import-not-found]  # noqa: F401
    assert str(raised.value) == (
        "The pool needs the package 'no_such_package', which is not installed. "
        "Install the extra 'companion': pip install 'unstale[companion]'"
    )
    assert (raised.value.extra, raised.value.package) == ("companion", "no_such_package")
    assert isinstance(raised.value, ConfigurationError)
    assert isinstance(raised.value, ImportError)


def test_the_innermost_extra_is_named() -> None:
    with pytest.raises(MissingExtra) as raised, needs("worker", what="A"), needs("mcp", what="B"):
        import no_such_package  # noqa: F401
    assert raised.value.extra == "mcp"


def test_a_missing_module_of_our_own_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"unstale\.nothing"), needs("worker", what="A"):
        import unstale.nothing  # type: ignore[import-not-found]  # noqa: F401
