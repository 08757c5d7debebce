"""What all models have in common."""

# Without `from __future__ import annotations`, as in models.py.
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel, Mapping[str, Any]):
    """A JSON object of the API: attributes in snake_case, and a read-only mapping by its JSON names.

    `task.task_id` and `task["taskId"]` are the same. As a mapping it holds what was sent and nothing else, in plain
    JSON values, so `dict(task)` can be given to `json.dumps`. Fields that this version does not know are kept.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, as a dict of plain values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def __getitem__(self, key: str) -> Any:
        """The plain JSON value of a field by its JSON name; KeyError where the server did not send it."""
        for name, alias in self._names():
            if alias == key:
                # Unset fields of what is inside are left out too, or they would be keys that the server never sent.
                return self.model_dump(mode="json", by_alias=True, exclude_unset=True, include={name})[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic's own yields pairs, which no mapping does
        """The JSON names of what was sent."""
        return (alias for _, alias in self._names())

    def __len__(self) -> int:
        """How many fields were sent."""
        return sum(1 for _ in self._names())

    def _names(self) -> Iterator[tuple[str, str]]:
        for name, info in type(self).model_fields.items():
            if name in self.model_fields_set:
                yield name, info.alias or name
        for name in self.model_extra or ():
            yield name, name
