//! Crowd scenes drawn by program.
