"""Dicts whose entries users read but do not replace."""

from __future__ import annotations

from typing import Any


class FixedDict(dict[Any, Any]):
    """A dict whose entries stay: a step would not see others in their place."""

    what = "state arrays can be written to, but not replaced, added or removed"

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(self.what)

    __setitem__ = __delitem__ = __ior__ = setdefault = update = pop = popitem = clear = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)
