"""The commands of ``tinyrwkv``, one file each.

``configure`` adds the options of a command to a parser, ``run`` runs it.
"""
