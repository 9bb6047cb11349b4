"""From a JSON schema to the tree of the texts that it describes.

`reader` understands the keywords: a schema becomes branches, which `shapes` defines. `values`
writes a branch as a tree. `validity` and `apart` judge values and branches, for ``enum``, ``oneOf``
and ``not``.
"""
