"""The hot loops, written once in the Python that Numba compiles.

``simd`` holds what Python cannot say (pointers, vector dot products, atomics), ``run`` the loop over a program, and
``pointwise``, ``matmul``, ``sparse``, ``head`` and ``wkv`` one function for each operation. Nothing here allocates,
raises or calls libm, and floating point is strict, so that every compiler and machine computes the same bits from an
int8 file.
"""
