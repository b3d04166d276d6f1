//! Arithmetic on slices for convoke: fast kernels, each beside a plain reference.
