//! The famous architectures, one file per family.
