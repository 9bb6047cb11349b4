"""The hot loops, written once in the Python that Numba compiles.

``abi`` names what these kernels and the rest of the code agree on. ``simd`` holds what Python
cannot say (pointers, vector dot products, atomics), ``tiles`` the products of several tokens,
``run`` the loop over a program, and ``pointwise``, ``matmul``, ``sparse``, ``head`` and ``wkv`` one
function for each operation. Nothing here allocates, raises or calls libm, and floating point is
strict, so that every compiler and machine computes the same bits from an int8 file.

The order of statements matters to LLVM: after a change, ``tinyrwkv-build-kernels --check`` tells
whether the objects that ship are still the same.
"""
