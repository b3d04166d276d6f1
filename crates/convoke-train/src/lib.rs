//! Trainer, schedules, metrics, checkpoints and run folders.
