"""Value encodings: compiled kernels that turn rows of a CSR matrix into padded token arrays.

One file a value encoding (`bins`, `rank`, `continuous`), beside what they share: `keys` (randomness), `cells` (reading
rows, writing padded rows) and `sorting`. numpy in, numpy out, no torch.

The machine code is cached beside these files (or in numba's user-wide cache where the folder is read-only). numba
notices a change of the file that a kernel is in, not of a helper in another file: after editing a helper here, delete
`encodings/__pycache__`.
"""
