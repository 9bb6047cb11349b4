"""The commands of ``tinyrwkv``, one file each: ``configure`` adds its options to a parser, ``run`` does it."""
