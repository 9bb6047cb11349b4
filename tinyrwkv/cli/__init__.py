"""The command line: ``tinyrwkv chat``, ``generate``, ``info`` and the others."""
