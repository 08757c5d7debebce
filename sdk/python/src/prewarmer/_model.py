"""Base class of all models."""

# Without `from __future__ import annotations`, as in models.py.
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel, Mapping[str, Any]):
    """JSON object of the API, with attributes in snake_case, and a read-only mapping with the JSON names.

    `task.task_id` and `task["taskId"]` are equivalent. The mapping contains only the fields that were sent, as plain
    JSON values, so that `json.dumps(dict(task))` works. Fields that this version does not know are kept.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object as a dict of plain values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def __getitem__(self, key: str) -> Any:
        """Returns the plain JSON value of a field by its JSON name. Raises KeyError if the server did not send it."""
        for name, alias in self._names():
            if alias == key:
                # Unset fields of nested objects are excluded too: the server did not send them.
                return self.model_dump(mode="json", by_alias=True, exclude_unset=True, include={name})[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic yields pairs, a mapping must yield keys
        """Iterates over the JSON names of the fields that were sent."""
        return (alias for _, alias in self._names())

    def __len__(self) -> int:
        """Returns the number of fields that were sent."""
        return sum(1 for _ in self._names())

    def _names(self) -> Iterator[tuple[str, str]]:
        for name, info in type(self).model_fields.items():
            if name in self.model_fields_set:
                yield name, info.alias or name
        for name in self.model_extra or ():
            yield name, name
