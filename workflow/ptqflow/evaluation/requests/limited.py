"""The key that every kind of task has."""

from typing import Annotated

from pydantic import Field

from ptqflow.datamodel import Model


class Limited(Model):
    """`limit`: the first n items in the order of the data set's files (perplexity: the first n windows)."""

    limit: Annotated[int, Field(ge=1)] | None = None
