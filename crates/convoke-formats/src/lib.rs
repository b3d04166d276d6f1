//! Model files and weight formats.
