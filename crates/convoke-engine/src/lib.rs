//! Networks as graphs, compiled to a static plan over one memory arena.
